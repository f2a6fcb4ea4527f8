"""Pods that were told to go, and for how long already.

Until when they may stay is written on them by the API server's clock, from which the operator's
may differ by more than any grace. So seconds are counted here, from when this process first saw
that a pod was told to go. The next operator counts anew: rather too long than too short.
"""

from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from vaco_operator.cluster.observed import Observed
from vaco_operator.cluster.pods import Pod

STUCK_SECONDS: Final = 60.0
"""A pod that is there for so long after its grace is over will not go by itself."""

Leaving: TypeAlias = Mapping[str, float]
"""At which monotonic second a pod was first seen to have been told to go, by its uid."""


def leaving(observed: Observed, known: Leaving, now: float) -> Leaving:
    """Return who goes, given who was known to go."""
    return {pod.uid: known.get(pod.uid, now) for pod in observed.pods if pod.grace is not None}


def grace_left(pod: Pod, since: Leaving, now: float) -> float:
    """Return the seconds that a pod still has; infinite: it was not told to go."""
    return float("inf") if pod.grace is None else since[pod.uid] + pod.grace - now


def stuck_in(pod: Pod, since: Leaving, now: float) -> float:
    """Return the seconds until a pod counts as stuck; infinite: it was not told to go."""
    return grace_left(pod, since, now) + STUCK_SECONDS


def appointments(observed: Observed, since: Leaving, now: float) -> Iterator[float]:
    """Yield the seconds until a grace is over or a pod counts as stuck."""
    for pod in observed.pods:
        if pod.grace is None or pod.over:
            continue
        left = grace_left(pod, since, now)
        yield from (due for due in (left, left + STUCK_SECONDS) if due > 0)
