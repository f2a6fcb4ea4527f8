"""A training run in one process: the actor's rollout and the learner's update take turns.

    ring of versions -> rollout -> fragments -> collate -> update -> next version -> ring

With K = 1 it is what `vaco run` of a synchronous job does, bit for bit.
"""

import threading
import time
from dataclasses import asdict

import torch
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
from vaco_lab.measures import Record, point_of
from vaco_lab.ring import VersionRing

_NAME = "lab"
_INCARNATION = 1


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
        try:
            _Run(cell, environment, versions).train(record)
        except NonFiniteUpdate:
            record.outcome = "diverged"
    record.seconds = time.perf_counter() - began
    return record


class _Run:
    """A policy that is trained, one that acts, and the versions between them."""

    def __init__(self, cell: Cell, environment: VectorEnvironment, versions: int) -> None:
        self._spec = spec = cell.job.spec
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
        self._returns = ReturnWindow(cell.final_episodes)
        self._never = threading.Event()

    def train(self, record: Record) -> None:
        """Train up to the job's number of steps, and note every update."""
        trained, version = 0, 0
        while trained < (self._spec.stop.env_steps or 0):
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

    def _batch(self) -> list[Fragment]:
        """Collect fragments until they are a batch, each with the work of a version drawn anew."""
        fragments: list[Fragment] = []
        while sum(fragment.samples for fragment in fragments) < self._spec.learner.batch_size:
            self._ring.draw()
            fragment = self._rollout.collect(self._never)
            # None has no sample in it: all its steps only led to the next episode.
            if fragment is not None:
                fragments.append(fragment)
        return fragments
