"""What can be said of a few training runs, by the methods of rliable.

Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice" (arXiv
2108.13264). Scores are a matrix [runs, tasks], or a list of one array a task where tasks have
different numbers of runs. The unit that is resampled is one training run, within its task.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

REPETITIONS: Final = 2000
CONFIDENCE: Final = 0.95
_TAILS: Final = (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))

Array: TypeAlias = NDArray[np.float64]
Scores: TypeAlias = Sequence[Array]
"""For each task the scores of its runs."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its confidence interval; `low` and `high` are those of the bootstrap."""

    value: float
    low: float
    high: float

    def leaves_out(self, value: float) -> bool:
        """Whether a value is not in the interval; its ends are."""
        return value < self.low or value > self.high

    @property
    def is_point(self) -> bool:
        """Whether all bootstrap samples gave the same: the runs are too few or too alike."""
        return self.low == self.high


@dataclass(frozen=True, slots=True)
class Band:
    """A curve with its confidence interval at each of its points, for itself."""

    value: Array
    low: Array
    high: Array


def interquartile_mean(scores: Scores) -> float:
    """Return the mean of the middle half of all runs of all tasks.

    Section 4.3 of the paper: the 25 % trimmed mean. As scipy's `trim_mean`, which rliable calls,
    floor(n/4) values are left out at either end.

    Raises:
        ValueError: There is no score.

    """
    return float(interquartile_curve(scores))


def interquartile_curve(curves: Scores) -> Array:
    """Return the interquartile mean at each point of curves [runs, points], one array a task.

    Raises:
        ValueError: There is no curve.

    """
    values = np.sort(np.concatenate(curves), axis=0)
    if len(values) == 0:
        raise ValueError("no scores")
    cut = len(values) // 4
    return np.asarray(values[cut : len(values) - cut].mean(axis=0))


def probability_of_improvement(scores: Scores, other: Scores) -> float:
    """Return the probability that a run is better than one of the `other`, mean over tasks.

    Section 4.3: with N and M runs, (1/NM) sum S(x, y) for each task, where S is 1 for x > y and 1/2
    for x = y, which is the Mann-Whitney U statistic over NM.
    """
    return float(np.mean([_superiority(x, y) for x, y in zip(scores, other, strict=True)]))


def performance_profile(scores: Scores, thresholds: Array) -> Array:
    """Return for each threshold the share of runs that score more; section 4.2, run-scores.

    The share is taken in each task and averaged over tasks.
    """
    shares = [np.mean(x[:, None] > thresholds[None, :], axis=0) for x in scores]
    return np.asarray(np.mean(shares, axis=0))


def estimate(
    statistic: Callable[[Sequence[Scores]], float],
    groups: Sequence[Scores],
    generator: np.random.Generator,
    repetitions: int = REPETITIONS,
) -> Estimate:
    """Return a statistic of one or more groups, with its interval by the stratified bootstrap.

    Section 4.1: in each group and each task as many runs are drawn with replacement as there are;
    the interval is that of percentiles.

    Args:
        statistic: Of the groups.
        groups: Each with its scores; drawn from independently.
        generator: Draws.
        repetitions: How many times.

    """
    resampled = zip(*(_resamples(scores, generator, repetitions) for scores in groups), strict=True)
    values = [statistic(each) for each in resampled]
    low, high = np.percentile(values, _TAILS)
    return Estimate(statistic(groups), float(low), float(high))


def band(
    statistic: Callable[[Scores], Array],
    scores: Scores,
    generator: np.random.Generator,
    repetitions: int = REPETITIONS,
) -> Band:
    """Return a curve with its band by the same bootstrap: of percentiles at each point, alone.

    Args:
        statistic: Of scores, or of curves [runs, points] one array a task; gives [points].
        scores: What is drawn from; a run is drawn with its whole curve.
        generator: Draws.
        repetitions: How many times.

    """
    values = np.stack([statistic(x) for x in _resamples(scores, generator, repetitions)])
    low, high = np.percentile(values, _TAILS, axis=0)
    return Band(statistic(scores), low, high)


def _superiority(x: Array, y: Array) -> float:
    greater = np.sum(x[:, None] > y[None, :]) + 0.5 * np.sum(x[:, None] == y[None, :])
    return float(greater) / (x.size * y.size)


def _resamples(
    scores: Scores, generator: np.random.Generator, repetitions: int
) -> Iterator[Scores]:
    """Give that many samples: of each task as many of its runs as there are, with replacement."""
    # All draws at once: thousands of small calls took longer than all the rest.
    drawn = [x[generator.integers(len(x), size=(repetitions, len(x)))] for x in scores]
    return ([x[i] for x in drawn] for i in range(repetitions))
