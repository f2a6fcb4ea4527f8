"""A run's past, read from its metrics and events, in bounded memory however long it was."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from vaco.metrics_file import Past, read_lines, read_metrics

from vaco_operator.local.run_directory import RunDirectory

MAX_EVENTS: Final = 10_000


@dataclass(slots=True)
class History:
    """What happened in a run.

    Attributes:
        updates: lines of metrics.jsonl that no restart undid, oldest first, thinned.
        evaluations: its evaluation events that no restart undid.
        excerpts: its events with samples to read that no restart undid, thinned.
        events: lines of events.jsonl, oldest first.
        lags: samples trained per lag in versions, over all updates.
        undone: updates that restarts undid.
        damaged: lines that could not be read.

    """

    updates: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    excerpts: list[dict[str, Any]] = field(default_factory=list)
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

    def seconds_of_version(self, version: int) -> float:
        """Return how long training had gone on when `version` was made."""
        after = bisect_right(self.updates, version, key=lambda update: int(update["version"]))
        return float(self.updates[after - 1]["train_seconds"]) if after else 0.0


def read_history(directory: RunDirectory) -> History:
    """Read the past of a run.

    Raises:
        UserError: there is no such run.

    """
    past = Past()
    for line in read_metrics(directory.metrics_file):
        past.take(line)
    history = History(
        updates=past.updates,
        evaluations=past.evaluations,
        excerpts=past.excerpts,
        lags=past.lags(),
        undone=past.undone,
        damaged=past.damaged,
    )
    history.events = _events(history, read_lines(directory.events_file))
    return history


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
