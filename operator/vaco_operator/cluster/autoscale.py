"""How many actors there shall be now, and what is to be done before there are fewer.

The number is `scaler`'s to decide, as in a local run. Here is only what is a cluster's: what was
decided is kept in the job's status, so that an operator that starts anew goes on from there; a
change of `spec.actors.replicas`, however it came about, is a request; and the Deployment gets a
smaller number only after the victims are marked.
"""

from dataclasses import dataclass, replace

from vaco.job import VACOJob, VACOJobStatus

from vaco_operator.cluster.hearing import Heard
from vaco_operator.cluster.observed import Moment, Observed
from vaco_operator.cluster.victims import (
    MARK_SECONDS,
    SEEN_SECONDS,
    Marking,
    choose,
    still_holds,
    unmarked,
)
from vaco_operator.scaler import Scaler
from vaco_operator.scaling import Signals


@dataclass(frozen=True, slots=True)
class Scale:
    """How many actors there are and shall be.

    Attributes:
        scaler: what was decided, and why.
        requested: the `spec.actors.replicas` that was acted on.
        ready: actors that the learner says are connected.
        replicas: what the Deployment is told now.
        marking: who goes, if there are to be fewer.
        costs: deletion costs to be written on pods, by their names.

    """

    scaler: Scaler
    requested: int
    ready: int
    replicas: int
    marking: Marking | None
    costs: dict[str, int]


def scale(
    job: VACOJob,
    observed: Observed,
    scaler: Scaler | None,
    marking: Marking | None,
    answering: Heard | None,
    now: Moment,
) -> Scale:
    """Decide.

    Args:
        job: whose actors they are.
        observed: what there is of it.
        scaler: what was decided before; None: by an operator that is gone, or not at all.
        marking: who was chosen to go, in a scale-down that has not happened yet.
        answering: what the learner says now; None: nothing.
        now: the time.

    """
    asked = job.spec.actors.replicas
    scaler = scaler.governed_by(job.spec) if scaler else _begun(job, observed.status, now)
    ready = _ready(observed, answering)
    if _is_request(job, observed.status, scaler):
        scaler, _ = scaler.ask(asked, now.monotonic)
    elif not job.spec.suspend and not (answering and answering.done):
        scaler, _ = scaler.review(ready, _signals(answering, now), now.monotonic)
    if job.spec.suspend:
        return Scale(scaler, asked, ready, 0, None, {})
    replicas, marking, costs = _approach(observed, scaler.desired, marking, answering, now)
    return Scale(scaler, asked, ready, replicas, marking, costs)


def _begun(job: VACOJob, status: VACOJobStatus | None, now: Moment) -> Scaler:
    """Go on from what is written in the status, or begin as the job asks for."""
    if status is None or status.scaling.requested is None or not status.actors.desired:
        scaler = Scaler.begin(job.spec, job.spec.actors.replicas, events=0)
        # There is nothing to decide on yet, and what became of the request should be seen.
        return replace(scaler, due=now.monotonic + scaler.interval)
    scaling = status.scaling
    limits = [c.reason for c in status.conditions if c.type == "ScalingLimited"]
    known = ("MinReplicas", "MaxReplicas", "RateLimit")
    limit = limits[0] if limits and limits[0] in known else ""
    # Not `begin`, which clamps in silence: the first decision does, and counts it as a change.
    scaler = Scaler.begin(job.spec, status.actors.desired, scaling.events)
    return replace(scaler, desired=status.actors.desired, reason=scaling.last_reason, limit=limit)


def _is_request(job: VACOJob, status: VACOJobStatus | None, scaler: Scaler) -> bool:
    """Whether somebody asks for another number than was acted on."""
    asked = job.spec.actors.replicas
    if status is None or status.scaling.requested is None:
        return False
    if job.spec.autoscaling.mode == "auto":
        return asked != status.scaling.requested
    return asked != status.scaling.requested or scaler.policy.clamp(asked)[0] != scaler.desired


def _ready(observed: Observed, answering: Heard | None) -> int:
    if answering is None:
        return 0
    alive = {pod.name for pod in observed.actor_pods if pod.grace is None and not pod.over}
    connected = {actor.actor_id for actor in answering.status.actors if actor.connected}
    return len(alive & connected)


def _signals(answering: Heard | None, now: Moment) -> Signals | None:
    if answering is None:
        return None
    signals = answering.signals
    return replace(signals, age_seconds=signals.age_seconds + now.monotonic - answering.at)


def _approach(
    observed: Observed,
    desired: int,
    marking: Marking | None,
    answering: Heard | None,
    now: Moment,
) -> tuple[int, Marking | None, dict[str, int]]:
    """Return what the Deployment is told on the way to `desired`."""
    deployment = observed.actors
    if deployment is None or deployment.replicas <= desired:
        return desired, None, {}
    pods = observed.actor_pods
    if marking is None or not still_holds(marking, desired, pods):
        since = marking.since if marking and marking.target == desired else now.monotonic
        said = answering.status if answering else None
        marking = replace(choose(pods, desired, said, now.monotonic), since=since)
    costs = unmarked(marking, pods)
    if not costs and marking.seen is None:
        marking = replace(marking, seen=now.monotonic)
    known = marking.seen is not None and now.monotonic - marking.seen >= SEEN_SECONDS
    if known or now.monotonic - marking.since >= MARK_SECONDS:
        return desired, marking, {}
    return deployment.replicas, marking, costs
