"""What is logged of every phase on a language model.

During a phase everything stays a tensor; it is read once, at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vaco_policy.language.logps import TokenScores

from vaco_learner.algorithms.base import kl_from_behaviour
from vaco_learner.diagnostics import MAX_TV_STEPS, importance
from vaco_learner.filter import total_variation
from vaco_learner.language.algorithms import TokenMinibatch, Weighed
from vaco_learner.language.completion_batch import CompletionBatch, Part, any_by_completion
from vaco_learner.language.filter import Scope, prompt_variation, scoped_variation
from vaco_learner.ratios import bounded

_STEP_FIELDS = (
    "tv",
    "tv_behaviour",
    "tv_start",
    "over_threshold_share",
    "filtered_share",
    "kl",
    "policy_loss",
    "gradient_norm",
)


@dataclass(frozen=True, slots=True)
class LanguageStats:
    """One optimisation phase.

    beta is the distribution that was sampled from, pi_T the model at the start of the phase, pi the
    one that each gradient step started from. Means over gradient steps weigh all steps alike; means
    over tokens and completions are over the whole phase. A phase of empty completions has no
    gradient step, and zeros.

    Attributes:
        tv: total variation between pi and the filter's anchor (beta, if nothing is filtered), as
            the algorithm's `scope` averages it; mean over gradient steps.
        tv_behaviour: the same against beta.
        tv_start: the same against pi_T.
        threshold: TV above which tokens are filtered; none if nothing is.
        filtered_share: tokens dropped by the filter / tokens, mean over gradient steps.
        filtered_samples: completions of which a token was dropped in at least one gradient step.
        over_threshold_share: share of gradient steps with TV over the threshold.
        rho_mean: mean of pi_T/beta over the tokens.
        rho_max: its maximum.
        ess: effective sample size of these weights as a share of the tokens, in (0, 1].
        policy_loss: mean over gradient steps, like the next.
        gradient_norm: before it is bounded.
        kl: KL(beta||pi) of a token, estimated from beta's samples.
        entropy: of pi_T's distribution of the next token, in nats, mean over the tokens.
        prompt_tv_p50: TV between pi_T and beta of the median prompt.
        prompt_tv_p95: of the prompt that 95 % do not exceed.
        prompt_tv_max: of the worst.
        mismatch_tokens: tokens of completions that were sampled with the very weights of pi_T from
            end to end. What pi_T and beta disagree on there is no lag: it is how two programs
            compute the same model.
        mismatch_mean: mean of |log pi_T - log beta| over them; none if there is none.
        mismatch_max: its maximum.
        mismatch_tv: total variation over them.
        mismatch_outside: those of them that pi_T would not sample: they are outside of its top-k or
            top-p. Their ratio is of no policy that there was.
        lagged_tv: total variation between pi_T and beta over the other tokens; none if there is
            none.
        lagged_outside: those of the other tokens that pi_T would not sample.
        reward_mean: over the completions, like the next.
        finished_share: those that ended before the budget.
        completion_tokens: their mean length in tokens.
        completion_tokens_max: the longest.
        empty_completions: those without a token.
        groups: prompts, counted as often as they were completed.
        partial_groups: those with fewer completions than `sampling.groupSize`.
        uniform_groups: those that give no gradient: their completions earned the same, or they
            are not whole.
        tokens: of all completions.
        learning_rate: of this phase.
        gradient_steps: how many there were.
        samples: completions.
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
    gradient_norm: float
    kl: float
    entropy: float
    prompt_tv_p50: float
    prompt_tv_p95: float
    prompt_tv_max: float
    mismatch_tokens: int
    mismatch_mean: float | None
    mismatch_max: float | None
    mismatch_tv: float | None
    mismatch_outside: int
    lagged_tv: float | None
    lagged_outside: int
    reward_mean: float
    finished_share: float
    completion_tokens: float
    completion_tokens_max: int
    empty_completions: int
    groups: int
    partial_groups: int
    uniform_groups: int
    tokens: int
    learning_rate: float
    gradient_steps: int
    samples: int
    tv_per_step: tuple[float, ...]


@torch.no_grad()
def record_step(
    minibatch: TokenMinibatch, weighed: Weighed, scope: Scope, loss: Tensor, norm: Tensor
) -> Tensor:
    """Record what a gradient step saw before it was applied, in the order of `_STEP_FIELDS`."""
    logps, sizes = minibatch.logps, (minibatch.length_S, minibatch.completions_G)
    log_ratio_N = bounded(logps.policy_N - logps.behaviour_N)
    moved_N = torch.expm1(bounded(logps.policy_N - logps.start_N))
    tv_behaviour = scoped_variation(torch.expm1(log_ratio_N), *sizes, scope)
    tv_start = scoped_variation(moved_N, *sizes, scope)
    if weighed.filtered is None:
        tv, over, dropped = tv_behaviour, torch.zeros_like(tv_start), torch.zeros_like(tv_start)
    else:
        tv, over = weighed.filtered.tv, weighed.filtered.over
        dropped = 1 - weighed.filtered.keep_N.to(tv.dtype).mean()
    kl = kl_from_behaviour(log_ratio_N)
    return torch.stack((tv, tv_behaviour, tv_start, over, dropped, kl, loss, norm))


@torch.no_grad()
def of_steps(records: list[Tensor]) -> dict[str, Any]:
    """Return the fields of `LanguageStats` that come from gradient steps."""
    if not records:
        return {**dict.fromkeys(_STEP_FIELDS, 0.0), "gradient_steps": 0, "tv_per_step": ()}
    table = torch.stack(records)
    stride = -(-len(records) // MAX_TV_STEPS)
    return {
        **dict(zip(_STEP_FIELDS, table.double().mean(dim=0).tolist(), strict=True)),
        "gradient_steps": len(records),
        "tv_per_step": tuple(table[::stride, 0].tolist()),
    }


@torch.no_grad()
def of_start(batch: CompletionBatch, whole: Part, start: TokenScores) -> dict[str, Any]:
    """Return the fields that compare pi_T with beta.

    Args:
        batch: the phase's.
        whole: all its completions that have a token.
        start: what pi_T says of all tokens of the batch, with entropies.

    """
    fields = ("rho_mean", "rho_max", "ess", "entropy")
    quantiles = ("prompt_tv_p50", "prompt_tv_p95", "prompt_tv_max")
    if not batch.tokens or start.entropy_N is None:
        return dict.fromkeys((*fields, *quantiles), 0.0)
    log_rho_N = start.logp_N - batch.behaviour_logp_N
    prompt_tv_G = prompt_variation(
        torch.expm1(bounded(log_rho_N)), whole.length_S, whole.completions_G
    )
    at = torch.tensor([0.5, 0.95, 1.0], device=prompt_tv_G.device)
    ranked = torch.quantile(prompt_tv_G, at, interpolation="higher")
    values = torch.cat((importance(log_rho_N), start.entropy_N.mean()[None], ranked)).tolist()
    return dict(zip((*fields, *quantiles), values, strict=True))


@torch.no_grad()
def of_mismatch(batch: CompletionBatch, start: TokenScores, lag_N: Tensor) -> dict[str, Any]:
    """Return the fields that tell lag from what is none.

    Args:
        batch: the phase's.
        start: what pi_T says of all tokens of the batch, with those that are outside.
        lag_N: int64, by how many versions the weights that sampled each were behind pi_T.

    """
    log_rho_N = start.logp_N - batch.behaviour_logp_N
    outside_N = torch.zeros_like(lag_N).bool() if start.outside_N is None else start.outside_N
    # Behind keys and values of older weights, a token of lag 0 is of no single version.
    lagged_S = any_by_completion(lag_N != 0, batch.length_S)
    is_fresh_N = (~lagged_S).repeat_interleave(batch.length_S)
    fresh_N, lagged_N = log_rho_N[is_fresh_N], log_rho_N[~is_fresh_N]
    far_N = fresh_N.abs()
    return {
        "mismatch_tokens": len(fresh_N),
        "mismatch_mean": float(far_N.mean()) if len(fresh_N) else None,
        "mismatch_max": float(far_N.max()) if len(fresh_N) else None,
        "mismatch_tv": _variation(fresh_N),
        "mismatch_outside": int((outside_N & is_fresh_N).sum()),
        "lagged_tv": _variation(lagged_N),
        "lagged_outside": int((outside_N & ~is_fresh_N).sum()),
    }


def _variation(log_rho_N: Tensor) -> float | None:
    if not len(log_rho_N):
        return None
    return float(total_variation(torch.expm1(bounded(log_rho_N))))


@torch.no_grad()
def of_completions(batch: CompletionBatch, advantage_S: Tensor, group_size: int) -> dict[str, Any]:
    """Return the fields that describe the completions themselves."""
    zeros_G = torch.zeros(batch.groups, dtype=torch.int64, device=batch.group_S.device)
    size_G = zeros_G.index_add(0, batch.group_S, torch.ones_like(batch.group_S))
    better_G = zeros_G.index_add(0, batch.group_S, (advantage_S != 0).long())
    return {
        "reward_mean": float(batch.reward_S.double().mean()),
        "finished_share": float(batch.finished_S.double().mean()),
        "completion_tokens": float(batch.length_S.double().mean()),
        "completion_tokens_max": int(batch.length_S.max()),
        "empty_completions": int((batch.length_S == 0).sum()),
        "groups": batch.groups,
        "partial_groups": int((size_G < group_size).sum()),
        "uniform_groups": int((better_G == 0).sum()),
        "tokens": batch.tokens,
        "samples": batch.samples,
    }
