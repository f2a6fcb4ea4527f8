"""Fragments of the sizes that matter, made of random numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from vaco.tensors import Array
from vaco.trajectory import ArraySpec, Fragment, FragmentId, FragmentSpec
from vaco_policy.spaces import Box, Discrete, Spaces

JOB = "benchmark"
ACTOR = "actor-0"


@dataclass(frozen=True)
class Case:
    """What the fragments of one job hold."""

    name: str
    length: int
    environments: int
    spaces: Spaces
    observation: ArraySpec
    action: ArraySpec

    def spec(self) -> FragmentSpec:
        """Return what the learner checks."""
        observations = {"observation": self.observation}
        return FragmentSpec(observations, self.action, {}, self.length, self.environments, 1e6)

    @property
    def samples(self) -> int:
        """Of one fragment."""
        return self.length * self.environments


_SCREENS = Box((4, 84, 84), "uint8")
_RUNNER = (
    Spaces({"observation": Box((17,))}, Box((6,))),
    ArraySpec((17,), "float32"),
    ArraySpec((6,), "float32"),
)
_GAME = (
    Spaces({"observation": _SCREENS}, Discrete(6)),
    ArraySpec((4, 84, 84), "uint8"),
    ArraySpec((), "int64", (6,)),
)
# HalfCheetah's spaces up to 2 MiB; Pong's (four stacked grey screens) for what has to be framed.
CASES = (
    Case("0.25MiB", 39, 64, *_RUNNER),
    Case("1MiB", 156, 64, *_RUNNER),
    Case("2MiB", 156, 128, *_RUNNER),
    Case("14MiB", 128, 4, *_GAME),
)


def make_fragment(case: Case, seed: int) -> Fragment:
    """Return a fragment as the actor's rollout buffers would hold it, with sequence number 1."""
    rng = np.random.default_rng(seed)
    steps = (case.length, case.environments)
    more = (case.length + 1, case.environments)
    observations: Array
    actions: Array
    if case.observation.dtype == "uint8":
        observations = rng.integers(0, 256, (*more, 4, 84, 84), np.uint8)
        actions = rng.integers(0, 6, steps)
    else:
        observations = rng.standard_normal((*more, 17), np.float32)
        actions = rng.standard_normal((*steps, 6), np.float32)
    return Fragment(
        id=FragmentId(JOB, ACTOR, 1, 1),
        weights_incarnation=1,
        observations={"observation": observations},
        actions=actions,
        rewards=rng.standard_normal(steps, np.float32),
        terminated=rng.random(steps) < 0.01,
        truncated=np.zeros(steps, np.bool_),
        valid=np.ones(steps, np.bool_),
        behaviour_logp=rng.standard_normal(steps, np.float32),
        versions=np.full(case.length, 3, np.int64),
        episode_start=np.zeros(more, np.bool_),
        final_observations={},
        final_steps=np.zeros(0, np.int32),
        core_state={},
        return_carry=np.zeros(case.environments, np.float32),
        episode_returns=np.zeros(0, np.float32),
        episode_lengths=np.zeros(0, np.int32),
        rollout_seconds=0.1,
    )
