"""Whether the job has ended, and how.

The learner has the first word: when its Job is complete or was given up, that is the outcome. What
the operator itself ends a job for comes after: its deadlines, which count from its start or last
resumption, and actors that cannot live.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from vaco.errors import EXIT_OK, EXIT_PERMANENT
from vaco.job import VACOJob, VACOJobStatus
from vaco.v1 import learner_pb2 as pb

from vaco_operator.cluster.hearing import Heard, answering, ended_learner, last_words
from vaco_operator.cluster.labels import GRPC_PORT
from vaco_operator.cluster.observed import LearnerJob, Moment, Observed
from vaco_operator.cluster.pods import Pod
from vaco_operator.cluster.troubles import died
from vaco_operator.local.restarts import HEALTHY_SECONDS
from vaco_operator.status import Outcome, Trouble

_REASONS: Final = {"PodFailurePolicy": "PermanentFailure"}
"""What batch Jobs say for reasons, and how we spell it; others stay."""


def is_finished(status: VACOJobStatus | None) -> bool:
    """Whether the job was said to have ended for good; it then stays so, whatever changes."""
    return (
        status is not None
        and status.phase in ("Complete", "Failed")
        and status.completion_time is not None
    )


def outcome(
    job: VACOJob, observed: Observed, heard: Heard | None, trouble: Trouble | None, now: Moment
) -> Outcome | None:
    """Tell how the job has ended; None: it has not.

    Args:
        job: which.
        observed: what there is of it.
        heard: what its learner said last.
        trouble: what keeps it from running, to be told when a deadline is over.
        now: the time.

    """
    batch = observed.learner_job
    if batch is not None and batch.complete:
        message = heard.status.message if heard else ""
        return Outcome("Complete", "StopConditionReached", message or "Training is done.")
    if batch is not None and batch.failure is not None:
        return _given_up(batch.failure, observed)
    if job.spec.suspend:
        return None
    return _too_late(job, observed, heard, trouble, now) or _actors_die(job, observed, heard)


def running_since(status: VACOJobStatus | None, now: datetime) -> datetime:
    """Tell since when the job may run: it was started or resumed then."""
    conditions = {condition.type: condition for condition in status.conditions} if status else {}
    since = []
    for kind in ("Suspended", "Failed"):
        condition = conditions.get(kind)
        if condition is None or condition.status != "False":
            return now
        since.append(condition.last_transition_time or now)
    return max(since)


def start_deadline(job: VACOJob, observed: Observed, now: datetime) -> float | None:
    """Return the seconds that are left for the first fragment; None: it has been trained on.

    A learner that is made anew has all of the time again.
    """
    batch, status = observed.learner_job, observed.status
    if status is not None and status.phase == "Running" and not _is_anew(batch, status):
        return None
    since = running_since(status, now)
    if batch is not None and not batch.deleting:
        since = max(since, batch.created)
    return job.spec.start_deadline_seconds - (now - since).total_seconds()


def not_answering(
    job: VACOJob, observed: Observed, voice: Heard | None, now: Moment
) -> Trouble | None:
    """Say that the start deadline is over, and that nobody knows whether the job has started.

    The learner's pod is ready, so its server answers the kubelet; us it does not. What it may have
    trained is not thrown away for that.
    """
    pod = observed.learner
    if job.spec.suspend or pod is None or not pod.ready or voice is not None:
        return None
    left = start_deadline(job, observed, now.wall)
    if left is None or left > 0:
        return None
    bound = job.spec.start_deadline_seconds
    return Trouble(
        "NotAnswering",
        f"The learner's pod is ready, but the learner does not answer the operator. Whether "
        f"anything was trained on within spec.startDeadlineSeconds ({bound:g} s) is not known, so "
        f"the job goes on. Is the operator let through to port {GRPC_PORT} of the learner's pod?",
    )


def active_deadline(job: VACOJob, observed: Observed, now: datetime) -> float | None:
    """Return the seconds that the job may still run; None: there is no bound."""
    bound = job.spec.active_deadline_seconds
    if bound is None:
        return None
    return bound - (now - running_since(observed.status, now)).total_seconds()


def _is_anew(batch: LearnerJob | None, status: VACOJobStatus) -> bool:
    return batch is not None and batch.attempt > status.attempt


def _given_up(failure: tuple[str, str], observed: Observed) -> Outcome:
    reason, message = failure
    pod = ended_learner(observed)
    if pod is not None and pod.ended is not None:
        words = last_words(pod.ended)
        said = words.message if words is not None else pod.ended.last_line
        message = f"learner ended ({pod.ended.described})"
        if reason == "BackoffLimitExceeded":
            message += ", more often than spec.backoffLimit allows"
        if said:
            message += f": {said}"
    return Outcome("Failed", _REASONS.get(reason, reason) or "LearnerFailed", message)


def _too_late(
    job: VACOJob, observed: Observed, heard: Heard | None, trouble: Trouble | None, now: Moment
) -> Outcome | None:
    why = f" {trouble.message}" if trouble else ""
    left = active_deadline(job, observed, now.wall)
    if left is not None and left <= 0:
        bound = job.spec.active_deadline_seconds
        message = f"The job ran for longer than spec.activeDeadlineSeconds ({bound:g} s).{why}"
        return Outcome("Failed", "DeadlineExceeded", message)
    left = start_deadline(job, observed, now.wall)
    if left is not None and left <= 0 and not _may_train(observed, heard, now):
        bound = job.spec.start_deadline_seconds
        message = f"Nothing was trained on within spec.startDeadlineSeconds ({bound:g} s).{why}"
        return Outcome("Failed", "StartDeadlineExceeded", message)
    return None


def _may_train(observed: Observed, heard: Heard | None, now: Moment) -> bool:
    """Whether the learner says that it trains, or is there and says nothing."""
    voice, pod = answering(observed, heard, now), observed.learner
    if voice is None:
        return pod is not None and pod.ready
    return voice.status.phase not in (pb.LEARNER_PHASE_UNSPECIFIED, pb.LEARNER_PHASE_STARTING)


def _actors_die(job: VACOJob, observed: Observed, heard: Heard | None) -> Outcome | None:
    """Find an actor that cannot live: it says so itself, or it died too often in a row."""
    if heard is not None and heard.done:
        # It told the actors to go, and will itself say how the job ended.
        return None
    for pod in _dead(observed.actor_pods):
        end = pod.ended
        if end is None or end.code == EXIT_OK:
            continue
        if end.code == EXIT_PERMANENT:
            return Outcome("Failed", "PermanentFailure", died(f"actor {pod.name}", pod))
        # A restart counts for as long as the pod lives: an actor that had run well is forgiven.
        if pod.restarts > job.spec.backoff_limit and end.ran_for < HEALTHY_SECONDS:
            message = died(f"actor {pod.name}", pod)
            message += f" ({pod.restarts} restarts; spec.backoffLimit is {job.spec.backoff_limit})"
            return Outcome("Failed", "BackoffLimitExceeded", message)
    return None


def _dead(pods: Iterable[Pod]) -> Iterable[Pod]:
    """Those that are not ready and have ended before, unless they were told to go."""
    dead = [pod for pod in pods if pod.grace is None and not pod.ready and pod.ended]
    return sorted(dead, key=lambda pod: pod.name)
