"""Filter: keep the policy within a total-variation distance while it is being updated.

The total variation between the updated policy and its anchor is estimated at every gradient step,
over the samples of the minibatch: TV = 0.5*mean|pi/anchor - 1|. Up to the threshold nothing is
filtered and nothing is clipped. Over it, exactly the samples whose gradient would raise TV are
dropped: a positive advantage raises the action's probability, which raises TV where pi is already
above the anchor; a negative one lowers it, which raises TV where pi is below. The sign is taken of
the log-ratio, which stays exact where densities underflow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vaco_learner.ratios import bounded, likelihood_ratio

Anchor = Literal["behaviour", "learnerStart", "gap"]
Scope = Literal["minibatch", "fragment"]


@dataclass(frozen=True, slots=True)
class Logps:
    """Log-densities [N] of the taken actions under the three policies that matter."""

    policy_N: Tensor  # pi, being updated
    behaviour_N: Tensor  # beta, which acted
    start_N: Tensor  # pi_T, at the start of the phase


@dataclass(frozen=True, slots=True)
class Filtered:
    """What the filter says about a minibatch of N samples.

    `tv` is the estimate over the whole minibatch whatever the scope; `over` is 1 if it exceeds the
    threshold (with scope `fragment`: the share of the minibatch's fragments that do).
    """

    keep_N: Tensor
    tv: Tensor
    over: Tensor


@torch.no_grad()
def deviation_and_direction(logps: Logps, anchor: Anchor) -> tuple[Tensor, Tensor]:
    """Measure how far each action's probability has moved from the anchor, and which way.

    Returns:
        deviation_N, whose mean absolute value is twice the TV, and direction_N, whose sign says
        whether the action has become likelier. `gap` measures pi/beta - pi_T/beta, the distance
        between pi and pi_T under the actions that beta took (as GePPO does, arXiv 2111.00072).

    """
    if anchor == "gap":
        ratio_N = likelihood_ratio(logps.policy_N - logps.behaviour_N)
        start_ratio_N = likelihood_ratio(logps.start_N - logps.behaviour_N)
        return ratio_N - start_ratio_N, logps.policy_N - logps.start_N
    anchor_N = logps.behaviour_N if anchor == "behaviour" else logps.start_N
    log_ratio_N = bounded(logps.policy_N - anchor_N)
    return torch.expm1(log_ratio_N), log_ratio_N


@torch.no_grad()
def total_variation(deviation_N: Tensor) -> Tensor:
    """Return 0.5*mean|deviation|, in float32 or better."""
    return 0.5 * deviation_N.abs().mean()


@torch.no_grad()
def keep_mask(direction_N: Tensor, advantage_N: Tensor, over: Tensor) -> Tensor:
    """Choose the samples that keep their policy gradient.

    Args:
        direction_N: the log-ratio to the anchor, or anything of its sign.
        advantage_N: the very advantage that the loss uses.
        over: boolean, a scalar or [N]: is the threshold exceeded (for this sample)?

    """
    return ~over | (advantage_N * direction_N.sign() <= 0)


@torch.no_grad()
def filter_minibatch(
    logps: Logps, advantage_N: Tensor, anchor: Anchor, threshold: float
) -> Filtered:
    """Filter with one TV for the whole minibatch."""
    deviation_N, direction_N = deviation_and_direction(logps, anchor)
    tv = total_variation(deviation_N)
    over = tv > threshold
    return Filtered(keep_mask(direction_N, advantage_N, over), tv, over.to(tv.dtype))


@torch.no_grad()
def filter_fragments(
    logps: Logps,
    advantage_N: Tensor,
    anchor: Anchor,
    threshold: float,
    fragment_N: Tensor,
    fragments: int,
) -> Filtered:
    """Filter with one TV for each fragment's samples in the minibatch.

    Args:
        logps: log-densities of the minibatch.
        advantage_N: the advantage that the loss uses.
        anchor: the policy that TV is measured against.
        threshold: the TV up to which a fragment is not filtered.
        fragment_N: int64, each sample's fragment, in 0..fragments-1.
        fragments: how many there are in the phase; those without a sample here do not count.

    """
    deviation_N, direction_N = deviation_and_direction(logps, anchor)
    zeros = deviation_N.new_zeros(fragments)
    counts = zeros.index_add(0, fragment_N, torch.ones_like(deviation_N))
    totals = zeros.index_add(0, fragment_N, deviation_N.abs())
    each_over = 0.5 * totals / counts.clamp(min=1.0) > threshold
    keep_N = keep_mask(direction_N, advantage_N, each_over[fragment_N])
    over = each_over.to(deviation_N.dtype).sum() / (counts > 0).sum()
    return Filtered(keep_N, total_variation(deviation_N), over)
