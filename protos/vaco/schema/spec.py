"""The job as it is wished for: all parts together; `spec_rules` has what must hold between them."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from vaco.schema.actors import ActorsSpec, AutoscalingSpec
from vaco.schema.algorithm import ActorCriticAlgorithm, AlgorithmSpec, VacoAlgorithm
from vaco.schema.base import Part
from vaco.schema.language_algorithm import LanguageAlgorithm
from vaco.schema.language_policy import LanguageModelPolicy, SamplingSpec
from vaco.schema.language_task import LanguageModelTask
from vaco.schema.learner import LearnerSpec, RolloutSpec
from vaco.schema.lifecycle import EvaluationSpec, StopSpec
from vaco.schema.policy import ActorCriticPolicy, PolicySpec
from vaco.schema.spec_rules import SPEC_RULES
from vaco.schema.task import GymnasiumTask, TaskSpec

MAX_DEADLINE = 366 * 24 * 3600


@dataclass(frozen=True, slots=True)
class ControlParts:
    """The parts of a job whose task is an environment."""

    task: GymnasiumTask
    policy: ActorCriticPolicy
    algorithm: ActorCriticAlgorithm


@dataclass(frozen=True, slots=True)
class LanguageParts:
    """The parts of a job whose task is a language model's."""

    task: LanguageModelTask
    policy: LanguageModelPolicy
    algorithm: LanguageAlgorithm
    sampling: SamplingSpec


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
    task: TaskSpec = Field(
        description="What is to be learned; `gymnasium` when `type` is left out."
    )
    policy: PolicySpec = Field(
        default=ActorCriticPolicy(),
        description="The policy; `actorCritic` when `type` is left out.",
    )
    algorithm: AlgorithmSpec = Field(
        default=VacoAlgorithm(),
        description="How the policy is improved; `vaco` when `name` is left out.",
    )
    rollout: RolloutSpec = Field(
        default=RolloutSpec(), description="What actors send at a time; not for language models."
    )
    sampling: SamplingSpec | None = Field(
        default=None,
        description="How completions are sampled; only for language models. Null: as its defaults "
        "say.",
    )
    learner: LearnerSpec = Field(default=LearnerSpec(), description="The learner.")
    actors: ActorsSpec = Field(default=ActorsSpec(), description="The actors.")
    autoscaling: AutoscalingSpec = Field(
        default=AutoscalingSpec(), description="How the number of actors follows the learner."
    )
    evaluation: EvaluationSpec | None = Field(
        default=None, description="Evaluation aside from training; null: none."
    )
    stop: StopSpec = Field(
        description="When training is complete.",
        examples=[{"return": {"mean": 475}, "envSteps": 1_000_000}],
    )
    ttl_seconds_after_finished: int | None = Field(
        default=None,
        ge=0,
        le=2**63 - 1,
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

    rules = SPEC_RULES

    @property
    def is_language(self) -> bool:
        """Whether the task is a language model's."""
        return isinstance(self.task, LanguageModelTask)

    @property
    def samples(self) -> str:
        """What `envSteps` and the ledger count."""
        return "completions" if self.is_language else "environment steps"

    @property
    def control(self) -> ControlParts:
        """The parts of a job whose task is an environment.

        Raises:
            TypeError: it is not.

        """
        task, policy, algorithm = self.task, self.policy, self.algorithm
        if (
            isinstance(task, GymnasiumTask)
            and isinstance(policy, ActorCriticPolicy)
            and isinstance(algorithm, ActorCriticAlgorithm)
        ):
            return ControlParts(task, policy, algorithm)
        raise TypeError(f"the task is {task.type}, not gymnasium")

    @property
    def language(self) -> LanguageParts:
        """The parts of a job whose task is a language model's.

        Raises:
            TypeError: it is not.

        """
        task, policy, algorithm = self.task, self.policy, self.algorithm
        if (
            isinstance(task, LanguageModelTask)
            and isinstance(policy, LanguageModelPolicy)
            and isinstance(algorithm, LanguageAlgorithm)
        ):
            return LanguageParts(task, policy, algorithm, self.sampling or SamplingSpec())
        raise TypeError(f"the task is {task.type}, not languageModel")
