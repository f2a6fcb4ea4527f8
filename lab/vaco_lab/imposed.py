"""A training run in one process: the actor's rollout and the learner's update take turns.

    ring of versions -> rollout -> fragments -> collate -> update -> next version -> ring

With K = 1 it is what `vaco run` of a synchronous job does, bit for bit.
"""

import threading
import time
from dataclasses import asdict
from typing import Final

import torch
from vaco.errors import UserError
from vaco.trajectory import Fragment
from vaco.weights import Weights
from vaco_actor.environments import make_vector_env
from vaco_actor.rollout import Rollout, RolloutSettings
from vaco_actor.vector_environment import VectorEnvironment
from vaco_learner.batch import collate
from vaco_learner.update import NonFiniteUpdate, Updater
from vaco_learner.windows import ReturnWindow
from vaco_policy.parameters import to_payload
from vaco_policy.policy import Policy
from vaco_policy.seeding import derive

from vaco_lab.cell import Cell
from vaco_lab.evaluator import Evaluator
from vaco_lab.measures import Record, point_of
from vaco_lab.ring import VersionRing

_NAME = "lab"
_INCARNATION = 1
_MAX_EMPTY: Final = 1000
RETURN_EPISODES: Final = 100
"""Training episodes that a curve's mean return is over, as in a job without a return to reach."""


def run_imposed(cell: Cell, versions: int) -> Record:
    """Train the cell's job with lag imposed.

    Args:
        cell: What to train.
        versions: K, of the ring.

    Returns:
        What came of it; `diverged` if a loss or a gradient was not finite any more.

    Raises:
        UserError: The environment or the policy cannot be made.

    """
    # As learner and actors have it: the order of a sum's terms depends on the number of threads.
    torch.set_num_threads(1)
    spec, record = cell.job.spec, Record()
    began = time.perf_counter()
    environments = derive(spec.seed, "actor", 0, _INCARNATION, "environments")
    task, count = spec.control.task, spec.rollout.environments_per_actor
    with make_vector_env(task, count, environments) as environment:
        run = _Run(cell, environment, versions)
        try:
            run.train(record)
        except NonFiniteUpdate:
            record.outcome = "diverged"
    record.evaluation_seconds = run.evaluator.seconds
    record.seconds = time.perf_counter() - began - record.evaluation_seconds
    return record


class _Run:
    """A policy that is trained, one that acts, and the versions between them."""

    def __init__(self, cell: Cell, environment: VectorEnvironment, versions: int) -> None:
        self._cell = cell
        self._spec = spec = cell.job.spec
        self.evaluator = Evaluator(cell, environment.spaces)
        self._updater = Updater(cell.job, environment.spaces)
        self._ring = VersionRing(versions, derive(spec.seed, _NAME, "ring"))
        settings = RolloutSettings(
            job_uid=_NAME,
            actor_id=_NAME,
            actor_incarnation=_INCARNATION,
            fragment_length=spec.rollout.fragment_length,
            gamma=spec.control.algorithm.gamma,
            reward_bound=spec.control.task.reward_bound,
            seed=derive(spec.seed, "actor", 0, _INCARNATION, "actions"),
        )
        policy = Policy(spec.control.policy, environment.spaces)
        self._rollout = Rollout(environment, policy, self._ring, settings)
        self._returns = ReturnWindow(RETURN_EPISODES)
        self._never = threading.Event()

    def train(self, record: Record) -> None:
        """Train up to the job's number of steps; note every update, and evaluate when it is due."""
        trained, version = 0, 0
        due = self._cell.evaluation.steps(self._cell.budget)
        self._evaluate(record, trained)
        while trained < self._cell.budget:
            payload = to_payload(self._updater.policy)
            self._ring.offer(Weights(_INCARNATION, version, payload, ""))
            fragments = self._batch()
            stats = asdict(self._updater.update(collate(fragments)))
            trained += stats["samples"]
            for fragment in fragments:
                record.count_lags(version - fragment.versions, fragment.valid.sum(axis=1))
                self._returns.add(fragment.episode_returns.tolist())
            record.points.append(point_of(trained, self._returns.mean, stats))
            record.tv_by_step.add(stats["tv_per_step"])
            version += 1
            # The last one is due at the budget, so the last policy is always evaluated.
            if trained >= due[0]:
                self._evaluate(record, trained)
                due = [steps for steps in due if steps > trained]

    def _evaluate(self, record: Record, trained: int) -> None:
        """Evaluate the policy that is trained: neither those that act with lag, nor their mean."""
        payload = to_payload(self._updater.policy)
        record.evaluations.append((trained, self.evaluator.mean_return(payload)))

    def _batch(self) -> list[Fragment]:
        """Collect fragments until they are a batch, each with the work of a version drawn anew."""
        fragments: list[Fragment] = []
        empty = 0
        while sum(fragment.samples for fragment in fragments) < self._spec.learner.batch_size:
            self._ring.draw()
            fragment = self._rollout.collect(self._never)
            # None has no sample in it: all its steps only led to the next episode.
            if fragment is not None:
                fragments.append(fragment)
                continue
            empty += 1
            if empty == _MAX_EMPTY:
                raise UserError(
                    "spec.task.environment",
                    f"{_MAX_EMPTY} fragments of one batch had no sample in them",
                    "Mend the environment, whose steps only lead to the next episode.",
                )
        return fragments
