"""What is worth an event: the difference between two statuses of a job.

An event follows from what is written down before and after, so it is told once for each change,
however often the job is looked at and whoever looked at it before.
"""

from collections.abc import Iterator
from typing import Final

from vaco.job import Condition, VACOJob, VACOJobStatus

from vaco_operator.cluster.steps import Note
from vaco_operator.cluster.troubles import NOTEWORTHY

NO_STORAGE: Final = (
    "spec.learner.storage is not set: checkpoints end with the learner's pod, and a learner that "
    "moves to another node begins anew."
)


def transitions(
    job: VACOJob | None, before: VACOJobStatus, after: VACOJobStatus
) -> tuple[Note, ...]:
    """Tell what happened between two statuses of `job` (None: it cannot be read), in order."""
    return (
        *_began(job, before, after),
        *_learner(before, after),
        *_scaled(before, after),
        *_troubled(before, after),
        *_ended(job, before, after),
    )


def _began(job: VACOJob | None, before: VACOJobStatus, after: VACOJobStatus) -> Iterator[Note]:
    if before.start_time is None and after.start_time is not None:
        yield Note("Normal", "Started", f"Started with {after.actors.desired} actors.")
        if job is not None and job.spec.learner.storage is None:
            yield Note("Warning", "NoStorage", NO_STORAGE)
    elif _holds(before, "Suspended") and not _holds(after, "Suspended"):
        resumed = (
            f"Resumed at version {after.checkpoint_version} with {after.actors.desired} actors."
        )
        yield Note("Normal", "Resumed", resumed)


def _learner(before: VACOJobStatus, after: VACOJobStatus) -> Iterator[Note]:
    if after.attempt > before.attempt:
        why = "; the one before was deleted, or the spec asks for another pod" * bool(
            before.attempt
        )
        yield Note(
            "Normal", "LearnerStarted", f"The learner's attempt {after.attempt} begins{why}."
        )
    if after.learner_restarts > before.learner_restarts:
        times = f"restart {after.learner_restarts}"
        text = f"The learner died and is started again ({times}); it resumes at its checkpoint."
        yield Note("Warning", "LearnerRestarting", text)
    if after.incarnation > before.incarnation and after.version < before.version:
        text = (
            f"The learner began anew at version {after.version}, after {before.version}: its "
            "checkpoints were lost. Set spec.learner.storage to keep them."
        )
        yield Note("Warning", "BeganAnew", text)


def _scaled(before: VACOJobStatus, after: VACOJobStatus) -> Iterator[Note]:
    was, now = before.actors.desired, after.actors.desired
    if after.scaling.events > before.scaling.events and was != now:
        reason = "ScaledUp" if now > was else "ScaledDown"
        yield Note("Normal", reason, f"Actors {was} -> {now}: {after.scaling.last_reason}.")


def _troubled(before: VACOJobStatus, after: VACOJobStatus) -> Iterator[Note]:
    known = {condition.reason for condition in before.conditions}
    told = set()
    for condition in after.conditions:
        reason = condition.reason
        if reason in NOTEWORTHY and reason not in known and reason not in told:
            told.add(reason)
            yield Note("Warning", reason, condition.message)


def _ended(job: VACOJob | None, before: VACOJobStatus, after: VACOJobStatus) -> Iterator[Note]:
    if _newly(before, after, "Suspended"):
        kept = f"the newest checkpoint is of version {after.checkpoint_version}"
        yield Note("Normal", "Suspended", f"Suspended; {kept}.")
    if _newly(before, after, "Complete"):
        steps = f"{after.env_steps} {job.spec.samples if job else 'samples'}"
        mean = f"a mean return of {after.return_mean:g}" if after.return_mean is not None else ""
        told = f"Complete after {steps}{' with ' if mean else ''}{mean}: {after.message}"
        yield Note("Normal", "Completed", told)
    if _newly(before, after, "Failed"):
        failure = _condition(after, "Failed")
        reason = failure.reason if failure else ""
        yield Note("Warning", "Failed", f"{reason}: {after.message}")


def _newly(before: VACOJobStatus, after: VACOJobStatus, kind: str) -> bool:
    return _holds(after, kind) and not _holds(before, kind)


def _holds(status: VACOJobStatus, kind: str) -> bool:
    condition = _condition(status, kind)
    return condition is not None and condition.status == "True"


def _condition(status: VACOJobStatus, kind: str) -> Condition | None:
    return next((each for each in status.conditions if each.type == kind), None)
