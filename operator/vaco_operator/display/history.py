"""A run's past, read from its metrics and events, in bounded memory however long it was.

Updates that a crashed learner had made after its last checkpoint were undone by its restart, and
are left out. Of what remains, every n-th update is kept, n a power of two, so that at most
`MAX_UPDATES` are in memory; lag is counted over all of them.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from vaco_operator.local.run_directory import RunDirectory, read_lines

MAX_UPDATES: Final = 4096
MAX_EVENTS: Final = 10_000


@dataclass(slots=True)
class History:
    """What happened in a run.

    Attributes:
        updates: lines of metrics.jsonl, oldest first, thinned.
        evaluations: its evaluation events.
        events: lines of events.jsonl, oldest first.
        lags: samples trained per lag in versions.
        undone: updates that restarts undid, as far as they were still in memory.
        damaged: lines that could not be read.

    """

    updates: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    lags: Counter[int] = field(default_factory=Counter)
    undone: int = 0
    damaged: int = 0

    def series(self, *path: str) -> list[float | None]:
        """Return one number per update, such as `series("lag", "p50")`; None where it has none."""
        return [_number(update, path) for update in self.updates]

    def train_seconds(self, time: float) -> float:
        """Return how long training had gone on at `time` (seconds since 1970), by the updates."""
        after = bisect_right(self.updates, time, key=lambda update: float(update["time"]))
        if after == 0:
            return 0.0
        last = self.updates[after - 1]
        seconds = float(last["train_seconds"])
        if after == len(self.updates):
            return seconds
        # Between two runs of the same directory time passes, but no training.
        end = float(self.updates[after]["train_seconds"])
        return min(end, seconds + time - float(last["time"]))


def read_history(directory: RunDirectory) -> History:
    """Read the past of a run.

    Raises:
        UserError: there is no such run.

    """
    history = History()
    stride, skipped = 1, 0
    newest: dict[str, Any] | None = None
    for line in read_lines(directory.metrics_file):
        if line is None:
            history.damaged += 1
        elif line.get("event") == "restored":
            newest = None
            _undo(history, int(line.get("checkpoint_version", 0)))
        elif line.get("event") == "evaluation":
            history.evaluations.append(line)
        elif _is_update(line):
            line.pop("fragments", None)
            _count_lags(history.lags, line)
            newest, skipped = line, skipped + 1
            if skipped >= stride:
                skipped = 0
                history.updates.append(line)
            if len(history.updates) >= MAX_UPDATES:
                history.updates = history.updates[::2]
                stride *= 2
    if newest is not None and (not history.updates or history.updates[-1] is not newest):
        history.updates.append(newest)
    history.events = _events(history, read_lines(directory.events_file))
    return history


def _is_update(line: dict[str, Any]) -> bool:
    return all(
        isinstance(line.get(name), int | float)
        for name in ("time", "version", "env_steps", "train_seconds")
    )


def _undo(history: History, checkpoint_version: int) -> None:
    kept = [u for u in history.updates if u["version"] <= checkpoint_version]
    history.undone += len(history.updates) - len(kept)
    history.updates = kept


def _count_lags(lags: Counter[int], update: dict[str, Any]) -> None:
    for lag, samples in update.pop("lag_samples", ()):
        lags[int(lag)] += int(samples)


def _events(history: History, lines: Iterable[dict[str, Any] | None]) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    for line in lines:
        if line is None or not isinstance(line.get("time"), int | float):
            history.damaged += 1
        elif len(events) < MAX_EVENTS:
            events.append(line)
    return events


def _number(update: dict[str, Any], path: tuple[str, ...]) -> float | None:
    value: Any = update
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) else None
