"""What is said of a job that has not ended before: the view of it, as the status has it."""

from vaco_operator.cluster import attempts, labels
from vaco_operator.cluster.resources import JOBS, Document
from vaco_operator.cluster.view import View
from vaco_operator.status import Observation


def seen(view: View, children: tuple[Document, ...] = ()) -> Observation:
    """Say what is seen of a job when these children are made."""
    scaler, pod = view.scale.scaler, view.observed.learner
    return Observation(
        learner=view.heard.status if view.heard else None,
        unavailable=_unavailable(view),
        desired=scaler.desired,
        ready=view.scale.ready,
        scaling_events=scaler.events,
        scaling_reason=scaler.reason,
        limit=scaler.limit,
        learner_restarts=attempts.restarts(view.observed),
        pending=pod is None or not pod.started,
        suspending=_suspending(view),
        trouble=view.trouble,
        shortage=view.shortage if view.scale.ready < scaler.desired else None,
        attempt=_attempt_made(view, children),
        selector=labels.actor_selector(view.job.metadata.name),
        requested=view.scale.requested,
    )


def _attempt_made(view: View, children: tuple[Document, ...]) -> int:
    """Return the number of the learner's newest Job, counting one that is made now."""
    batch = view.observed.learner_job
    if batch is not None:
        return max(batch.attempt, view.before.attempt)
    made = not view.memory.refusals and any(child["kind"] == JOBS.kind for child in children)
    return view.attempt.number if made else view.before.attempt


def _unavailable(view: View) -> str:
    """Say in one word why the learner does not answer."""
    if view.voice is not None:
        return ""
    pod, heard = view.observed.learner, view.heard
    if view.job.spec.suspend:
        return "Suspending"
    if pod is None or not pod.started:
        return "Restarting" if view.before.phase == "Running" else "Pending"
    return "NotAnswering" if heard is not None and heard.pod == pod.uid else "Starting"


def _suspending(view: View) -> str:
    if not view.job.spec.suspend:
        return ""
    left = len(view.observed.actors_left)
    if left:
        return f"Suspending: {left} actors send what they have."
    return "Suspending: the learner checkpoints."
