"""Measurements over the recent past: lag, rates, returns. Pure, and bounded."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class LagSummary:
    """Percentiles of the lag in versions; all zero before anything was trained."""

    p50: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0


def summarise_lags(lags: NDArray[np.int64], weights: NDArray[np.int64]) -> LagSummary:
    """Return the percentiles of lags that occur `weights` times each.

    The q-th percentile is the smallest lag that at least q percent of the samples do not exceed.
    """
    if weights.sum() == 0:
        return LagSummary()
    order = np.argsort(lags)
    shares = np.cumsum(weights[order]) / weights.sum()
    ranked = lags[order]

    def percentile(share: float) -> float:
        index = int(np.searchsorted(shares, share - _ROUNDING))
        return float(ranked[min(index, len(ranked) - 1)])

    occurring = ranked[weights[order] > 0]
    return LagSummary(percentile(0.5), percentile(0.95), percentile(0.99), float(occurring[-1]))


class LagWindow:
    """The lag of recently trained samples.

    Args:
        batches: how many of the newest batches count.

    """

    def __init__(self, batches: int = 32) -> None:
        self._batches: deque[tuple[NDArray[np.int64], NDArray[np.int64]]] = deque(maxlen=batches)

    def add(self, lags: NDArray[np.int64], weights: NDArray[np.int64]) -> None:
        """Take in one batch: lags in versions, and how many samples had each."""
        self._batches.append((lags, weights))

    def summary(self) -> LagSummary:
        """Return the percentiles over the window, by samples."""
        if not self._batches:
            return LagSummary()
        lags, weights = zip(*self._batches, strict=True)
        return summarise_lags(np.concatenate(lags), np.concatenate(weights))

    def newest(self) -> list[tuple[int, int]]:
        """Return the newest batch's histogram: (lag in versions, samples), lags ascending."""
        if not self._batches:
            return []
        lags, weights = self._batches[-1]
        occurring, place = np.unique(lags, return_inverse=True)
        samples = np.bincount(place, weights).astype(np.int64)
        return list(zip(occurring.tolist(), samples.tolist(), strict=True))


class RateWindow:
    """Amount per second over recent spans of time.

    Args:
        seconds: spans that make up the newest so many seconds count (and at least one does).
        spans: how many are remembered at most.

    """

    def __init__(self, seconds: float, spans: int = 1024) -> None:
        self._window = seconds
        self._spans: deque[tuple[float, float]] = deque(maxlen=spans)
        self._amount = 0.0
        self._seconds = 0.0

    def add(self, amount: float, seconds: float) -> None:
        """Take in a span in which `amount` was done in `seconds`."""
        if len(self._spans) == self._spans.maxlen:
            self._drop()
        self._spans.append((amount, seconds))
        self._amount += amount
        self._seconds += seconds
        while len(self._spans) > 1 and self._seconds - self._spans[0][1] >= self._window:
            self._drop()

    def rate(self) -> float:
        """Return the amount per second; 0: not known yet."""
        return self._amount / self._seconds if self._seconds > 0 else 0.0

    def _drop(self) -> None:
        amount, seconds = self._spans.popleft()
        self._amount -= amount
        self._seconds -= seconds


class ReturnWindow:
    """The returns of the last episodes.

    Args:
        episodes: how many.
        returns: of earlier episodes, oldest first.
        ended: episodes that ended so far.

    """

    def __init__(self, episodes: int, returns: Iterable[float] = (), ended: int = 0) -> None:
        self._returns: deque[float] = deque(returns, maxlen=episodes)
        self.ended = ended

    def add(self, returns: Iterable[float]) -> None:
        """Take in what ended in a batch: by fragment, by environment, then by time."""
        added = [float(value) for value in returns]
        self._returns.extend(added)
        self.ended += len(added)

    @property
    def full(self) -> bool:
        """Whether as many episodes ended as the window holds."""
        return len(self._returns) == self._returns.maxlen

    @property
    def episodes(self) -> int:
        """How many episodes the mean is over."""
        return len(self._returns)

    @property
    def mean(self) -> float | None:
        """Mean return; None before the first episode ended."""
        return sum(self._returns) / len(self._returns) if self._returns else None

    def returns(self) -> list[float]:
        """Return the window's returns, oldest first."""
        return list(self._returns)
