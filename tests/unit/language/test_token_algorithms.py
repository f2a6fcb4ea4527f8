"""Losses of tokens and their slopes against a slow truth, and advantages of groups."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from vaco.job import VACOJob
from vaco_learner.filter import Logps
from vaco_learner.language.advantages import group_advantages
from vaco_learner.language.algorithms import TokenMinibatch, make_algorithm, weigh

MakeJob = Callable[..., VACOJob]
Floats = NDArray[np.float64]


def ratio_of(first: float, second: float) -> float:
    return math.exp(min(20.0, max(-20.0, first - second)))


def vaco(policy: float, behaviour: float, start: float, a: float) -> tuple[float, float]:  # noqa: ARG001
    """Loss and slope of a token that is kept, ratio bound 3."""
    weight = min(ratio_of(policy, behaviour), 3.0)
    return -a * weight * policy, -a * weight


def clipped(ratio: float, a: float, epsilon: float) -> tuple[float, float]:
    """PPO's surrogate, and its slope by log pi."""
    within = min(1 + epsilon, max(1 - epsilon, ratio))
    value = min(ratio * a, within * a)
    return value, ratio * a if ratio * a <= within * a else 0.0


def grpo(policy: float, behaviour: float, start: float, a: float) -> tuple[float, float]:  # noqa: ARG001
    value, slope = clipped(ratio_of(policy, behaviour), a, 0.2)
    return -value, -slope


def dppo(policy: float, behaviour: float, start: float, a: float) -> tuple[float, float]:  # noqa: ARG001
    moved = math.exp(policy) - math.exp(behaviour)
    keep = moved <= 0.15 if a > 0 else moved >= -0.15
    value = -a * ratio_of(policy, behaviour) * keep
    return value, value


def tis(policy: float, behaviour: float, start: float, a: float) -> tuple[float, float]:
    weight = min(ratio_of(start, behaviour), 2.0)
    value, slope = clipped(ratio_of(policy, start), a, 0.2)
    return -weight * value, -weight * slope


@pytest.mark.parametrize(
    ("spec", "truth"),
    [
        ({"name": "vaco-lm", "ratioBound": 3.0, "filter": False}, vaco),
        ({"name": "grpo"}, grpo),
        ({"name": "dppo"}, dppo),
        ({"name": "tis"}, tis),
    ],
)
def test_losses_and_slopes_are_those_of_a_slow_truth(
    spec: dict[str, Any], truth: Callable[..., tuple[float, float]], language_job: MakeJob
) -> None:
    rng = np.random.default_rng(0)
    count = 400
    behaviour = rng.uniform(-4, -0.05, count)
    start = np.minimum(behaviour + rng.normal(0, 0.6, count), -0.01)
    policy = np.minimum(start + rng.normal(0, 0.4, count), -0.01)
    policy[0], behaviour[0] = -0.5, -60.0  # beyond the bound of log-ratios
    advantage = rng.choice([-0.5, 0.0, 0.75], count)
    algorithm = make_algorithm(language_job(algorithm=spec).spec.language.algorithm)
    weighed = weigh(
        algorithm,
        TokenMinibatch(
            Logps(*map(torch.from_numpy, (policy, behaviour, start))),
            torch.from_numpy(advantage),
            torch.tensor([count]),
            torch.tensor([1]),
        ),
    )
    expected = [truth(*each) for each in zip(policy, behaviour, start, advantage, strict=True)]
    assert weighed.loss_N.numpy() == pytest.approx([loss for loss, _ in expected], rel=1e-9)
    assert weighed.slope_N.numpy() == pytest.approx([slope for _, slope in expected], rel=1e-9)
    assert weighed.filtered is None
    assert len({round(slope, 6) for _, slope in expected}) > count / 4


@pytest.mark.parametrize(("threshold", "over"), [("halfDelta", True), ("delta", False)])
def test_vaco_filters_over_its_threshold(threshold: str, over: bool, language_job: MakeJob) -> None:
    """TV is 0.375, and lies between delta/2 and delta."""
    ratio = torch.tensor([2.0, 2.0, 0.5, 0.5], dtype=torch.float64)
    behaviour = torch.full((4,), -1.0, dtype=torch.float64)
    spec = {"name": "vaco-lm", "delta": 0.7, "threshold": threshold}
    algorithm = make_algorithm(language_job(algorithm=spec).spec.language.algorithm)
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)
    weighed = weigh(
        algorithm,
        TokenMinibatch(
            Logps(behaviour + ratio.log(), behaviour, behaviour),
            advantage,
            torch.tensor([1, 3]),
            torch.tensor([2]),
        ),
    )
    kept = torch.tensor([0, 1, 1, 0]) if over else torch.ones(4)
    assert algorithm.threshold == pytest.approx(0.35 if over else 0.7)
    assert weighed.filtered is not None
    tv = 0.5 * (1.0 + (1.0 + 0.5 + 0.5) / 3) / 2
    assert float(weighed.filtered.tv) == pytest.approx(tv)
    assert torch.allclose(weighed.slope_N, -advantage * ratio * kept)


def test_advantages_are_relative_to_the_group() -> None:
    reward_S = torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 3.0])
    group_S = torch.tensor([0, 0, 0, 1, 1, 1, 2])
    found = group_advantages(reward_S, group_S, 3, size=3, scale=False)
    assert found.tolist() == pytest.approx([2 / 3, -1 / 3, -1 / 3, 0, 0, 0, 0])
    scaled = group_advantages(reward_S, group_S, 3, size=3, scale=True)
    deviation = np.std([1.0, 0.0, 0.0])
    assert scaled.tolist() == pytest.approx(
        [2 / 3 / deviation, -1 / 3 / deviation, -1 / 3 / deviation, 0, 0, 0, 0], rel=1e-5
    )


@pytest.mark.parametrize("scale", [False, True])
def test_a_group_that_is_not_whole_has_no_advantages(scale: bool) -> None:
    reward_S = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
    group_S = torch.tensor([0, 0, 1, 1, 1])
    found = group_advantages(reward_S, group_S, 2, size=3, scale=scale)
    assert found[:2].tolist() == [0, 0]
    assert found[2:].abs().min() > 0.3


@pytest.mark.parametrize("scale", [False, True])
def test_equal_rewards_give_exactly_nothing(scale: bool) -> None:
    """0.1 is no sum of powers of two; summed up in float32, its mean is often another number."""
    for size in range(2, 100):
        reward_S, group_S = torch.full((size,), 0.1), torch.zeros(size, dtype=torch.int64)
        assert not group_advantages(reward_S, group_S, 1, size=size, scale=scale).any()
