"""How far a run is: its share of the way to the stop condition that is nearest."""

from dataclasses import dataclass
from typing import Final

from vaco.job import StopSpec, VACOJobStatus

from vaco_operator.display.words import CONTROL, Words


@dataclass(frozen=True, slots=True)
class Progress:
    """Share of the way, 0 to 1, and what it is measured by.

    `missed` says so of a run that is complete without the return it was to reach.
    """

    share: float
    text: str
    missed: str = ""


def progress(
    stop: StopSpec, status: VACOJobStatus, first_return: float | None, words: Words = CONTROL
) -> Progress:
    """Return the greatest share of all stop conditions: any of them ends the run.

    Args:
        stop: the conditions; at least one is given.
        status: of the run.
        first_return: the return that training began with; a goal's share is measured from there.
        words: that fit the job.

    """
    ways = []
    if stop.return_ is not None:
        goal, now = stop.return_.mean, status.return_mean
        text = f"{words.earned} {'-' if now is None else f'{now:.4g}'} of {goal:g}"
        ways.append(Progress(_share_of_goal(now, first_return, goal), text))
    if stop.env_steps is not None:
        text = f"{status.env_steps:,} of {stop.env_steps:,} {words.samples}"
        ways.append(Progress(status.env_steps / stop.env_steps, text))
    if stop.wall_clock_seconds is not None:
        text = f"{status.train_seconds:.0f} of {stop.wall_clock_seconds:.0f} s"
        ways.append(Progress(status.train_seconds / stop.wall_clock_seconds, text))
    nearest = max(ways, key=lambda way: way.share)
    missed = _missed(stop, status, words)
    return Progress(min(1.0, max(0.0, nearest.share)), nearest.text, missed)


def _missed(stop: StopSpec, status: VACOJobStatus, words: Words) -> str:
    goal, reached = stop.return_, status.return_mean
    if status.phase != "Complete" or goal is None:
        return ""
    if reached is not None and reached >= goal.mean:
        return ""
    return f"{words.earned} goal of {goal.mean:g} missed"


def _share_of_goal(now: float | None, first: float | None, goal: float) -> float:
    if now is None or first is None:
        return 0.0
    if now >= goal:
        return 1.0
    return (now - first) / (goal - first) if first < goal else 0.0


CURVE_POINTS: Final = 64


class Journey:
    """A run as it was seen so far: where it began, and its curve, thinned to a bound.

    Args:
        stop: the conditions under which it ends.
        first_return: the return that it began with, if an earlier run had seen it.
        words: that fit the job. Where answers are right or wrong, the curve is of the accuracy.

    """

    def __init__(
        self, stop: StopSpec, first_return: float | None = None, words: Words = CONTROL
    ) -> None:
        self._stop = stop
        self._at = -1
        self._every = 1
        self._skipped = 0
        self.words = words
        self.first_return = first_return
        self.curve: list[float] = []

    def see(self, status: VACOJobStatus) -> Progress:
        """Take note of a status; returns how far it is."""
        if self.first_return is None:
            self.first_return = status.return_mean
        at, value = self._point(status)
        if value is not None and at != self._at:
            self._at = at
            self._keep(value)
        return progress(self._stop, status, self.first_return, self.words)

    def _point(self, status: VACOJobStatus) -> tuple[int, float | None]:
        """Return a point of the curve: after how many samples, and how high."""
        if not self.words.accurate:
            return status.env_steps, status.return_mean
        accuracy, evaluation = status.accuracy, status.evaluation
        return evaluation.env_steps if evaluation else 0, accuracy.latest if accuracy else None

    def _keep(self, value: float) -> None:
        self._skipped += 1
        if self._skipped < self._every:
            return
        self._skipped = 0
        self.curve.append(value)
        if len(self.curve) == 2 * CURVE_POINTS:
            self.curve = self.curve[1::2]
            self._every *= 2
