"""Align: the advantage of the learner's policy on data of another.

Between the behaviour policy that produced a fragment and the policy at the start of the
optimisation phase lie several versions (backward lag). V-trace corrects the returns for it; as a
by-product it gives the advantage. With d_t = r_t + gamma*V(s_{t+1}) - V(s_t), one backward pass
computes

    e_t = min(rho_bar, rho_t)*d_t + gamma*lam*(1 - done_t)*min(c_bar, rho_t)*e_{t+1}
    v_t = V(s_t) + e_t                              # value target
    A_t = d_t + gamma*lam*(1 - done_t)*e_{t+1}      # without its own rho_t: the loss carries that

(Espeholt et al. 2018, arXiv 1802.01561, with the lambda of its section 4.1, remark 2.) With rho = 1
this is generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438).

The bootstrap value of a step is its successor's: on truncation and at the fragment's end too,
where the sum over later steps stops. After termination nothing follows and it counts as 0. A step
that is not valid is no sample: it always stands behind the end of an episode or of a fragment, gets
advantage 0 and its own value as target, and hands nothing to the step before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vaco_learner.ratios import likelihood_ratio

_DEVIATION_FLOOR = 1e-8

AdvantageForm = Literal["unweighted", "impala"]


@dataclass(frozen=True, slots=True)
class Steps:
    """What alignment reads, all [T, B]; float32 or float64, and booleans.

    `next_value_TB` is the critic's value of what really followed each step. It is not read where
    the step terminated.
    """

    rewards_TB: Tensor
    value_TB: Tensor
    next_value_TB: Tensor
    terminated_TB: Tensor
    truncated_TB: Tensor
    valid_TB: Tensor


@dataclass(frozen=True, slots=True)
class Aligned:
    """Value targets and advantages [T, B]; neither carries a gradient."""

    value_target_TB: Tensor
    advantage_TB: Tensor


@torch.no_grad()
def vtrace(
    steps: Steps,
    log_rho_TB: Tensor,
    *,
    gamma: float,
    lam: float,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
    form: AdvantageForm = "unweighted",
) -> Aligned:
    """Align with V-trace.

    Args:
        steps: the data and the critic's values.
        log_rho_TB: log-density of the actions under the policy to align to, less the behaviour's.
        gamma: discount.
        lam: mixes one-step (0) and full (1) returns.
        rho_bar: bound of the weight of a temporal difference; decides the fixed point.
        c_bar: bound of the weight of what comes later; decides the speed of contraction.
        form: `unweighted` as above; `impala` is r_t + gamma*v_{t+1} - V(s_t), whose bootstrap is
            the whole V-trace target and not its mixture with V by lambda.

    """
    rho_TB = likelihood_ratio(log_rho_TB)
    td_TB = _temporal_differences(steps, gamma)
    goes_on_TB = ~(steps.terminated_TB | steps.truncated_TB) & steps.valid_TB
    discount_TB = goes_on_TB.to(td_TB.dtype) * gamma
    error_TB = _accumulate(
        rho_TB.clamp(max=rho_bar) * td_TB, lam * discount_TB * rho_TB.clamp(max=c_bar)
    )
    later_TB = torch.zeros_like(error_TB)
    later_TB[:-1] = error_TB[1:]
    trace = lam if form == "unweighted" else 1.0
    return Aligned(
        value_target_TB=steps.value_TB + error_TB,
        advantage_TB=torch.addcmul(td_TB, discount_TB, later_TB, value=trace),
    )


def gae(steps: Steps, *, gamma: float, lam: float) -> Aligned:
    """Estimate generalised advantages: V-trace for data taken as the policy's own."""
    return vtrace(steps, torch.zeros_like(steps.value_TB), gamma=gamma, lam=lam)


def normalise(advantage_N: Tensor) -> Tensor:
    """Shift and scale to mean 0 and standard deviation 1, over the minibatch's own samples."""
    var, mean = torch.var_mean(advantage_N, correction=0)
    return (advantage_N - mean) / (var.sqrt() + _DEVIATION_FLOOR)


def normalise_kept(advantage_N: Tensor, keep_N: Tensor) -> Tensor:
    """Normalise among the samples that `keep_N` (booleans) keeps; 0 for the others."""
    share = keep_N.to(advantage_N.dtype) / keep_N.sum().clamp(min=1)
    centred_N = advantage_N - (share * advantage_N).sum()
    deviation = (share * centred_N.square()).sum().sqrt()
    return keep_N * centred_N / (deviation + _DEVIATION_FLOOR)


def _temporal_differences(steps: Steps, gamma: float) -> Tensor:
    """Return d_t, and 0 at steps that are not valid."""
    next_value_TB = steps.next_value_TB.masked_fill(steps.terminated_TB, 0.0)
    td_TB = steps.rewards_TB + gamma * next_value_TB - steps.value_TB
    return td_TB.masked_fill(~steps.valid_TB, 0.0)


def _accumulate(term_TB: Tensor, decay_TB: Tensor) -> Tensor:
    """Solve e_t = term_t + decay_t * e_{t+1} backwards from e_T = 0."""
    error_TB = torch.empty_like(term_TB)
    later_B = torch.zeros_like(term_TB[0])
    rows = zip(
        reversed(term_TB.unbind()),
        reversed(decay_TB.unbind()),
        reversed(error_TB.unbind()),
        strict=True,
    )
    for term_B, decay_B, error_B in rows:
        later_B = torch.addcmul(term_B, decay_B, later_B, out=error_B)
    return error_TB
