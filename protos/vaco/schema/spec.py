"""The job as it is wished for: all parts together, and what must hold between them."""

from math import ceil
from typing import Literal

from pydantic import Field

from vaco.schema.actors import ActorsSpec, AutoscalingSpec
from vaco.schema.algorithm import AlgorithmSpec, VacoAlgorithm
from vaco.schema.base import Broken, Part, Rule
from vaco.schema.learner import LearnerSpec, RolloutSpec
from vaco.schema.lifecycle import EvaluationSpec, StopSpec
from vaco.schema.policy import PolicySpec
from vaco.schema.task import TaskSpec

MAX_DEADLINE = 366 * 24 * 3600


def _one_actor_in_lock_step(spec: "VACOJobSpec") -> Broken | None:
    actors = spec.actors
    if not spec.synchronous or actors.replicas == actors.min_replicas == actors.max_replicas == 1:
        return None
    return Broken(
        ("synchronous",),
        f"lock-step has exactly one actor, not {actors.min_replicas} to {actors.max_replicas}",
        "Leave out `spec.actors.replicas`, `minReplicas` and `maxReplicas`.",
    )


def _nobody_else_scales_lock_step(spec: "VACOJobSpec") -> Broken | None:
    if not spec.synchronous or spec.autoscaling.mode != "external":
        return None
    return Broken(
        ("synchronous",),
        "lock-step has exactly one actor, so it cannot be scaled externally",
        "Set `spec.autoscaling.mode` to fixed.",
    )


def _schedule_has_an_end(spec: "VACOJobSpec") -> Broken | None:
    if spec.algorithm.learning_rate_schedule != "linear" or spec.stop.env_steps is not None:
        return None
    return Broken(
        ("algorithm", "learningRateSchedule"),
        "linear needs `spec.stop.envSteps`, where the learning rate reaches zero",
        "Give `spec.stop.envSteps`, or choose constant.",
    )


def _minibatches_have_samples(spec: "VACOJobSpec") -> Broken | None:
    minibatches, batch = spec.algorithm.minibatches, spec.learner.batch_size
    if minibatches <= batch:
        return None
    return Broken(
        ("algorithm", "minibatches"),
        f"{minibatches} minibatches of {batch} samples",
        "Lower `spec.algorithm.minibatches` or raise `spec.learner.batchSize`.",
    )


def _a_fragment_fits_the_buffer(spec: "VACOJobSpec") -> Broken | None:
    rollout = spec.rollout
    fragment = rollout.environments_per_actor * rollout.fragment_length
    buffer = spec.learner.batch_size * spec.learner.buffer_batches
    if fragment <= buffer:
        return None
    return Broken(
        ("rollout",),
        f"one fragment has {fragment} samples, but the learner's buffer holds {buffer}",
        "Lower `environmentsPerActor` or `fragmentLength`, or raise `spec.learner.batchSize`.",
    )


def _minibatches_have_sequences(spec: "VACOJobSpec") -> Broken | None:
    sequences = ceil(spec.learner.batch_size / spec.rollout.fragment_length)
    if spec.policy.core is None or spec.algorithm.minibatches <= sequences:
        return None
    return Broken(
        ("algorithm", "minibatches"),
        f"{spec.algorithm.minibatches} minibatches of {sequences} sequences: a recurrent policy "
        "is trained on whole sequences of `spec.rollout.fragmentLength` steps",
        "Lower `spec.algorithm.minibatches` or raise `spec.learner.batchSize`.",
    )


class VACOJobSpec(Part):
    """What to train, how, on how much, and until when."""

    seed: int = Field(
        default=0,
        ge=0,
        le=2**63 - 1,
        description="Seed that all others are derived from: weights, sampling, environments.",
    )
    synchronous: bool = Field(
        default=False,
        description="Lock-step: exactly one actor, which waits for the update that trained its "
        "data before it goes on, so that policy lag is zero and a run can be repeated.",
    )
    suspend: bool = Field(
        default=False,
        description="Whether the job rests: the learner checkpoints and all processes end, until "
        "this is false again.",
    )
    task: TaskSpec = Field(description="What is to be learned.")
    policy: PolicySpec = Field(default=PolicySpec(), description="Shape of the policy.")
    algorithm: AlgorithmSpec = Field(
        default=VacoAlgorithm(),
        description="How the policy is improved; `vaco` when `name` is left out.",
    )
    rollout: RolloutSpec = Field(default=RolloutSpec(), description="What actors send at a time.")
    learner: LearnerSpec = Field(default=LearnerSpec(), description="The learner.")
    actors: ActorsSpec = Field(default=ActorsSpec(), description="The actors.")
    autoscaling: AutoscalingSpec = Field(
        default=AutoscalingSpec(), description="How the number of actors follows the learner."
    )
    evaluation: EvaluationSpec | None = Field(
        default=None, description="Evaluation aside from training; null: none."
    )
    stop: StopSpec = Field(description="When training is complete.")
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        description="Seconds after which a finished job is deleted from the cluster; null: never.",
    )
    clean_pod_policy: Literal["Running", "All", "None"] = Field(
        default="Running",
        description="Which pods are deleted from the cluster when the job has finished.",
    )
    start_deadline_seconds: float = Field(
        default=1800.0,
        gt=0,
        le=MAX_DEADLINE,
        description="Seconds from the start or a resumption until the first fragment is trained "
        "on; a job that needs longer is Failed. Has no meaning for a local run.",
    )
    active_deadline_seconds: float | None = Field(
        default=None,
        gt=0,
        le=MAX_DEADLINE,
        description="Seconds that the job may run since its start or its last resumption; then it "
        "is Failed. Null: no bound. Has no meaning for a local run.",
    )
    backoff_limit: int = Field(
        default=6,
        ge=0,
        le=1000,
        description="Restarts of a dying learner, or of one dying actor, before the job is Failed.",
    )

    rules = (
        Rule(("synchronous", "actors"), _one_actor_in_lock_step),
        Rule(("synchronous", "autoscaling"), _nobody_else_scales_lock_step),
        Rule(("algorithm", "stop"), _schedule_has_an_end),
        Rule(("algorithm", "learner"), _minibatches_have_samples),
        Rule(("rollout", "learner"), _a_fragment_fits_the_buffer),
        Rule(("policy", "algorithm", "rollout", "learner"), _minibatches_have_sequences),
    )
