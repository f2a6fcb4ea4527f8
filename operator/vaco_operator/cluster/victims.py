"""Which actors go first when there are to be fewer.

Kubernetes itself takes pods that are not running before those that are not ready, and those before
the others; among equals the one of the lowest deletion cost. So the operator writes costs on the
victims of its choice: actors that the learner does not see first, then those whose data lags most.
It writes them just before a scale-down, and from the look that first sees them on the pods it waits
for a while: whoever deletes the pods learns of both on different ways.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from vaco.v1 import learner_pb2 as pb

from vaco_operator.cluster.pods import Pod

SEEN_SECONDS: Final = 0.2
"""What whoever deletes the pods has to learn of their costs, after we did."""
MARK_SECONDS: Final = 5.0
"""Costs that are not seen on the pods for so long are no longer waited for."""


@dataclass(frozen=True, slots=True)
class Marking:
    """What a scale-down to `target` costs: chosen once, at the monotonic second `since`.

    `seen` is the monotonic second at which all costs were first seen on their pods; None: not yet.
    """

    target: int
    costs: tuple[tuple[str, int], ...]
    since: float
    seen: float | None = None


def choose(
    pods: Iterable[Pod], target: int, said: pb.GetStatusResponse | None, now: float
) -> Marking:
    """Choose who goes when only `target` of `pods` may stay; who stays costs nothing special."""
    accounts = {account.actor_id: account for account in said.actors} if said else {}
    ranked = sorted(_alive(pods), key=lambda pod: _rank(pod, accounts))
    victims = len(ranked) - target
    costs = {pod.name: place - victims for place, pod in enumerate(ranked) if place < victims}
    return Marking(target, tuple((pod.name, costs.get(pod.name, 0)) for pod in ranked), now)


def still_holds(marking: Marking, target: int, pods: Iterable[Pod]) -> bool:
    """Whether a choice is still one: of this scale-down, and all those chosen are there."""
    there = {pod.name for pod in _alive(pods)}
    return marking.target == target and all(name in there for name, _ in marking.costs)


def unmarked(marking: Marking, pods: Iterable[Pod]) -> dict[str, int]:
    """Return the costs that are not yet on their pods, by the names of the pods."""
    costs = dict(marking.costs)
    return {
        pod.name: costs[pod.name]
        for pod in _alive(pods)
        if pod.name in costs and pod.cost != costs[pod.name]
    }


def _alive(pods: Iterable[Pod]) -> list[Pod]:
    return [pod for pod in pods if pod.grace is None and not pod.over]


def _rank(
    pod: Pod, accounts: Mapping[str, pb.ActorAccount]
) -> tuple[bool, bool, bool, float, float, str]:
    """Sort key: who is least missed comes first, and of equals the youngest."""
    account = accounts.get(pod.name)
    connected = account is not None and account.connected
    lag = account.lag_p95 if account is not None else 0.0
    return (pod.started, pod.ready, connected, -lag, -pod.created.timestamp(), pod.name)
