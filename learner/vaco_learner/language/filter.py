"""The filter of `vaco_learner.filter`, for tokens: how total variation is averaged is what differs.

Completions differ in length. With scope `prompt`, a long one counts no more than a short one, and a
prompt with many completions no more than one with few: total variation is the mean over prompts of
the mean over their completions of the mean over their tokens. With scope `batch`, tokens count
alike. Completions without tokens do not count, nor do prompts without others.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from vaco_learner.filter import (
    Anchor,
    Filtered,
    Logps,
    deviation_and_direction,
    keep_mask,
    total_variation,
)

Scope = Literal["prompt", "batch"]


@torch.no_grad()
def prompt_variation(deviation_N: Tensor, length_S: Tensor, completions_G: Tensor) -> Tensor:
    """Return each prompt's total variation, [G].

    Args:
        deviation_N: of each token, pi/anchor - 1 or what stands for it; completion by completion.
        length_S: tokens of each completion, none of them 0; prompt by prompt.
        completions_G: completions of each prompt, none of them 0.

    """
    of_completion_S = torch.segment_reduce(0.5 * deviation_N.abs(), "mean", lengths=length_S)
    return torch.segment_reduce(of_completion_S, "mean", lengths=completions_G)


@torch.no_grad()
def scoped_variation(
    deviation_N: Tensor, length_S: Tensor, completions_G: Tensor, scope: Scope
) -> Tensor:
    """Return the total variation of a minibatch, a scalar; arguments as of `prompt_variation`."""
    if scope == "batch":
        return total_variation(deviation_N)
    return prompt_variation(deviation_N, length_S, completions_G).mean()


@torch.no_grad()
def filter_tokens(
    logps: Logps,
    advantage_N: Tensor,
    length_S: Tensor,
    completions_G: Tensor,
    *,
    anchor: Anchor,
    scope: Scope,
    threshold: float,
) -> Filtered:
    """Filter the tokens of a minibatch with one TV for all of it.

    Args:
        logps: log-probabilities of its tokens.
        advantage_N: of each token's completion.
        length_S: tokens of each completion, none of them 0.
        completions_G: completions of each prompt, none of them 0.
        anchor: the distribution that TV is measured against.
        scope: how TV is averaged.
        threshold: the TV up to which nothing is filtered.

    """
    deviation_N, direction_N = deviation_and_direction(logps, anchor)
    tv = scoped_variation(deviation_N, length_S, completions_G, scope)
    over = tv > threshold
    return Filtered(keep_mask(direction_N, advantage_N, over), tv, over.to(tv.dtype))
