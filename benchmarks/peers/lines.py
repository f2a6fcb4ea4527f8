"""The lines by which a training script tells the harness how far it is.

One JSON object a line, `{"steps": 512, "seconds": 0.8, "return": 21.5, "episodes": 24}`. Scripts
run in environments of their own, so this module needs nothing but the standard library.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

# Where to write; the harness names a pipe. Without it lines go to the terminal.
PIPE_VARIABLE = "PEER_REPORT"
# A write of up to this many bytes into a pipe never mixes with another process's (POSIX: 512).
LINE_LIMIT = 512


@dataclass(frozen=True, slots=True)
class Line:
    """How far training is.

    Attributes:
        steps: environment steps that training has used; each is counted once.
        seconds: of the first line: since the first environment step. From there on the harness
            goes by its own clock.
        mean_return: of the last `episodes` finished episodes; None before the first.
        episodes: over how many, 100 at most.

    """

    steps: int
    seconds: float
    mean_return: float | None
    episodes: int

    @classmethod
    def parse(cls, text: str) -> Line:
        """Read a line.

        Raises:
            ValueError: it is not what a script may say; the message names the field.

        """
        try:
            fields = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a line of JSON: {text!r}") from error
        expected = {"steps", "seconds", "return", "episodes"}
        if not isinstance(fields, dict) or fields.keys() != expected:
            raise ValueError(f"not the fields {', '.join(sorted(expected))}: {text!r}")
        for name in ("steps", "episodes"):
            if type(fields[name]) is not int or fields[name] < 0:
                raise ValueError(f"{name}: {fields[name]!r} is no count")
        seconds, mean_return = fields["seconds"], fields["return"]
        if not _is_finite(seconds) or seconds < 0:
            raise ValueError(f"seconds: {seconds!r} is no duration")
        if (mean_return is None) != (fields["episodes"] == 0):
            raise ValueError(f"return: {mean_return!r} of {fields['episodes']} episodes")
        if mean_return is not None and not _is_finite(mean_return):
            raise ValueError(f"return: {mean_return!r} is no number")
        return cls(fields["steps"], float(seconds), mean_return, fields["episodes"])


def _is_finite(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


class Report:
    """Writes lines; several processes of a script may each have one."""

    def __init__(self) -> None:
        self._descriptor = os.open(
            os.environ.get(PIPE_VARIABLE, "/dev/stdout"), os.O_WRONLY | os.O_APPEND
        )
        self._start = time.monotonic()

    def start(self) -> None:
        """Say that the first environment step comes now."""
        self._start = time.monotonic()
        self.write(0, 0.0, None, 0)

    def progress(self, steps: int, returns: Sequence[float]) -> None:
        """Say how far training is.

        Args:
            steps: environment steps that training has used.
            returns: of the last finished episodes, 100 at most.

        """
        mean_return = sum(returns) / len(returns) if returns else None
        self.write(steps, time.monotonic() - self._start, mean_return, len(returns))

    def write(self, steps: int, seconds: float, mean_return: float | None, episodes: int) -> None:
        """Write a line; raises BrokenPipeError when nobody reads any more."""
        fields: dict[str, float | None] = {"steps": int(steps), "seconds": round(seconds, 4)}
        fields |= {"return": None if mean_return is None else float(mean_return)}
        fields |= {"episodes": int(episodes)}
        data = (json.dumps(fields) + "\n").encode()
        assert len(data) <= LINE_LIMIT, "a line that could mix with another"
        os.write(self._descriptor, data)


@cache
def start_once() -> None:
    """Say, in a process that steps environments, that its first step comes now."""
    Report().start()
