"""Child processes of the local runner: started apart, logged, and never left behind.

Each child leads a process group of its own, so that Ctrl-C in the terminal reaches only the runner,
which then drains in order; when a child has ended, whatever it started goes with it. A child whose
runner dies is killed by the kernel (see `_guard`): what it had not checkpointed is resumed from the
checkpoint, which is simpler and surer than an orphan that tidies up.
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Self

from vaco_operator.local import _guard

MAX_LOG_BYTES: Final = 64 << 20
"""A log that has grown beyond this is put aside at the next start; one such is kept."""
_TAIL_BYTES: Final = 16 << 10


class Process:
    """One child: running, or ended with an exit code. Its group is empty once it has ended."""

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path, since: int) -> None:
        self.name = name
        self.log = log
        self._popen = popen
        self._since = since

    @classmethod
    def start(
        cls,
        name: str,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        keep_open: Sequence[int] = (),
    ) -> Self:
        """Start `command`; its standard output and error are appended to `log`.

        Args:
            name: what to call it.
            command: program and arguments.
            log: where its output goes.
            environment: added to this process's own.
            keep_open: file descriptors it inherits.

        """
        log.parent.mkdir(parents=True, exist_ok=True)
        if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as output:
            since = output.tell()
            popen = subprocess.Popen(  # noqa: S603
                _guard.guarded(list(command)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
                pass_fds=keep_open,
                start_new_session=True,
            )
        return cls(name, popen, log, since)

    @property
    def pid(self) -> int:
        """Process id, and id of its group."""
        return self._popen.pid

    def exit_code(self) -> int | None:
        """Return how it ended (a signal's number, negated, if by a signal); None: it runs."""
        if self._popen.returncode is None and self._has_ended():
            # Before the child is reaped: until then nobody else can be given its group's id.
            self._kill_group()
            self._popen.wait()
        return self._popen.returncode

    def terminate(self) -> None:
        """Ask it to finish; its own children are its own affair."""
        if self.exit_code() is None:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """End it and everything it started; it has ended when `exit_code` says so."""
        if self.exit_code() is None:
            self._kill_group()

    def last_words(self, lines: int = 20) -> str:
        """Return the end of what it wrote to its log."""
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._since, size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
        return "\n".join(text.splitlines()[-lines:])

    def _has_ended(self) -> bool:
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, flags) is not None

    def _kill_group(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            # The group is empty already.
            return


def describe_exit(code: int) -> str:
    """Say how a process ended, in words."""
    if code >= 0:
        return f"exit status {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
