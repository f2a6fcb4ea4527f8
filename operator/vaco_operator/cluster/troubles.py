"""What keeps pods of a job from being made or from starting, in the words of whoever refuses.

Most of it passes when somebody mends something (a quota is raised, an image is pushed), so none of
it ends a job: the deadline for its start does.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from vaco_operator.cluster.observed import Child, Moment, Observed
from vaco_operator.cluster.pods import Pod
from vaco_operator.status import INVALID_SPEC, Trouble

QUOTA_EXCEEDED: Final = "QuotaExceeded"
NAME_CONFLICT: Final = "NameConflict"
PODS_REFUSED: Final = "PodsRefused"
API_UNAVAILABLE: Final = "ApiUnavailable"
RETRY_SECONDS: Final = 1.0
MAX_RETRY_SECONDS: Final = 30.0
PATIENCE_SECONDS: Final = 2.0
ASK_AGAIN_SECONDS: Final = 10.0
CRASH_LOOP: Final = "CrashLoopBackOff"
NOTEWORTHY: Final = frozenset(
    {QUOTA_EXCEEDED, NAME_CONFLICT, PODS_REFUSED, INVALID_SPEC, "Forbidden", "InvalidChild"}
)
"""Reasons that nobody else tells in an event of the job's."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A child that the API server would not take, change or delete.

    Attributes:
        child: which.
        trouble: why.
        generation: of the job when it was refused; another spec may be another matter.
        times: how often in a row.
        until: monotonic second before which it is not tried again.

    """

    child: Child
    trouble: Trouble
    generation: int | None
    times: int
    until: float


class Inquiry(NamedTuple):
    """Why does this Job make no pod? Its events since then may tell."""

    job_uid: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Complaint:
    """Why the learner's Job makes no pod, as its events said at a monotonic second.

    `message` is empty when they said nothing.
    """

    job_uid: str
    message: str
    asked: float


def of_pods_refused(message: str) -> Trouble:
    """Tell from the API server's words why pods are refused."""
    return Trouble(QUOTA_EXCEEDED if "exceeded quota" in message else PODS_REFUSED, message)


def stranger(observed: Observed, job: str) -> Trouble | None:
    """Say which name of a child is taken by somebody else."""
    taken = sorted(str(child) for child in observed.strangers)
    return name_conflict(taken[0], job) if taken else None


def name_conflict(child: str, job: str) -> Trouble:
    """Say that `child` is somebody else's, and what to do."""
    return Trouble(
        NAME_CONFLICT,
        f"{child} exists and does not belong to this VACOJob; it is left as it is. "
        f"Delete it, or give the job another name than {job}.",
    )


def of_learner(
    observed: Observed, job: str, refusals: Sequence[Refusal], complaint: Complaint | None
) -> Trouble | None:
    """Say what keeps the learner from running; None: nothing does."""
    if found := stranger(observed, job):
        return found
    if refusals:
        return refusals[0].trouble
    if observed.learner is not None:
        return _of_pods("the learner", [observed.learner])
    batch = observed.learner_job
    if complaint is None or batch is None or complaint.job_uid != batch.uid:
        return None
    return of_pods_refused(complaint.message) if complaint.message else None


def of_actors(observed: Observed, desired: int) -> Trouble | None:
    """Say what keeps actors from running; None: nothing does."""
    deployment = observed.actors
    alive = [pod for pod in observed.actor_pods if pod.grace is None and not pod.over]
    if deployment is not None and deployment.refused and len(alive) < desired:
        return of_pods_refused(deployment.refused)
    return _of_pods("an actor", alive) or _of_crashes(alive)


def put_off(refusals: Iterable[Refusal], generation: int | None, now: float) -> frozenset[Child]:
    """Return what was refused so lately that trying again is of no use yet."""
    return frozenset(
        each.child for each in refusals if each.generation == generation and now < each.until
    )


def refused(
    before: Sequence[Refusal], child: Child, trouble: Trouble, generation: int | None, now: float
) -> Refusal:
    """Return what to remember of a child that was refused, perhaps not for the first time."""
    same = [each.times for each in before if (each.child, each.generation) == (child, generation)]
    times = 1 + max(same, default=0)
    # The exponent is bounded, or it would overflow one day.
    delay = min(MAX_RETRY_SECONDS, RETRY_SECONDS * 2.0 ** min(times - 1, 10))
    return Refusal(child, trouble, generation, times, now + delay)


def unexplained(
    observed: Observed, complaint: Complaint | None, now: Moment
) -> tuple[Inquiry, float] | None:
    """Return what to look into, and in how many seconds, if the learner's Job makes no pod.

    Only its events can tell why.
    """
    batch = observed.learner_job
    if batch is None or batch.suspended or batch.deleting or batch.finished:
        return None
    if batch.started is None or any(not pod.over for pod in observed.learner_pods):
        return None
    since = max([batch.started, *(pod.created for pod in observed.learner_pods)])
    left = PATIENCE_SECONDS - (now.wall - since).total_seconds()
    if complaint is not None and complaint.job_uid == batch.uid:
        # Without an answer it is probably the Job's own back-off after a learner that died.
        again = ASK_AGAIN_SECONDS if complaint.message else 3 * ASK_AGAIN_SECONDS
        left = max(left, complaint.asked + again - now.monotonic)
    return Inquiry(batch.uid, since), left


def _of_pods(whose: str, pods: Iterable[Pod]) -> Trouble | None:
    hindrances = sorted(pod.hindrance for pod in pods if pod.hindrance and not pod.started)
    if not hindrances:
        return None
    reason, message = hindrances[0]
    return Trouble(reason, f"{whose} does not start: {message or reason}")


def _of_crashes(pods: Iterable[Pod]) -> Trouble | None:
    dead = [pod for pod in pods if pod.restarts and not pod.ready and pod.ended]
    worst = max(dead, key=lambda pod: (pod.restarts, pod.name), default=None)
    if worst is None or worst.ended is None or worst.ended.code == 0:
        return None
    return Trouble(CRASH_LOOP, died(worst.name, worst))


def died(whose: str, pod: Pod) -> str:
    """Say how a pod ended, and what it said last."""
    if pod.ended is None:
        return f"{whose} ended"
    told = f"{whose} ended ({pod.ended.described})"
    return f"{told}: {pod.ended.last_line}" if pod.ended.last_line else told
