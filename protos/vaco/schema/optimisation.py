"""What all algorithms have in common: how the optimiser goes through the data of a phase."""

from typing import Literal

from pydantic import Field

from vaco.schema.base import Part


class Optimisation(Part):
    """Adam, in passes over the data of a phase, each in gradient steps on equal parts of it."""

    learning_rate: float = Field(default=3e-4, gt=0, le=1, description="Step size of Adam.")
    learning_rate_schedule: Literal["constant", "linear"] = Field(
        default="constant",
        description="`linear`: the learning rate falls to zero at `stop.envSteps`, which must be "
        "given.",
    )
    adam_epsilon: float = Field(
        default=1e-5, gt=0, le=1, description="Epsilon in Adam's denominator."
    )
    epochs: int = Field(default=1, ge=1, le=64, description="Passes over the data of one phase.")
    minibatches: int = Field(
        default=4,
        ge=1,
        le=1024,
        description="Gradient steps per pass, each on an equal part of the data.",
    )
    max_gradient_norm: float = Field(
        default=0.5,
        gt=0,
        le=1e6,
        description="Norm that a gradient is scaled down to if it is larger.",
    )
