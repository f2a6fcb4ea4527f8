"""The total-variation filter: its golden vectors, anchors and scopes."""

from __future__ import annotations

import math

import pytest
import torch
from vaco_learner.filter import (
    Logps,
    deviation_and_direction,
    filter_fragments,
    filter_minibatch,
    keep_mask,
    total_variation,
)
from vaco_learner.ratios import LOG_RATIO_BOUND, bounded, likelihood_ratio


def logps(ratio: list[float], start: list[float] | None = None) -> Logps:
    """Log-densities with pi/beta = `ratio` and pi_T/beta = `start` (1 if not given)."""
    behaviour = torch.linspace(-3.0, -0.5, len(ratio), dtype=torch.float64)
    start_ratio = torch.tensor(start or [1.0] * len(ratio), dtype=torch.float64)
    return Logps(
        policy_N=behaviour + torch.tensor(ratio, dtype=torch.float64).log(),
        behaviour_N=behaviour,
        start_N=behaviour + start_ratio.log(),
    )


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize(
    ("ratio", "advantage", "tv", "keep"),
    [
        ([2.0, 2.0, 0.5, 0.5], [1.0, -1.0, 1.0, -1.0], 0.375, [0, 1, 1, 0]),
        ([1.1, 1.1, 1.1, 1.1], [1.0, -1.0, 1.0, -1.0], 0.05, [1, 1, 1, 1]),
        ([4.0, 1.0, 1.0], [1.0, 1.0, -1.0], 0.5, [0, 1, 1]),
    ],
)
def test_golden_vectors(
    ratio: list[float], advantage: list[float], tv: float, keep: list[int]
) -> None:
    result = filter_minibatch(logps(ratio), tensor(*advantage), "behaviour", threshold=0.1)
    assert float(result.tv) == pytest.approx(tv)
    assert result.keep_N.int().tolist() == keep
    assert float(result.over) == float(tv > 0.1)


def test_the_sign_is_exact_where_densities_underflow() -> None:
    before = torch.tensor([-200.0, -200.0])
    now = torch.tensor([-199.0, -201.0])
    assert now.exp().sum() == 0  # float32: the ratio of densities would be 0/0
    result = filter_minibatch(
        Logps(now, before, before), torch.ones(2), "behaviour", threshold=0.005
    )
    assert result.keep_N.int().tolist() == [0, 1]


def test_a_quarter_sigma_shift_of_a_gaussian_is_the_default_threshold() -> None:
    """0.5*E|pi/beta - 1| for N(0.25, 1) against N(0, 1), on evenly spaced quantiles of beta."""
    quantile = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    action = math.sqrt(2) * torch.erfinv(2 * quantile - 1)
    behaviour = -0.5 * action.square()
    policy = -0.5 * (action - 0.25).square()
    deviation, _ = deviation_and_direction(Logps(policy, behaviour, behaviour), "behaviour")
    exact = math.erf(0.125 / math.sqrt(2))  # 2*Phi(0.125) - 1
    assert float(total_variation(deviation)) == pytest.approx(exact, abs=1e-4)
    assert exact == pytest.approx(0.1, abs=1e-3)


def test_at_the_threshold_nothing_is_filtered() -> None:
    ratios, advantage = logps([1.5, 0.5]), tensor(1.0, -1.0)
    tv = float(filter_minibatch(ratios, advantage, "behaviour", 1.0).tv)
    assert filter_minibatch(ratios, advantage, "behaviour", tv).keep_N.all()
    assert not filter_minibatch(ratios, advantage, "behaviour", tv * 0.9999).keep_N.any()


def test_unmoved_actions_and_zero_advantages_are_kept() -> None:
    keep = keep_mask(tensor(0.0, 0.0, 2.0, -2.0), tensor(1.0, -1.0, 0.0, 0.0), torch.tensor(True))
    assert keep.all()


def test_dropped_are_exactly_the_samples_whose_gradient_would_raise_tv() -> None:
    generator = torch.Generator().manual_seed(0)
    behaviour = torch.randn(200, generator=generator, dtype=torch.float64) - 2
    policy = (behaviour + torch.randn(200, generator=generator, dtype=torch.float64)).detach()
    advantage = torch.randn(200, generator=generator, dtype=torch.float64)
    policy.requires_grad_()
    ratio = (policy - behaviour).exp()
    (tv_gradient,) = torch.autograd.grad(0.5 * (ratio - 1).abs().mean(), policy)
    (ascent,) = torch.autograd.grad(
        ((policy - behaviour).exp() * advantage).mean(), policy
    )  # where maximising moves log pi
    result = filter_minibatch(
        Logps(policy.detach(), behaviour, behaviour), advantage, "behaviour", 0.1
    )
    assert torch.equal(result.keep_N, tv_gradient * ascent <= 0)
    assert 0 < int(result.keep_N.sum()) < 200


def test_each_anchor_measures_its_own_distance() -> None:
    # pi/beta and pi_T/beta; so pi/pi_T = [2, 1/2, 1/2, 1].
    moved = logps([3.0, 0.75, 0.5, 2.0], start=[1.5, 1.5, 1.0, 2.0])
    advantage = tensor(1.0, 1.0, 1.0, 1.0)
    behaviour = filter_minibatch(moved, advantage, "behaviour", 0.1)
    assert float(behaviour.tv) == pytest.approx(0.5 * (2 + 0.25 + 0.5 + 1) / 4)
    assert behaviour.keep_N.int().tolist() == [0, 1, 1, 0]
    start = filter_minibatch(moved, advantage, "learnerStart", 0.1)
    assert float(start.tv) == pytest.approx(0.5 * (1 + 0.5 + 0.5 + 0) / 4)
    assert start.keep_N.int().tolist() == [0, 1, 1, 1]
    gap = filter_minibatch(moved, advantage, "gap", 0.1)
    assert float(gap.tv) == pytest.approx(0.5 * (1.5 + 0.75 + 0.5 + 0) / 4)
    assert gap.keep_N.int().tolist() == [0, 1, 1, 1]


def test_gap_takes_its_sign_from_pi_against_pi_start() -> None:
    # pi is above beta and below pi_T: raising it moves away from beta, but back to pi_T.
    moved = logps([2.0, 2.0], start=[4.0, 4.0])
    advantage = tensor(1.0, -1.0)
    assert filter_minibatch(moved, advantage, "behaviour", 0.1).keep_N.int().tolist() == [0, 1]
    assert filter_minibatch(moved, advantage, "gap", 0.1).keep_N.int().tolist() == [1, 0]


def test_scope_fragment_filters_only_the_fragments_over_the_threshold() -> None:
    # Fragment 0 has TV 0.5*(1 + 1)/2, fragment 2 has 0.5*(0.02 + 0.02)/2, fragment 1 no sample.
    ratios = logps([2.0, 2.0, 1.02, 1.02])
    advantage = tensor(1.0, -1.0, 1.0, -1.0)
    owner = torch.tensor([0, 0, 2, 2])
    each = filter_fragments(ratios, advantage, "behaviour", 0.1, owner, fragments=3)
    assert each.keep_N.int().tolist() == [0, 1, 1, 1]
    assert float(each.over) == pytest.approx(0.5)  # of the two fragments that have samples
    assert float(each.tv) == pytest.approx(0.5 * (1 + 1 + 0.02 + 0.02) / 4)
    together = filter_minibatch(ratios, advantage, "behaviour", 0.1)
    assert together.keep_N.int().tolist() == [0, 1, 0, 1]


def test_scope_fragment_can_filter_where_the_minibatch_would_not() -> None:
    ratios = logps([1.5, 1.0, 1.0, 1.0])
    advantage = tensor(1.0, 1.0, 1.0, 1.0)
    owner = torch.tensor([1, 0, 0, 0])
    assert filter_minibatch(ratios, advantage, "behaviour", 0.1).keep_N.all()
    each = filter_fragments(ratios, advantage, "behaviour", 0.1, owner, fragments=2)
    assert each.keep_N.int().tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("anchor", ["behaviour", "learnerStart", "gap"])
def test_one_fragment_is_the_minibatch(anchor: str) -> None:
    moved = logps([3.0, 0.75, 0.5, 2.0], start=[1.5, 1.5, 1.0, 2.0])
    advantage = tensor(1.0, -1.0, -2.0, 0.5)
    whole = filter_minibatch(moved, advantage, anchor, 0.1)
    one = filter_fragments(moved, advantage, anchor, 0.1, torch.zeros(4, dtype=torch.int64), 1)
    assert torch.equal(whole.keep_N, one.keep_N)
    assert torch.equal(whole.over, one.over)


def test_log_ratios_are_bounded_and_keep_their_gradient() -> None:
    log_ratio = tensor(-100.0, -20.0, 0.5, 20.0, 100.0).requires_grad_()
    assert bounded(log_ratio).tolist() == [-LOG_RATIO_BOUND, -20.0, 0.5, 20.0, LOG_RATIO_BOUND]
    likelihood_ratio(log_ratio).sum().backward()
    expected = tensor(-20.0, -20.0, 0.5, 20.0, 20.0).exp()
    assert log_ratio.grad is not None
    assert torch.allclose(log_ratio.grad, expected)


def test_the_filter_carries_no_gradient() -> None:
    policy = tensor(-1.0, -2.0).requires_grad_()
    behaviour = tensor(-2.0, -1.0)
    result = filter_minibatch(
        Logps(policy, behaviour, behaviour), tensor(1.0, 1.0), "behaviour", 0.1
    )
    assert not result.tv.requires_grad
    assert not result.keep_N.requires_grad
