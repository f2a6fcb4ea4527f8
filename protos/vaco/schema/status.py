"""What became of the job: one model for `kubectl get vj -o yaml`, `vaco status` and `status.json`.

All counts are of samples, one step of one environment each, unless their names say otherwise.
"""

from typing import Literal

from pydantic import Field

from vaco.schema.base import Part, Timestamp

Phase = Literal["Pending", "Starting", "Running", "Suspended", "Complete", "Failed"]
ConditionType = Literal[
    "Ready",
    "LearnerAvailable",
    "Progressing",
    "Suspended",
    "Complete",
    "Failed",
    "ScalingLimited",
]


class Condition(Part):
    """One aspect of the job's state, as Kubernetes' conditions have it."""

    type: ConditionType = Field(description="The aspect.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(
        default="", max_length=1024, description="Why, as one CamelCase word for programs."
    )
    message: str = Field(default="", max_length=32768, description="Why, as a sentence for people.")
    last_transition_time: Timestamp | None = Field(
        default=None, description="When `status` last changed."
    )
    observed_generation: int | None = Field(
        default=None, ge=0, description="The `metadata.generation` this was decided for."
    )


class LagStatus(Part):
    """Versions between the weights that acted and those being trained, over recent samples."""

    p50: float = Field(default=0.0, ge=0, description="Median.")
    p95: float = Field(default=0.0, ge=0, description="95th percentile.")
    p99: float = Field(default=0.0, ge=0, description="99th percentile.")
    max: float = Field(default=0.0, ge=0, description="Largest.")


class LedgerStatus(Part):
    """Where every sample is that reached the learner."""

    received: int = Field(
        default=0,
        ge=0,
        description="All samples that reached the learner: the sum of the next five.",
    )
    queued: int = Field(default=0, ge=0, description="Waiting to be trained.")
    trained: int = Field(default=0, ge=0, description="Trained.")
    stale: int = Field(
        default=0, ge=0, description="Over `learner.maxPolicyLag`, or made with fenced weights."
    )
    duplicate: int = Field(default=0, ge=0, description="Received before.")
    rejected: int = Field(default=0, ge=0, description="Malformed.")
    filtered: int = Field(
        default=0,
        ge=0,
        description="Counted apart: trained, but without policy gradient at some steps.",
    )

    @property
    def balanced(self) -> bool:
        """Whether each sample is in exactly one place."""
        placed = self.queued + self.trained + self.stale + self.duplicate + self.rejected
        return placed == self.received


class ActorsStatus(Part):
    """How many actors there are and should be."""

    desired: int = Field(default=0, ge=0, description="Asked for by scaling.")
    ready: int = Field(default=0, ge=0, description="Connected to the learner.")
    min: int = Field(default=0, ge=0, description="`actors.minReplicas`.")
    max: int = Field(default=0, ge=0, description="`actors.maxReplicas`.")
    selector: str = Field(
        default="",
        max_length=4096,
        description="Labels of the actors' pods, by which a pod autoscaler finds them; empty for "
        "a local run.",
    )


class ScalingStatus(Part):
    """What scaling did."""

    events: int = Field(
        default=0,
        ge=0,
        description="Changes of the number of desired actors so far, none at the start.",
    )
    last_reason: str = Field(default="", description="Why it last changed, or why it is held.")
    requested: int | None = Field(
        default=None,
        ge=0,
        description="The `actors.replicas` that was last acted on: another number there is a "
        "request; null: none so far.",
    )


class AccuracyStatus(Part):
    """Share of correct answers, for tasks of language models."""

    initial: float | None = Field(default=None, ge=0, le=1, description="Before training.")
    best: float | None = Field(default=None, ge=0, le=1, description="Best so far.")
    latest: float | None = Field(default=None, ge=0, le=1, description="Most recent.")


class EvaluationStatus(Part):
    """The most recent evaluation."""

    version: int = Field(ge=0, description="Version of the weights evaluated.")
    env_steps: int = Field(ge=0, description="Environment steps trained at that version.")
    episodes: int = Field(ge=1, description="Episodes played.")
    return_mean: float = Field(description="Mean undiscounted return.")
    return_std: float = Field(ge=0, description="Standard deviation of the return.")


class VACOJobStatus(Part):
    """State of the job as last observed."""

    phase: Phase = Field(default="Pending", description="The state in one word.")
    message: str = Field(default="", description="What the job waits for, or why it failed.")
    conditions: list[Condition] = Field(
        default=[], description="The state in detail, one entry per type."
    )
    observed_generation: int | None = Field(
        default=None, ge=0, description="The `metadata.generation` that this status reflects."
    )
    start_time: Timestamp | None = Field(
        default=None, description="When the job was first started."
    )
    completion_time: Timestamp | None = Field(
        default=None, description="When the job became Complete or Failed."
    )
    train_seconds: float = Field(
        default=0.0, ge=0, description="Seconds of training since the first fragment was admitted."
    )
    env_steps: int = Field(default=0, ge=0, description="Environment steps trained.")
    steps_per_second: float = Field(
        default=0.0, ge=0, description="Environment steps trained per second, recently."
    )
    return_mean: float | None = Field(
        default=None, description="Mean undiscounted return of recent training episodes."
    )
    version: int = Field(default=0, ge=0, description="Newest version of the weights.")
    incarnation: int = Field(
        default=0, ge=0, description="Starts of the learner, the first one included."
    )
    checkpoint_version: int = Field(
        default=0, ge=0, description="Version of the newest complete checkpoint."
    )
    learner_restarts: int = Field(
        default=0, ge=0, description="Restarts of a learner that had died."
    )
    attempt: int = Field(
        default=0,
        ge=0,
        description="Learner Jobs made so far: the first, and one more after each change of the "
        "learner that needs a new pod; 0 for a local run.",
    )
    lag: LagStatus = Field(default=LagStatus(), description="Policy lag.")
    tv: float | None = Field(
        default=None, ge=0, description="Total variation against the anchor at the last update."
    )
    tv_threshold: float | None = Field(
        default=None, ge=0, description="Total variation above which samples are filtered."
    )
    filtered_share: float | None = Field(
        default=None, ge=0, le=1, description="Share of samples filtered at the last update."
    )
    ledger: LedgerStatus = Field(default=LedgerStatus(), description="Account of all samples.")
    actors: ActorsStatus = Field(default=ActorsStatus(), description="Number of actors.")
    scaling: ScalingStatus = Field(default=ScalingStatus(), description="Scaling.")
    evaluation: EvaluationStatus | None = Field(
        default=None, description="The most recent evaluation."
    )
    accuracy: AccuracyStatus | None = Field(
        default=None,
        description="Accuracy: the share of held-out problems whose answer has a reward of at "
        "least 1; only for tasks of language models.",
    )
