"""What tests of every kind start from: a fragment as actors send it, a job as clusters have it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from vaco.job import API_VERSION, KIND, VACOJob, parse_job
from vaco.trajectory import Fragment, FragmentId

# Machines are shared: how long one example takes says nothing about the code.
settings.register_profile("vaco", deadline=None)
settings.load_profile("vaco")


@pytest.fixture(scope="session")
def wire_fragment() -> Callable[..., Fragment]:
    """Makes a fragment of a task with four numbers to see and two actions.

    One episode of environment 0 is truncated at step 0 with a same-step reset; keyword arguments
    replace what the fragment holds.
    """

    def make(length: int = 3, environments: int = 2, **replaced: Any) -> Fragment:
        rng = np.random.default_rng(0)
        steps, states = (length, environments), (length + 1, environments)
        truncated, starts = np.zeros(steps, np.bool_), np.zeros(states, np.bool_)
        truncated[0, 0] = starts[1, 0] = True
        parts = {
            "id": FragmentId("job", "actor-0", 1, 7),
            "weights_incarnation": 2,
            "observations": {"observation": rng.standard_normal((*states, 4), np.float32)},
            "actions": rng.integers(0, 2, steps),
            "rewards": rng.standard_normal(steps, np.float32),
            "terminated": np.zeros(steps, np.bool_),
            "truncated": truncated,
            "valid": np.ones(steps, np.bool_),
            "behaviour_logp": -rng.random(steps, np.float32),
            "versions": np.arange(5, 5 + length),
            "episode_start": starts,
            "final_observations": {"observation": rng.standard_normal((1, 4), np.float32)},
            "final_steps": np.zeros(1, np.int32),
            "core_state": {"hidden": rng.standard_normal((environments, 3), np.float32)},
            "return_carry": rng.standard_normal(environments, np.float32),
            "episode_returns": np.array([12.5], np.float32),
            "episode_lengths": np.array([13], np.int32),
            "rollout_seconds": 0.25,
        }
        return Fragment(**{**parts, **replaced})

    return make


@pytest.fixture(scope="session")
def cluster_job() -> Callable[..., VACOJob]:
    """Makes a job as the API server has it, from the parts of its spec that matter.

    Keyword arguments in `metadata` replace what it has there.
    """

    def make(metadata: dict[str, Any] | None = None, **spec: Any) -> VACOJob:
        known = {
            "name": "cartpole",
            "namespace": "research",
            "uid": "6f1c9d1e-4b52-4d0a-9a52-0c6f2f0f7a11",
            "generation": 1,
            "creationTimestamp": "2026-11-25T08:00:00Z",
        }
        parts = {"task": {"environment": "CartPole-v1"}, "stop": {"envSteps": 10_000}, **spec}
        document = {"apiVersion": API_VERSION, "kind": KIND, "spec": parts}
        return parse_job({**document, "metadata": {**known, **(metadata or {})}})

    return make
