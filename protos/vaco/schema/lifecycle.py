"""When a job is evaluated and when it ends."""

from pydantic import Field

from vaco.schema.base import Broken, Cel, Part, Rule


class EvaluationSpec(Part):
    """Episodes played with the policy's most likely actions, aside from training."""

    interval_env_steps: int = Field(
        ge=1, le=2**63 - 1, description="Environment steps trained between two evaluations."
    )
    episodes: int = Field(
        default=10, ge=1, le=10000, description="Episodes per evaluation, played to their end."
    )
    seed: int = Field(
        default=10_000, ge=0, le=2**63 - 1, description="Seed of the first episode's environment."
    )


class ReturnGoal(Part):
    """A return that is good enough."""

    mean: float = Field(description="Mean undiscounted return of the last episodes.")
    episodes: int = Field(
        default=100,
        ge=1,
        le=100_000,
        description="Episodes the mean is over; no fewer must have ended.",
    )


def _ends(stop: "StopSpec") -> Broken | None:
    if stop.env_steps is None and stop.return_ is None and stop.wall_clock_seconds is None:
        return Broken(
            "no condition is given, so training would never end",
            "Give at least one of `envSteps`, `return` and `wallClockSeconds`, "
            "such as `envSteps: 1000000`.",
        )
    return None


class StopSpec(Part):
    """When training is complete: as soon as one of the given conditions holds."""

    env_steps: int | None = Field(
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

    rules = (
        Rule(
            ("env_steps", "return_", "wall_clock_seconds"),
            (),
            _ends,
            Cel(
                "has(self.envSteps) || has(self.__return__) || has(self.wallClockSeconds)",
                "no condition is given, so training would never end. "
                "Give at least one of `envSteps`, `return` and `wallClockSeconds`, "
                "such as `envSteps: 1000000`.",
            ),
        ),
    )
