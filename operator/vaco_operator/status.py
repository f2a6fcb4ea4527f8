"""What is observed becomes the VACOJob's status: one document for every reader.

`job_status` is pure. It is given what the runner (or the operator) sees of the processes, what the
learner says of the training, and the status before, from which it keeps what nobody says any more
and the times at which conditions changed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from vaco.job import (
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


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: the phase it rests in, a CamelCase reason, and a sentence."""

    phase: Literal["Complete", "Failed", "Suspended"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of a job, beside its status before.

    `unavailable` says in one CamelCase word why the learner does not answer; empty: it does.
    `limit` is what limits scaling (`scaling.Decision.limit`), `outcome` is None while it lasts.
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
            "start_time": before.start_time or now,
            "completion_time": (before.completion_time or now) if finished else None,
            "learner_restarts": seen.learner_restarts,
            "actors": ActorsStatus(
                desired=seen.desired,
                ready=seen.ready,
                min=job.spec.actors.min_replicas,
                max=job.spec.actors.max_replicas,
            ),
            "scaling": ScalingStatus(events=seen.scaling_events, last_reason=seen.scaling_reason),
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
    if seen.learner is not None and seen.learner.phase not in (
        pb.LEARNER_PHASE_UNSPECIFIED,
        pb.LEARNER_PHASE_STARTING,
    ):
        return "Running"
    # A learner that is being restarted does not throw the job back to its start.
    return "Running" if before.phase == "Running" else "Starting"


def _message(seen: Observation) -> str:
    if seen.outcome is not None:
        return seen.outcome.message
    return seen.learner.message if seen.learner is not None else ""


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
    over = end.reason if end else ""
    available = end is None and not seen.unavailable
    enough = seen.ready >= job.spec.actors.min_replicas
    return (
        _Finding(
            "LearnerAvailable",
            _truth(available),
            over or seen.unavailable or "Answering",
            "" if available or end else "The learner does not answer.",
        ),
        _Finding(
            "Ready",
            _truth(available and enough),
            over or seen.unavailable or ("ActorsConnected" if enough else "ActorsMissing"),
            f"{seen.ready} of {seen.desired} actors are connected.",
        ),
        _progress(seen, phase, told),
        *(
            _Finding(
                kind,
                _truth(end is not None and end.phase == kind),
                end.reason if end and end.phase == kind else f"Not{kind}",
                end.message if end and end.phase == kind else "",
            )
            for kind in ("Suspended", "Complete", "Failed")
        ),
        _Finding(
            "ScalingLimited",
            _truth(end is None and bool(seen.limit)),
            over or seen.limit or "WithinBounds",
            seen.scaling_reason if seen.limit and end is None else "",
        ),
    )


def _progress(seen: Observation, phase: Phase, told: VACOJobStatus) -> _Finding:
    if seen.outcome is not None:
        return _Finding("Progressing", "False", seen.outcome.reason, seen.outcome.message)
    if seen.unavailable and phase == "Running":
        return _Finding("Progressing", "Unknown", seen.unavailable, "The learner does not answer.")
    if phase == "Starting":
        return _Finding("Progressing", "True", "Starting", "Waiting for the first fragment.")
    return _Finding("Progressing", "True", "Training", f"{told.env_steps} environment steps.")


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
                message=finding.message,
                last_transition_time=same.last_transition_time if same and held else now,
                observed_generation=generation,
            )
        )
    return conditions
