"""How a run is judged: by episodes that its policy plays aside from training, at planned points.

What a training episode earned says little here: with lag it was played by several old policies.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import Field
from vaco.schema.base import Part

Evaluated = tuple[int, float]
"""Steps trained until then, and the mean return of the episodes."""


class EvaluationPlan(Part):
    """When a run's policy is evaluated, and on how much; besides once before training."""

    points: int = Field(
        default=5,
        ge=1,
        le=1000,
        description="Evaluations, evenly spaced over the run's steps; the last one is of its last "
        "policy and gives the final return. One before training comes on top.",
    )
    episodes: int = Field(
        default=16,
        ge=1,
        le=10_000,
        description="Episodes of each, played to their end with the most probable actions.",
    )

    def steps(self, budget: int) -> list[int]:
        """Return the steps trained at which evaluations are due, the last at the budget."""
        return [-(-budget * point // self.points) for point in range(1, self.points + 1)]


def completed(
    evaluations: Sequence[Evaluated], plan: EvaluationPlan, budget: int, low: float | None
) -> list[Evaluated]:
    """Return the evaluations of a run that diverged with those that it did not live to see.

    Args:
        evaluations: Those that there were, the first before training.
        plan: When they were due.
        budget: Steps of the whole run.
        low: The return that counts as 0; None: no better than before training.

    """
    if not evaluations:
        return []
    lost = evaluations[0][1] if low is None else low
    reached = evaluations[-1][0]
    return [*evaluations, *((due, lost) for due in plan.steps(budget) if due > reached)]


def area(evaluations: Sequence[Evaluated], budget: int) -> float:
    """Return the mean of the curve through the evaluations, from step 0 to the budget.

    By the trapezoid rule. The last evaluation may lie a little behind the budget, because a run
    ends with a whole update; what is behind it does not count.
    """
    steps, returns = np.asarray(evaluations, np.float64).T
    grid = np.append(steps[steps < budget], budget)
    return float(np.trapezoid(np.interp(grid, steps, returns), grid) / budget)
