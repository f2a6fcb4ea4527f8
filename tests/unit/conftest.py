"""What several unit tests of the learner start from: a job, and fragments to train it on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from vaco.job import API_VERSION, VACOJob
from vaco.trajectory import Fragment, FragmentId
from vaco_policy.spaces import Box, Discrete, MultiDiscrete, Spaces

if TYPE_CHECKING:  # most unit tests can do without torch
    import torch
    from vaco_learner.batch import PhaseBatch
    from vaco_learner.forward import Evaluated
    from vaco_learner.update import Updater

CORES = {"gru": ("hidden",), "lstm": ("hidden", "cell")}


@pytest.fixture(scope="session")
def training_job() -> Callable[..., VACOJob]:
    """Makes a job from the parts of its spec that matter, as a manifest writes them."""

    def make(**spec: Any) -> VACOJob:
        parts = {"task": {"environment": "CartPole-v1"}, "stop": {"envSteps": 10_000}, **spec}
        return VACOJob.model_validate(
            {
                "apiVersion": API_VERSION,
                "kind": "VACOJob",
                "metadata": {"name": "test"},
                "spec": parts,
            }
        )

    return make


@pytest.fixture(scope="session")
def vector_spaces() -> Spaces:
    """Four numbers in, one of two actions out."""
    return Spaces({"observation": Box((4,))}, Discrete(2))


@pytest.fixture(scope="session")
def make_fragment() -> Callable[..., Fragment]:
    """Makes fragments of random experience, with resets in their own step (next-step autoreset)."""
    return random_fragment


@pytest.fixture
def recorded_orders() -> Callable[[Updater], list[torch.Tensor]]:
    """Makes a list of the flat indices of every minibatch that an updater evaluates, as it goes."""

    def watch(updater: Updater) -> list[torch.Tensor]:
        orders: list[torch.Tensor] = []
        evaluate = updater._forward.evaluate

        def record(batch: PhaseBatch, part: torch.Tensor) -> Evaluated:
            seen = evaluate(batch, part)
            orders.append(seen.index_N)
            return seen

        updater._forward.evaluate = record  # type: ignore[method-assign]
        return orders

    return watch


def random_fragment(
    spaces: Spaces,
    seed: int = 0,
    length: int = 12,
    environments: int = 6,
    core: tuple[str, int] | None = None,
    ends: float = 0.1,
) -> Fragment:
    """Experience whose actions the behaviour policy found about as likely as a uniform one."""
    rng = np.random.default_rng(seed)
    steps = (length, environments)
    terminated, truncated, valid, starts = _episodes(rng, steps, ends)
    actions, likelihood = _actions(rng, spaces, steps)
    return Fragment(
        id=FragmentId("uid", "actor-0", 1, seed + 1),
        weights_incarnation=1,
        observations=_observations(rng, spaces, (length + 1, environments)),
        actions=actions,
        rewards=np.where(valid, rng.normal(size=steps), 0.0).astype(np.float32),
        terminated=terminated,
        truncated=truncated,
        valid=valid,
        behaviour_logp=(likelihood + rng.normal(0, 0.4, steps)).astype(np.float32),
        versions=np.full(length, 1),
        episode_start=starts,
        final_observations={},
        final_steps=np.zeros(0, np.int32),
        core_state={
            name: rng.normal(0, 0.5, (environments, core[1])).astype(np.float32)
            for name in (CORES[core[0]] if core else ())
        },
        return_carry=rng.normal(size=environments).astype(np.float32),
        episode_returns=np.zeros(0, np.float32),
        episode_lengths=np.zeros(0, np.int32),
        rollout_seconds=1.0,
    )


def _episodes(
    rng: np.random.Generator, steps: tuple[int, int], ends: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    terminated, truncated = np.zeros(steps, bool), np.zeros(steps, bool)
    valid = np.ones(steps, bool)
    starts = np.zeros((steps[0] + 1, steps[1]), bool)
    for b in range(steps[1]):
        t = 0
        while t < steps[0]:
            if rng.random() < ends:
                (terminated if rng.random() < 0.5 else truncated)[t, b] = True
                if t + 1 < steps[0]:
                    valid[t + 1, b] = False
                    starts[t + 2, b] = True
                t += 1
            t += 1
    return terminated, truncated, valid, starts


def _actions(
    rng: np.random.Generator, spaces: Spaces, steps: tuple[int, int]
) -> tuple[np.ndarray, float]:
    """Random actions, and their log-likelihood under a policy that has learned nothing."""
    match spaces.action:
        case Discrete(n=n):
            return rng.integers(0, n, steps), -float(np.log(n))
        case MultiDiscrete(nvec=nvec):
            return rng.integers(0, nvec, (*steps, len(nvec))), -float(np.log(nvec).sum())
        case Box(size=size):
            noise = rng.normal(size=(*steps, size)).astype(np.float32)
            return noise, -0.5 * size * float(np.log(2 * np.pi * np.e))


def _observations(
    rng: np.random.Generator, spaces: Spaces, rows: tuple[int, int]
) -> Mapping[str, np.ndarray]:
    return {
        name: (
            rng.normal(size=(*rows, *space.shape)).astype(np.float32)
            if isinstance(space, Box)
            else rng.integers(0, 2, rows if isinstance(space, Discrete) else (*rows, space.n))
        )
        for name, space in spaces.observation.items()
    }
