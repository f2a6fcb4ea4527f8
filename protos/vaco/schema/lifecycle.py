"""When a job is evaluated and when it ends."""

from typing import Self

from pydantic import Field, model_validator

from vaco.schema.base import Integer, Part, problem, refuse


class EvaluationSpec(Part):
    """Episodes played with the policy's most likely actions, aside from training."""

    interval_env_steps: Integer = Field(
        ge=1, description="Environment steps trained between two evaluations."
    )
    episodes: Integer = Field(
        default=10, ge=1, le=10000, description="Episodes per evaluation, played to their end."
    )
    seed: Integer = Field(
        default=10_000, ge=0, le=2**63 - 1, description="Seed of the first episode's environment."
    )


class ReturnGoal(Part):
    """A return that is good enough."""

    mean: float = Field(description="Mean undiscounted return of the last episodes.")
    episodes: Integer = Field(
        default=100,
        ge=1,
        le=100_000,
        description="Episodes the mean is over; no fewer must have ended.",
    )


class StopSpec(Part):
    """When training is complete: as soon as one of the given conditions holds."""

    env_steps: Integer | None = Field(
        default=None, ge=1, le=2**63 - 1, description="Environment steps trained; null: no bound."
    )
    return_: ReturnGoal | None = Field(
        default=None, description="Return of the training episodes; null: no goal."
    )
    wall_clock_seconds: float | None = Field(
        default=None,
        gt=0,
        description="Seconds of training since the first fragment came in, over all restarts of "
        "the learner; null: no bound.",
    )

    @model_validator(mode="after")
    def _ends(self) -> Self:
        if self.env_steps is None and self.return_ is None and self.wall_clock_seconds is None:
            cure = "Give at least one of `envSteps`, `return` and `wallClockSeconds`."
            refuse(
                self, [problem((), "no condition is given, so training would never end", cure, {})]
            )
        return self
