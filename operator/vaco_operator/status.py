"""What is observed becomes the VACOJob's status: one document for every reader.

`job_status` is pure. It is given what the runner (or the operator) sees of the processes, what the
learner says of the training, and the status before, from which it keeps what nobody says any more
and the times at which conditions changed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from pydantic import ValidationError
from vaco.job import (
    AccuracyStatus,
    ActorsStatus,
    Condition,
    ConditionType,
    EvaluationStatus,
    LagStatus,
    LedgerStatus,
    Phase,
    ScalingStatus,
    VACOJob,
    VACOJobStatus,
)
from vaco.v1 import learner_pb2 as pb

Truth = Literal["True", "False", "Unknown"]
MAX_MESSAGE: Final = 4096
"""Characters of a condition's message: what others say (a kubelet, a quota) may be long."""
INVALID_SPEC: Final = "InvalidSpec"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: the phase it rests in, a CamelCase reason, and a sentence."""

    phase: Literal["Complete", "Failed", "Suspended"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why something is not there that should be: a CamelCase word, and a sentence."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of a job, beside its status before.

    The first part is the same for a local run and for a cluster, the second is a cluster's alone.

    Attributes:
        learner: what it says; None: nothing new.
        unavailable: in one CamelCase word, why it does not answer; empty: it does.
        desired: actors that there should be.
        ready: actors that are connected.
        scaling_events: changes of `desired` so far.
        scaling_reason: why it is `desired`.
        limit: what limits scaling (`scaling.Decision.limit`).
        learner_restarts: of a learner that had died.
        outcome: how it ended; None while it lasts.
        pending: whether the learner's pod has not been started.
        suspending: how far a suspension has got, as a sentence; empty: there is none.
        trouble: what keeps the learner from running.
        shortage: what keeps actors from running.
        attempt: which of the learner's Jobs this is.
        selector: labels of the actors' pods.
        requested: the `spec.actors.replicas` that was acted on.

    """

    learner: pb.GetStatusResponse | None
    unavailable: str
    desired: int
    ready: int
    scaling_events: int
    scaling_reason: str
    limit: str
    learner_restarts: int
    outcome: Outcome | None = None
    pending: bool = False
    suspending: str = ""
    trouble: Trouble | None = None
    shortage: Trouble | None = None
    attempt: int = 0
    selector: str = ""
    requested: int | None = None


def job_status(
    job: VACOJob, seen: Observation, before: VACOJobStatus | None, now: datetime
) -> VACOJobStatus:
    """Tell the state of `job`."""
    before = before or VACOJobStatus()
    now = now.replace(microsecond=0)
    phase = _phase(seen, before)
    finished = phase in ("Complete", "Failed")
    told = before if seen.learner is None else _training(before, seen.learner)
    conditions = _conditions(job, seen, phase, told)
    return told.model_copy(
        update={
            "phase": phase,
            "message": _message(seen),
            "conditions": _with_times(conditions, before.conditions, now, job.metadata.generation),
            "observed_generation": job.metadata.generation,
            "start_time": before.start_time or (None if phase == "Suspended" else now),
            "completion_time": (before.completion_time or now) if finished else None,
            "steps_per_second": 0.0 if phase == "Suspended" else told.steps_per_second,
            "learner_restarts": seen.learner_restarts,
            "attempt": seen.attempt,
            "actors": ActorsStatus(
                desired=seen.desired,
                ready=seen.ready,
                min=job.spec.actors.min_replicas,
                max=job.spec.actors.max_replicas,
                selector=seen.selector,
            ),
            "scaling": ScalingStatus(
                events=seen.scaling_events,
                last_reason=seen.scaling_reason,
                requested=seen.requested,
            ),
        }
    )


def rested(status: VACOJobStatus, outcome: Outcome, now: datetime) -> VACOJobStatus:
    """Tell of a job of which nothing runs any more, though its last status may say otherwise."""
    gone = (
        _Finding("LearnerAvailable", "False", outcome.reason, ""),
        _Finding("Ready", "False", outcome.reason, ""),
        _Finding("Progressing", "False", outcome.reason, ""),
        _Finding("Suspended", "True", outcome.reason, outcome.message),
    )
    now = now.replace(microsecond=0)
    kept = [c for c in status.conditions if c.type not in {finding.type for finding in gone}]
    conditions = _with_times(gone, status.conditions, now, status.observed_generation)
    return status.model_copy(
        update={
            "phase": outcome.phase,
            "message": outcome.message,
            "conditions": [*conditions, *kept],
            "steps_per_second": 0.0,
            "actors": status.actors.model_copy(update={"ready": 0}),
        }
    )


def unreadable(
    status: VACOJobStatus, problem: str, generation: int | None, now: datetime
) -> VACOJobStatus:
    """Tell of a job whose spec cannot be read; it goes on from there when the spec is mended.

    Nor is it a failure when the spec is one for a newer release, which is about to take over: the
    phase stays, and so do the times from which deadlines count.
    """
    message = f"The spec cannot be read, and what runs is left as it is: {problem}"
    findings = (
        _Finding("Ready", "False", INVALID_SPEC, message),
        _Finding("Progressing", "False", INVALID_SPEC, message),
    )
    now = now.replace(microsecond=0)
    kept = [c for c in status.conditions if c.type not in {finding.type for finding in findings}]
    conditions = _with_times(findings, status.conditions, now, generation)
    return status.model_copy(
        update={
            "message": message,
            "conditions": [*conditions, *kept],
            "observed_generation": generation,
        }
    )


def cannot_be_told(learner: pb.GetStatusResponse) -> str:
    """Say what of a learner's answer is out of bounds; empty: all of it is within them.

    The answer comes from an image of the user's, and a number that no status can have would fail
    every look at the job.
    """
    try:
        _training(VACOJobStatus(), learner)
    except ValidationError as error:
        return "; ".join(f"{each['loc'][0]}: {each['msg']}" for each in error.errors())
    return ""


def _training(before: VACOJobStatus, learner: pb.GetStatusResponse) -> VACOJobStatus:
    ledger, lag = learner.ledger, learner.lag
    return before.model_copy(
        update={
            "train_seconds": _finite(learner.train_seconds) or 0.0,
            "env_steps": learner.env_steps,
            "steps_per_second": _finite(learner.steps_per_second) or 0.0,
            "return_mean": _optional(learner, "return_mean"),
            "version": learner.version,
            "incarnation": learner.incarnation,
            "checkpoint_version": learner.checkpoint_version,
            "lag": LagStatus(
                **{
                    name: _finite(getattr(lag, name)) or 0.0
                    for name in ("p50", "p95", "p99", "max")
                }
            ),
            "tv": _optional(learner, "tv"),
            "tv_threshold": _optional(learner, "tv_threshold"),
            "filtered_share": _optional(learner, "filtered_share"),
            "ledger": LedgerStatus(
                **{name: getattr(ledger, name) for name in LedgerStatus.model_fields}
            ),
            "evaluation": _evaluation(learner) or before.evaluation,
            "accuracy": _accuracy(learner) or before.accuracy,
        }
    )


def _evaluation(learner: pb.GetStatusResponse) -> EvaluationStatus | None:
    if not learner.HasField("evaluation"):
        return None
    return EvaluationStatus(
        version=learner.evaluation.version,
        env_steps=learner.evaluation.env_steps,
        episodes=learner.evaluation.episodes,
        return_mean=learner.evaluation.return_mean,
        return_std=learner.evaluation.return_std,
    )


def _accuracy(learner: pb.GetStatusResponse) -> AccuracyStatus | None:
    if not learner.HasField("accuracy"):
        return None
    told = learner.accuracy
    return AccuracyStatus(initial=told.initial, best=told.best, latest=told.latest)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _optional(
    learner: pb.GetStatusResponse,
    field: Literal["return_mean", "tv", "tv_threshold", "filtered_share"],
) -> float | None:
    return _finite(getattr(learner, field)) if learner.HasField(field) else None


def _phase(seen: Observation, before: VACOJobStatus) -> Phase:
    if seen.outcome is not None:
        return seen.outcome.phase
    told = seen.learner.phase if seen.learner and not seen.unavailable else None
    if told not in (None, pb.LEARNER_PHASE_UNSPECIFIED, pb.LEARNER_PHASE_STARTING):
        return "Running"
    # A learner that is being restarted does not throw the job back to its start; one that is
    # made anew, of another template, does: whether it can train has yet to be seen.
    if before.phase == "Running" and seen.attempt == before.attempt:
        return "Running"
    return "Pending" if seen.pending else "Starting"


def _message(seen: Observation) -> str:
    if seen.outcome is not None:
        return seen.outcome.message
    if trouble := seen.trouble or seen.shortage:
        return trouble.message
    if seen.suspending:
        return seen.suspending
    heard = seen.learner if not seen.unavailable else None
    return heard.message[:MAX_MESSAGE] if heard is not None else ""


@dataclass(frozen=True, slots=True)
class _Finding:
    """A condition without its times."""

    type: ConditionType
    status: Truth
    reason: str
    message: str


def _conditions(
    job: VACOJob, seen: Observation, phase: Phase, told: VACOJobStatus
) -> tuple[_Finding, ...]:
    end = seen.outcome
    return (
        _learner_available(seen),
        _ready(job, seen),
        _progress(job, seen, phase, told),
        *(
            _Finding(
                kind,
                _truth(end is not None and end.phase == kind),
                end.reason if end and end.phase == kind else f"Not{kind}",
                end.message if end and end.phase == kind else "",
            )
            for kind in ("Suspended", "Complete", "Failed")
        ),
        _scaling_limited(seen),
    )


def _learner_available(seen: Observation) -> _Finding:
    if seen.outcome is not None:
        return _Finding("LearnerAvailable", "False", seen.outcome.reason, "")
    if not seen.unavailable:
        return _Finding("LearnerAvailable", "True", "Answering", "")
    if seen.trouble is not None:
        return _Finding("LearnerAvailable", "False", seen.trouble.reason, seen.trouble.message)
    silence = "The learner does not answer."
    return _Finding("LearnerAvailable", "False", seen.unavailable, silence)


def _ready(job: VACOJob, seen: Observation) -> _Finding:
    enough = seen.ready >= job.spec.actors.min_replicas
    reason = "ActorsConnected" if enough else "ActorsMissing"
    message = f"{seen.ready} of {seen.desired} actors are connected."
    if seen.outcome is not None:
        return _Finding("Ready", "False", seen.outcome.reason, message)
    if seen.shortage is not None and not enough:
        reason, message = seen.shortage.reason, f"{message} {seen.shortage.message}"
    if seen.unavailable:
        reason = seen.trouble.reason if seen.trouble else seen.unavailable
    return _Finding("Ready", _truth(enough and not seen.unavailable), reason, message)


def _progress(job: VACOJob, seen: Observation, phase: Phase, told: VACOJobStatus) -> _Finding:
    if seen.outcome is not None:
        return _Finding("Progressing", "False", seen.outcome.reason, seen.outcome.message)
    if seen.suspending:
        return _Finding("Progressing", "True", "Suspending", seen.suspending)
    trouble = seen.trouble or (seen.shortage if phase != "Running" else None)
    if phase in ("Pending", "Starting"):
        if trouble is not None:
            return _Finding("Progressing", "False", trouble.reason, trouble.message)
        waits = "the learner's pod" if phase == "Pending" else "the first fragment"
        return _Finding("Progressing", "True", phase, f"Waiting for {waits}.")
    if seen.unavailable:
        silence = trouble or Trouble(seen.unavailable, "The learner does not answer.")
        return _Finding("Progressing", "Unknown", silence.reason, silence.message)
    trained = f"{told.env_steps} {job.spec.samples}."
    return _Finding("Progressing", "True", "Training", trained)


def _scaling_limited(seen: Observation) -> _Finding:
    if seen.outcome is not None:
        return _Finding("ScalingLimited", "False", seen.outcome.reason, "")
    if seen.shortage is not None:
        return _Finding("ScalingLimited", "True", seen.shortage.reason, seen.shortage.message)
    if seen.limit:
        return _Finding("ScalingLimited", "True", seen.limit, seen.scaling_reason)
    return _Finding("ScalingLimited", "False", "WithinBounds", "")


def _truth(holds: bool) -> Truth:
    return "True" if holds else "False"


def _with_times(
    findings: Sequence[_Finding],
    before: Sequence[Condition],
    now: datetime,
    generation: int | None,
) -> list[Condition]:
    """Complete conditions with their times: a new one only where the status flipped."""
    known = {condition.type: condition for condition in before}
    conditions = []
    for finding in findings:
        same = known.get(finding.type)
        held = same is not None and same.status == finding.status
        conditions.append(
            Condition(
                type=finding.type,
                status=finding.status,
                reason=finding.reason,
                message=finding.message[:MAX_MESSAGE],
                last_transition_time=same.last_transition_time if same and held else now,
                observed_generation=generation,
            )
        )
    return conditions
