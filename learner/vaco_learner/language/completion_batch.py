"""The batch of one optimisation phase: the completions of many groups, token after token.

Everything that is said about a token is a flat array over the N tokens of all completions: groups
one after the other, a group's completions one after the other, a completion's tokens in order. A
part of the batch keeps that order, so the tokens of a completion are always neighbours, and so are
the completions of a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from vaco.completions import CompletionGroup


@dataclass(frozen=True, slots=True)
class CompletionBatch:
    """S completions with N tokens, of G groups.

    Attributes:
        prompts: int64 [P] of each group, G of them.
        token_N: int64.
        behaviour_logp_N: float32, under the distribution that was sampled from.
        length_S: int64, tokens of each completion; some may have none.
        group_S: int64, the group of each completion, ascending.
        reward_S: float32.
        finished_S: bool; False: cut at the budget.

    """

    prompts: tuple[Tensor, ...]
    token_N: Tensor
    behaviour_logp_N: Tensor
    length_S: Tensor
    group_S: Tensor
    reward_S: Tensor
    finished_S: Tensor

    @property
    def groups(self) -> int:
        """G."""
        return len(self.prompts)

    @property
    def samples(self) -> int:
        """S."""
        return len(self.length_S)

    @property
    def tokens(self) -> int:
        """N."""
        return len(self.token_N)


@dataclass(frozen=True, slots=True)
class Part:
    """Some of a batch's completions: whole groups, without completions that have no token.

    Attributes:
        sequence_S: int64, the completions, by their numbers in the batch, ascending.
        index_N: int64, their tokens, by their numbers in the batch, ascending.
        length_S: int64, tokens of each of them; none is 0.
        completions_G: int64, how many of them each of the part's groups has; none is 0.

    """

    sequence_S: Tensor
    index_N: Tensor
    length_S: Tensor
    completions_G: Tensor

    def of_tokens(self, per_completion: Tensor) -> Tensor:
        """Repeat what is known of the batch's completions for each of the part's tokens."""
        return per_completion[self.sequence_S].repeat_interleave(self.length_S)


def collate(
    groups: Sequence[CompletionGroup], device: torch.device | str = "cpu"
) -> CompletionBatch:
    """Put groups one after the other.

    Args:
        groups: at least one; all checked against the same `CompletionSpec`.
        device: where the batch shall live.

    Raises:
        ValueError: there is no group.

    """
    if not groups:
        raise ValueError("collate needs at least one group")

    def put(name: str, dtype: type[np.generic]) -> Tensor:
        whole: NDArray[np.generic] = np.concatenate([getattr(g, name) for g in groups])
        return torch.from_numpy(whole.astype(dtype)).to(device)

    owner = np.repeat(np.arange(len(groups)), [group.samples for group in groups])
    return CompletionBatch(
        prompts=tuple(torch.from_numpy(g.prompt.astype(np.int64)).to(device) for g in groups),
        token_N=put("tokens", np.int64),
        behaviour_logp_N=put("behaviour_logp", np.float32),
        length_S=put("lengths", np.int64),
        group_S=torch.from_numpy(owner).to(device),
        reward_S=put("rewards", np.float32),
        finished_S=put("finished", np.bool_),
    )


def part_of(batch: CompletionBatch, chosen_S: Tensor) -> Part:
    """Return the part with the completions where `chosen_S` (bool [S]) holds, empty ones aside."""
    chosen_S = chosen_S & (batch.length_S > 0)
    sequence_S = chosen_S.nonzero().squeeze(1)
    _, completions_G = torch.unique_consecutive(batch.group_S[sequence_S], return_counts=True)
    return Part(
        sequence_S=sequence_S,
        index_N=chosen_S.repeat_interleave(batch.length_S).nonzero().squeeze(1),
        length_S=batch.length_S[sequence_S],
        completions_G=completions_G,
    )


def deal(batch: CompletionBatch, count: int, generator: torch.Generator) -> list[Part]:
    """Deal whole groups out at random, into at most `count` parts, none of them without a token.

    The order is drawn on the CPU, so that a seed means the same on every device.
    """
    usable_G = torch.unique(batch.group_S[batch.length_S > 0])
    order = torch.randperm(len(usable_G), generator=generator).to(usable_G.device)
    parts = usable_G[order].tensor_split(max(1, min(count, len(usable_G))))
    return [part_of(batch, torch.isin(batch.group_S, group_G)) for group_G in parts if len(group_G)]


def any_by_completion(flag_N: Tensor, length_S: Tensor) -> Tensor:
    """Return booleans [S]: whether any of a completion's tokens has the flag."""
    if not len(flag_N):  # of no tokens torch reduces nothing
        return torch.zeros_like(length_S, dtype=torch.bool)
    return torch.segment_reduce(flag_N.float(), "max", lengths=length_S, initial=0.0) > 0
