"""What is logged of every update.

During a phase everything stays a tensor; it is read once, at the end, so that a GPU is not made to
wait for its numbers after every gradient step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vaco_learner.algorithms.base import PolicyLoss, kl_from_behaviour
from vaco_learner.filter import Logps, total_variation
from vaco_learner.ratios import bounded, likelihood_ratio

MAX_TV_STEPS = 256
_STEP_FIELDS = (
    "tv",
    "tv_behaviour",
    "tv_start",
    "over_threshold_share",
    "filtered_share",
    "kl",
    "policy_loss",
    "value_loss",
    "entropy",
    "gradient_norm",
)


@dataclass(frozen=True, slots=True)
class UpdateStats:
    """One optimisation phase.

    beta is the behaviour policy, pi_T the policy at the start of the phase, pi the one that each
    gradient step started from. Means over gradient steps weigh all steps alike.

    Attributes:
        tv: total variation between pi and the filter's anchor (beta, if nothing is filtered); mean
            over gradient steps.
        tv_behaviour: the same against beta.
        tv_start: the same against pi_T.
        threshold: TV above which samples are filtered; none if nothing is.
        filtered_share: samples dropped by the filter / samples, mean over gradient steps.
        filtered_samples: samples that were dropped in at least one gradient step.
        over_threshold_share: share of gradient steps with TV over the threshold (of their
            fragments, with filterScope `fragment`).
        rho_mean: mean of pi_T/beta over the samples.
        rho_max: its maximum.
        ess: effective sample size of these weights as a share of the samples, in (0, 1].
        policy_loss: mean over gradient steps, like the next ones.
        value_loss: 0.5*mean (V - v)^2, before its coefficient.
        entropy: of pi, in nats.
        gradient_norm: before it is clipped.
        kl: KL(beta||pi), estimated from beta's samples.
        explained_variance: 1 - Var(v - V)/Var(v), with V and targets from the start of the phase; 0
            where the targets do not vary.
        learning_rate: of this phase.
        gradient_steps: how many there were.
        samples: valid steps in the batch.
        tv_per_step: `tv` of each gradient step; of evenly spaced ones if there were over 256.

    """

    tv: float
    tv_behaviour: float
    tv_start: float
    threshold: float | None
    filtered_share: float
    filtered_samples: int
    over_threshold_share: float
    rho_mean: float
    rho_max: float
    ess: float
    policy_loss: float
    value_loss: float
    entropy: float
    gradient_norm: float
    kl: float
    explained_variance: float
    learning_rate: float
    gradient_steps: int
    samples: int
    tv_per_step: tuple[float, ...]


@torch.no_grad()
def record_step(
    logps: Logps,
    policy: PolicyLoss,
    value_loss: Tensor,
    entropy: Tensor,
    gradient_norm: Tensor,
) -> Tensor:
    """Record what a gradient step saw before it was applied, in the order of `_STEP_FIELDS`."""
    log_ratio_N = bounded(logps.policy_N - logps.behaviour_N)
    tv_behaviour = total_variation(torch.expm1(log_ratio_N))
    tv_start = total_variation(torch.expm1(bounded(logps.policy_N - logps.start_N)))
    if policy.filtered is None:
        tv, over, dropped = tv_behaviour, torch.zeros_like(tv_start), torch.zeros_like(tv_start)
    else:
        tv, over = policy.filtered.tv, policy.filtered.over
        dropped = 1 - policy.filtered.keep_N.to(tv.dtype).mean()
    values = (
        tv,
        tv_behaviour,
        tv_start,
        over,
        dropped,
        kl_from_behaviour(log_ratio_N),
        policy.loss,
        value_loss,
        entropy,
        gradient_norm,
    )
    return torch.stack(values)


@torch.no_grad()
def importance(log_rho_N: Tensor) -> Tensor:
    """Return mean and maximum of rho, and (sum rho)^2 / (N * sum rho^2)."""
    rho_N = likelihood_ratio(log_rho_N)
    return torch.stack((rho_N.mean(), rho_N.max(), rho_N.mean().square() / rho_N.square().mean()))


@torch.no_grad()
def explained_variance(target_N: Tensor, value_N: Tensor) -> Tensor:
    """Return 1 - Var(target - value)/Var(target); 0 where the target does not vary."""
    spread = target_N.var(correction=0)
    explained = 1 - (target_N - value_N).var(correction=0) / spread
    return torch.where(spread > 0, explained, torch.zeros_like(explained))


def summarise(
    records: list[Tensor],
    importance_3: Tensor,
    explained: Tensor,
    *,
    threshold: float | None,
    filtered_samples: Tensor,
    learning_rate: float,
    samples: int,
) -> UpdateStats:
    """Read everything from the device and put it together."""
    table = torch.stack(records)
    means = dict(zip(_STEP_FIELDS, table.double().mean(dim=0).tolist(), strict=True))
    stride = -(-len(records) // MAX_TV_STEPS)
    rho_mean, rho_max, ess = importance_3.tolist()
    return UpdateStats(
        **means,
        threshold=threshold,
        filtered_samples=int(filtered_samples),
        rho_mean=rho_mean,
        rho_max=rho_max,
        ess=ess,
        explained_variance=float(explained),
        learning_rate=learning_rate,
        gradient_steps=len(records),
        samples=samples,
        tv_per_step=tuple(table[::stride, 0].tolist()),
    )
