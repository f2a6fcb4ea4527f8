"""What is kept of a training run: a point of its curve for every update, and in the end one row."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from vaco_learner.windows import summarise_lags

from vaco_lab.evaluation import Evaluated

MAX_POINTS: Final = 200
"""Points of a curve that are kept; evenly spaced ones if there were more."""


TV_FLOOR: Final = 1e-4
"""What is less is drawn here: the first step of a phase has a TV of rounding, many decades down."""


@dataclass(frozen=True, slots=True)
class Point:
    """One update.

    Attributes:
        env_steps: Samples trained so far.
        return_mean: Mean return of the last 100 training episodes, or of fewer at the start; None
            before the first one ended.
        tv: Between the policy and the filter's anchor, mean over gradient steps.
        tv_max: The same, maximum over those gradient steps that `tv_per_step` has.
        tv_behaviour: Against the policy that acted.
        tv_start: Against the learner's at the start of the phase.
        filtered_share: Samples dropped, mean over gradient steps.
        over_threshold_share: Gradient steps over the filter's threshold.
        ess: Effective sample size of pi_T/beta, as a share of the samples.
        kl: KL(beta||pi).
        entropy: Of the policy, in nats.

    """

    env_steps: int
    return_mean: float | None
    tv: float
    tv_max: float
    tv_behaviour: float
    tv_start: float
    filtered_share: float
    over_threshold_share: float
    ess: float
    kl: float
    entropy: float


@dataclass(slots=True)
class TvByStep:
    """Total variation of the n-th gradient step of a phase, over all phases."""

    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    most: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    phases: int = 0

    def add(self, tv_per_step: Sequence[float]) -> None:
        """Take in one phase; all have the same number of gradient steps."""
        values = np.asarray(tv_per_step, np.float64)
        if self.phases == 0:
            self.total, self.most = np.zeros_like(values), np.zeros_like(values)
        self.total += values
        self.most = np.maximum(self.most, values)
        self.phases += 1

    def rows(self) -> list[list[float]]:
        """Return mean and maximum for each gradient step, in order."""
        mean = self.total / max(1, self.phases)
        return [[float(a), float(b)] for a, b in zip(mean, self.most, strict=True)]


def summary(points: Sequence[Point]) -> dict[str, Any]:
    """Return the columns of a row that come from its curve; means weigh all updates alike.

    Of a run that diverged in its first update they are None.
    """

    def mean(name: str) -> float | None:
        return math.fsum(getattr(p, name) for p in points) / len(points) if points else None

    return {
        "env_steps": points[-1].env_steps if points else 0,
        "updates": len(points),
        "tv_mean": mean("tv"),
        "tv_max": max((point.tv_max for point in points), default=None),
        "tv_behaviour_mean": mean("tv_behaviour"),
        "tv_start_mean": mean("tv_start"),
        "filtered_share": mean("filtered_share"),
        "over_threshold_share": mean("over_threshold_share"),
        "ess_mean": mean("ess"),
        "kl_mean": mean("kl"),
    }


def thinned(points: Sequence[Point]) -> list[Point]:
    """Return at most `MAX_POINTS` of them, evenly spaced, the last one included."""
    stride = max(1, -(-len(points) // MAX_POINTS))
    return list(points[::-1][::stride][::-1])


def point_of(env_steps: int, return_mean: float | None, stats: Mapping[str, Any]) -> Point:
    """Return the point of an update, from the fields of its `UpdateStats`."""
    names = ("tv", "tv_behaviour", "tv_start", "filtered_share", "over_threshold_share")
    rest = {name: float(stats[name]) for name in (*names, "ess", "kl", "entropy")}
    return Point(env_steps, return_mean, tv_max=max(stats["tv_per_step"]), **rest)


@dataclass(slots=True)
class Record:
    """A training run as it was measured.

    Attributes:
        points: Of every update.
        evaluations: That took place; the first before training.
        tv_by_step: Over the gradient steps of a phase.
        lags: Samples by lag in versions.
        outcome: `complete`, or `diverged`: a loss or a gradient was not finite.
        seconds: The training took, evaluations aside.
        evaluation_seconds: These took.

    """

    points: list[Point] = field(default_factory=list)
    evaluations: list[Evaluated] = field(default_factory=list)
    tv_by_step: TvByStep = field(default_factory=TvByStep)
    lags: Counter[int] = field(default_factory=Counter)
    outcome: str = "complete"
    seconds: float = 0.0
    evaluation_seconds: float = 0.0

    def count_lags(self, lags: NDArray[np.int64], samples: NDArray[np.int64]) -> None:
        """Count that many samples of these lags."""
        for lag, count in zip(lags.tolist(), samples.tolist(), strict=True):
            self.lags[int(lag)] += int(count)

    def row(self) -> dict[str, Any]:
        """Return the columns of its row but those that come from its evaluations."""
        lags = sorted(self.lags)
        told = summarise_lags(np.array(lags, np.int64), np.array([self.lags[n] for n in lags]))
        return {
            "outcome": self.outcome,
            **summary(self.points),
            "lag_p50": told.p50,
            "lag_p95": told.p95,
            "lag_max": told.max,
            "seconds": self.seconds,
            "evaluation_seconds": self.evaluation_seconds,
        }

    def curve(self) -> list[dict[str, Any]]:
        """Return its curve, thinned, as plain values."""
        return [asdict(point) for point in thinned(self.points)]
