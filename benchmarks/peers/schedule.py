"""Whose turn it is, and how long all of it takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from benchmarks.peers.entries import Entry
from benchmarks.peers.run import Limits

# From the start of an entry to its first step, and for its end: seen of all, RLlib takes longest.
AROUND_SECONDS = 15.0

Turn = tuple[Entry, str, int]


def limits_of(entry: Entry, kind: str, limits: Mapping[str, Limits]) -> Limits:
    """Give the limits of a turn; settings that nobody published for CartPole have no threshold."""
    settings = entry.settings(kind)
    if kind == "own" and (settings is None or settings.steps is None):
        return replace(limits[kind], threshold=0.0)
    return limits[kind]


class Schedule:
    """The turns that are to be measured, round by round.

    Args:
        entries: in the order of their turns.
        kinds: of each round.
        rounds: how many.
        limits: by kind.
        measured: entry, kind and round of turns that have figures.
        seconds: no round begins that would end later, by its last one.
        clock: seconds.

    """

    def __init__(
        self,
        entries: Sequence[Entry],
        kinds: Sequence[str],
        rounds: int,
        limits: Mapping[str, Limits],
        measured: Collection[tuple[str, str, int]],
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits, self._clock = limits, clock
        self._end = clock() + seconds
        self._rounds: list[list[Turn]] = []
        for number in range(rounds):
            for kind in kinds:
                turns = [(entry, kind, number) for entry in entries if entry.settings(kind)]
                left = [turn for turn in turns if (turn[0].name, kind, number) not in measured]
                self._rounds.append(left)
        self._lasted: dict[tuple[str, str], float] = {}
        self._left = [turn for turns in self._rounds for turn in turns]

    def turns(self) -> Iterator[Turn]:
        """Give each turn, which lasts until the next is asked for."""
        for turns in self._rounds:
            if self._clock() + sum(map(self._last, turns)) > self._end:
                for entry, kind, number in turns:
                    print(f"no time for {entry.name}, {kind}, round {number}", flush=True)
                self._left = [turn for turn in self._left if turn not in turns]
                continue
            for turn in turns:
                began = self._clock()
                yield turn
                self._lasted[turn[0].name, turn[1]] = self._clock() - began
                self._left.remove(turn)

    def estimate(self) -> str:
        """Say how much is left: by each entry's last turn, by what it may take before its first."""
        seconds = sum(self._last(turn) or self._bound(turn) for turn in self._left)
        return f"{len(self._left)} turns left, up to about {seconds / 60:.0f} min"

    def _last(self, turn: Turn) -> float:
        """Seconds of the same entry's last turn of the kind; nothing before its first."""
        entry, kind, _ = turn
        return self._lasted.get((entry.name, kind), 0.0)

    def _bound(self, turn: Turn) -> float:
        entry, kind, _ = turn
        limits = limits_of(entry, kind, self._limits)
        return AROUND_SECONDS + max(limits.warmup + limits.window, limits.threshold)
