"""Plays the episodes that a run is judged by."""

import statistics
import threading
import time

from vaco_actor.environments import make_vector_env
from vaco_actor.play import MAX_ENVIRONMENTS, play
from vaco_policy.parameters import load_payload
from vaco_policy.policy import Policy
from vaco_policy.seeding import derive
from vaco_policy.spaces import Spaces

from vaco_lab.cell import Cell


class Evaluator:
    """Evaluates policies of one cell, all of them in the same episodes.

    It has a policy and environments of its own and draws nothing from the training's generators:
    training goes on as if there had been no evaluation.

    Args:
        cell: Whose task and seed.
        spaces: Of its environment.

    Attributes:
        seconds: All evaluations took.

    """

    def __init__(self, cell: Cell, spaces: Spaces) -> None:
        self._spec = cell.job.spec
        self._episodes = cell.evaluation.episodes
        self._seed = derive(self._spec.seed, "lab", "evaluation")
        self._policy = Policy(self._spec.control.policy, spaces).eval()
        self._never = threading.Event()
        self.seconds = 0.0

    def mean_return(self, payload: bytes) -> float:
        """Return the mean return of the policy with these weights.

        Raises:
            UserError: The environment cannot be made, or an episode does not end.

        """
        began = time.perf_counter()
        load_payload(self._policy, payload)
        task, count = self._spec.control.task, min(self._episodes, MAX_ENVIRONMENTS)
        # Made anew each time, so that each evaluation begins with the same states.
        with make_vector_env(task, count, self._seed) as environment:
            played = play(environment, self._policy, self._episodes, self._never)
        if played is None:
            raise RuntimeError("an evaluation that nobody stopped was stopped")
        self.seconds += time.perf_counter() - began
        return statistics.fmean(played.returns)
