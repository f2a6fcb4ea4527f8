"""The filter of tokens: its golden vectors, and a slow truth for its scopes and anchors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from vaco_learner.filter import Anchor, Filtered, Logps
from vaco_learner.language.filter import Scope, filter_tokens, prompt_variation

Floats = NDArray[np.float64]
Shape = list[list[int]]  # prompts, of completions, of so many tokens


def logps(ratio: list[float], start: list[float] | None = None) -> Logps:
    """Log-probabilities with pi/beta = `ratio` and pi_T/beta = `start` (1 if not given)."""
    behaviour = torch.linspace(-3.0, -0.5, len(ratio), dtype=torch.float64)
    start_ratio = torch.tensor(start or [1.0] * len(ratio), dtype=torch.float64)
    return Logps(
        policy_N=behaviour + torch.tensor(ratio, dtype=torch.float64).log(),
        behaviour_N=behaviour,
        start_N=behaviour + start_ratio.log(),
    )


def filtered(
    moved: Logps,
    advantage: list[float],
    shape: Shape,
    *,
    anchor: Anchor = "behaviour",
    scope: Scope = "prompt",
    threshold: float = 0.1,
) -> Filtered:
    return filter_tokens(
        moved,
        torch.tensor(advantage, dtype=torch.float64),
        torch.tensor([tokens for prompt in shape for tokens in prompt]),
        torch.tensor([len(prompt) for prompt in shape]),
        anchor=anchor,
        scope=scope,
        threshold=threshold,
    )


@pytest.mark.parametrize("scope", ["prompt", "batch"])
@pytest.mark.parametrize(
    ("ratio", "advantage", "tv", "keep"),
    [
        ([2.0, 2.0, 0.5, 0.5], [1.0, -1.0, 1.0, -1.0], 0.375, [0, 1, 1, 0]),
        ([1.1, 1.1, 1.1, 1.1], [1.0, -1.0, 1.0, -1.0], 0.05, [1, 1, 1, 1]),
        ([4.0, 1.0, 1.0], [1.0, 1.0, -1.0], 0.5, [0, 1, 1]),
    ],
)
def test_golden_vectors_of_one_completion(
    ratio: list[float], advantage: list[float], tv: float, keep: list[int], scope: Scope
) -> None:
    result = filtered(logps(ratio), advantage, [[len(ratio)]], scope=scope)
    assert float(result.tv) == pytest.approx(tv)
    assert result.keep_N.int().tolist() == keep
    assert float(result.over) == float(tv > 0.1)


def test_scopes_average_differently() -> None:
    """Prompt 1: completions of 1 and 3 tokens; prompt 2: one of 2. |r - 1| as in the comments."""
    ratio = [3.0, 1.0, 1.0, 2.5, 1.0, 1.0]  # 2 | 0 0 1.5 || 0 0
    shape = [[1, 3], [2]]
    prompt = filtered(logps(ratio), [1.0] * 6, shape, scope="prompt")
    assert float(prompt.tv) == pytest.approx(0.5 * ((2 + 1.5 / 3) / 2 + 0) / 2)
    batch = filtered(logps(ratio), [1.0] * 6, shape, scope="batch")
    assert float(batch.tv) == pytest.approx(0.5 * 3.5 / 6)
    # The same tokens are over the one threshold and not over the other.
    between = 0.5 * (float(prompt.tv) + float(batch.tv))
    for scope, keep in (("prompt", [0, 1, 1, 0, 1, 1]), ("batch", [1] * 6)):
        result = filtered(logps(ratio), [1.0] * 6, shape, scope=scope, threshold=between)  # type: ignore[arg-type]
        assert result.keep_N.int().tolist() == keep


def test_the_sign_is_exact_where_probabilities_underflow() -> None:
    before, now = torch.tensor([-200.0, -200.0]), torch.tensor([-199.0, -201.0])
    assert now.exp().sum() == 0  # float32: the ratio of probabilities would be 0/0
    result = filter_tokens(
        Logps(now, before, before),
        torch.ones(2),
        torch.tensor([2]),
        torch.tensor([1]),
        anchor="behaviour",
        scope="prompt",
        threshold=0.005,
    )
    assert result.keep_N.int().tolist() == [0, 1]


def test_unmoved_tokens_and_zero_advantages_are_kept() -> None:
    result = filtered(logps([1.0, 1.0, 2.0, 0.5, 3.0]), [1, -1, 0, 0, 1], [[5]], threshold=0.01)
    assert result.keep_N.int().tolist() == [1, 1, 1, 1, 0]


def test_at_the_threshold_nothing_is_filtered() -> None:
    moved, shape = logps([1.5, 0.5, 1.25]), [[2], [1]]
    tv = float(filtered(moved, [1, -1, 1], shape, threshold=1.0).tv)
    assert filtered(moved, [1, -1, 1], shape, threshold=tv).keep_N.all()
    assert not filtered(moved, [1, -1, 1], shape, threshold=tv * 0.9999).keep_N.any()


def slow_filter(
    policy: Floats,
    behaviour: Floats,
    start: Floats,
    advantage: Floats,
    shape: Shape,
    anchor: str,
    scope: str,
    threshold: float,
) -> tuple[float, list[bool]]:
    """Token by token, as `algorithm.md` has it."""

    def ratio(first: Floats, second: Floats, token: int) -> float:
        return math.exp(min(20.0, max(-20.0, first[token] - second[token])))

    def deviation(token: int) -> float:
        if anchor == "gap":
            return abs(ratio(policy, behaviour, token) - ratio(start, behaviour, token))
        return abs(ratio(policy, behaviour if anchor == "behaviour" else start, token) - 1)

    far, token = [], 0
    for prompt in shape:
        far.append([])
        for tokens in prompt:
            far[-1].append([0.5 * deviation(token + t) for t in range(tokens)])
            token += tokens
    if scope == "batch":
        flat = [value for prompt in far for completion in prompt for value in completion]
        tv = sum(flat) / len(flat)
    else:
        prompts = [[sum(c) / len(c) for c in prompt if c] for prompt in far]
        means = [sum(prompt) / len(prompt) for prompt in prompts if prompt]
        tv = sum(means) / len(means)
    reference = behaviour if anchor == "behaviour" else start
    up = np.sign(policy - reference)
    return tv, [tv <= threshold or advantage[t] * up[t] <= 0 for t in range(token)]


@pytest.mark.parametrize("anchor", ["behaviour", "learnerStart", "gap"])
@pytest.mark.parametrize("scope", ["prompt", "batch"])
@pytest.mark.parametrize("seed", range(5))
def test_it_is_a_slow_filter(anchor: Anchor, scope: Scope, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape: Shape = [rng.integers(1, 6, rng.integers(1, 4)).tolist() for _ in range(4)]
    count = sum(map(sum, shape))
    behaviour = rng.uniform(-3, -0.1, count)
    policy, start = behaviour + rng.normal(0, 0.5, count), behaviour + rng.normal(0, 0.3, count)
    policy[0], start[0] = behaviour[0] + 30, behaviour[0] - 25  # beyond the bound of log-ratios
    policy[-1] = behaviour[-1]
    advantage = rng.choice([-0.5, 0.0, 0.75], count)
    tv, _ = slow_filter(policy, behaviour, start, advantage, shape, anchor, scope, 0.0)
    for threshold in (tv * 0.99, tv * 1.01):
        found = filtered(
            Logps(*map(torch.from_numpy, (policy, behaviour, start))),
            advantage.tolist(),
            shape,
            anchor=anchor,
            scope=scope,
            threshold=threshold,
        )
        truth = slow_filter(policy, behaviour, start, advantage, shape, anchor, scope, threshold)
        assert float(found.tv) == pytest.approx(truth[0], rel=1e-9)
        assert found.keep_N.tolist() == truth[1]


def test_each_prompt_has_its_own_variation() -> None:
    deviation = torch.tensor([2.0, 0.0, 0.0, 1.5, -1.0, 1.0])
    found: Tensor = prompt_variation(deviation, torch.tensor([1, 3, 2]), torch.tensor([2, 1]))
    assert found.tolist() == pytest.approx([0.5 * (2 + 0.5) / 2, 0.5])
