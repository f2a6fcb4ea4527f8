"""What can be said of a few training runs, by the methods of rliable.

Agarwal et al. 2021, "Deep reinforcement learning at the edge of the statistical precipice" (arXiv
2108.13264). Scores are a matrix [runs, tasks], or a list of one array a task where tasks have
different numbers of runs. The unit that is resampled is one training run, within its task.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

REPETITIONS: Final = 2000
CONFIDENCE: Final = 0.95

Array: TypeAlias = NDArray[np.float64]
Scores: TypeAlias = Sequence[Array]
"""For each task the scores of its runs."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its confidence interval; `low` and `high` are those of the bootstrap."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: Scores) -> float:
    """Return the mean of the middle half of all runs of all tasks.

    Section 4.3 of the paper: the 25 % trimmed mean. As scipy's `trim_mean`, which rliable calls,
    floor(n/4) values are left out at either end.

    Raises:
        ValueError: There is no score.

    """
    values = np.sort(np.concatenate(scores))
    if values.size == 0:
        raise ValueError("no scores")
    cut = values.size // 4
    return float(values[cut : values.size - cut].mean())


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
    values = np.empty(repetitions)
    for i in range(repetitions):
        values[i] = statistic([_resampled(scores, generator) for scores in groups])
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(values, [tail, 100 - tail])
    return Estimate(statistic(groups), float(low), float(high))


def _superiority(x: Array, y: Array) -> float:
    greater = np.sum(x[:, None] > y[None, :]) + 0.5 * np.sum(x[:, None] == y[None, :])
    return float(greater) / (x.size * y.size)


def _resampled(scores: Scores, generator: np.random.Generator) -> Scores:
    return [x[generator.integers(x.size, size=x.size)] for x in scores]
