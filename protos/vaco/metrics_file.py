"""What training measured, on the disk: one line per update, and a past that stays bounded.

    metrics.jsonl        the newest updates and events, each in full; appended to by the learner
    metrics.1.jsonl      those before them, in full
    metrics.past.jsonl   all that came before metrics.jsonl, thinned

An event `restored` in between tells which updates a restart of the learner undid: those of versions
above its checkpoint. Whoever reads the past and then the newest has seen the whole run once.
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

MAX_UPDATES: Final = 4096
MAX_EVALUATIONS: Final = 4096
MAX_EXCERPTS: Final = 256
_PAST: Final = "past"
_COUNT: Final = "updates"
_LAGS: Final = "lag_samples"


def before_file(metrics: Path) -> Path:
    """Return where the updates before those of metrics.jsonl are, in full."""
    return metrics.with_suffix(".1.jsonl")


def past_file(metrics: Path) -> Path:
    """Return where all that came before metrics.jsonl is, thinned."""
    return metrics.with_suffix(".past.jsonl")


def read_metrics(metrics: Path) -> Iterator[dict[str, Any] | None]:
    """Yield the lines of a whole run, as far as they are kept; None for a damaged one."""
    yield from read_lines(past_file(metrics))
    yield from read_lines(metrics)


def read_lines(path: Path) -> Iterator[dict[str, Any] | None]:
    """Yield the objects of a JSON-lines file; None for a line whose writer was killed within it."""
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    with file:
        for line in file:
            try:
                value = json.loads(line)
            except ValueError:
                yield None
            else:
                yield value if isinstance(value, dict) else None


class Past:
    """What a run stands on, in bounded memory however long it was.

    Neighbouring updates are merged into the later one, such that each stands for about as many and
    at most `max_updates` are held: it keeps its own figures, except that lag is counted over all
    of them. What a restart undid is left out.

    Args:
        max_updates: how many are held.

    Attributes:
        updates: what is held of the updates, oldest first.
        evaluations: evaluation events, oldest first.
        excerpts: events with samples to read, oldest first.
        undone: updates that restarts undid.
        damaged: lines that could not be read.

    """

    def __init__(self, max_updates: int = MAX_UPDATES) -> None:
        self.updates: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.excerpts: list[dict[str, Any]] = []
        self.undone = 0
        self.damaged = 0
        self._max_updates = max_updates
        self._stride = 1

    def take(self, line: dict[str, Any] | None) -> None:
        """Take in the next line of metrics.jsonl, or of `lines`; None: a damaged one."""
        if line is None:
            self.damaged += 1
            return
        match line.get("event"):
            case "restored":
                self._undo(int(line.get("checkpoint_version", 0)))
            case "evaluation":
                self.evaluations.append(line)
                if len(self.evaluations) > MAX_EVALUATIONS:
                    self.evaluations = self.evaluations[::2]
            case "excerpts":
                self.excerpts.append(line)
                if len(self.excerpts) > MAX_EXCERPTS:
                    self.excerpts = self.excerpts[::2]
            case str(event) if event == _PAST:
                self.undone += int(line["undone"])
                self.damaged += int(line["damaged"])
            case None if _is_update(line):
                line.pop("fragments", None)
                self._add(line)
                self._thin()

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield what another `Past` can take instead of all that this one took."""
        yield {"event": _PAST, "undone": self.undone, "damaged": self.damaged}
        yield from self.updates
        yield from self.evaluations
        yield from self.excerpts

    def lags(self) -> Counter[int]:
        """Return the samples trained per lag in versions."""
        total: Counter[int] = Counter()
        for update in self.updates:
            for lag, samples in update.get(_LAGS, ()):
                total[int(lag)] += int(samples)
        return total

    def _undo(self, checkpoint_version: int) -> None:
        undone = [u for u in self.updates if u["version"] > checkpoint_version]
        self.undone += sum(_count(update) for update in undone)
        self.updates = [u for u in self.updates if u["version"] <= checkpoint_version]
        self.evaluations = _before(self.evaluations, checkpoint_version)
        self.excerpts = _before(self.excerpts, checkpoint_version)

    def _add(self, update: dict[str, Any]) -> None:
        last = self.updates[-1] if self.updates else None
        if last is None or _count(last) >= self._stride:
            self.updates.append(update)
        else:
            _merge(last, update)
            self.updates[-1] = update

    def _thin(self) -> None:
        while len(self.updates) > self._max_updates:
            self._stride *= 2
            held, self.updates = self.updates, []
            for update in held:
                self._add(update)


def _before(events: list[dict[str, Any]], checkpoint_version: int) -> list[dict[str, Any]]:
    return [event for event in events if event.get("version", 0) <= checkpoint_version]


def _merge(earlier: dict[str, Any], later: dict[str, Any]) -> None:
    """Let `later` stand for `earlier` as well."""
    lags = dict(earlier.get(_LAGS, ()))
    for lag, samples in later.get(_LAGS, ()):
        lags[lag] = lags.get(lag, 0) + samples
    later[_LAGS] = sorted(lags.items())
    later[_COUNT] = _count(earlier) + _count(later)


def _count(update: dict[str, Any]) -> int:
    return int(update.get(_COUNT, 1))


def _is_update(line: dict[str, Any]) -> bool:
    return all(
        isinstance(line.get(name), int | float)
        for name in ("time", "version", "env_steps", "train_seconds")
    )
