"""What goes through the model at once: completions of similar length, under a budget of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vaco_learner.language.completion_batch import CompletionBatch, Part


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """B completions behind their prompts, padded on the right.

    Attributes:
        tokens_BT: int64; without each completion's last token, behind which nothing is predicted.
        before_N: int64, flat index b*T + t of the position before each token of the completions.
        index_N: int64, these tokens, by their numbers in the part.

    """

    tokens_BT: Tensor
    before_N: Tensor
    index_N: Tensor


def bucket(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Put sequences of similar length together, the longest first: a lack of memory shows at once.

    Args:
        lengths: of the sequences, in tokens.
        budget: tokens of a bucket at most, padding included; a longer sequence is alone in its own.

    Returns:
        The sequences of each bucket, by their numbers.

    """
    longest_first = sorted(range(len(lengths)), key=lambda number: (-lengths[number], number))
    buckets: list[list[int]] = []
    room = 0
    for number in longest_first:
        if room == 0:
            buckets.append([])
            room = max(1, budget // max(1, lengths[number]))
        buckets[-1].append(number)
        room -= 1
    return buckets


def lay_out(
    batch: CompletionBatch, part: Part, chosen: Sequence[int], budget: int
) -> Iterator[MicroBatch]:
    """Lay completions out, one micro-batch at a time.

    Args:
        batch: where their tokens are.
        part: of the batch.
        chosen: completions, by their numbers in the part.
        budget: tokens of a micro-batch at most, padding included; a longer completion is alone.

    """
    lengths = part.length_S.tolist()
    ends = part.length_S.cumsum(0).tolist()
    prompts = [batch.prompts[group] for group in batch.group_S[part.sequence_S].tolist()]
    totals = _totals(batch, part, chosen)
    for bucketed in bucket(totals, budget):
        members = [chosen[place] for place in bucketed]
        width = totals[bucketed[0]]
        spans = [(ends[number] - lengths[number], ends[number]) for number in members]
        rows = [
            torch.cat((prompts[number], batch.token_N[part.index_N[first : end - 1]]))
            for number, (first, end) in zip(members, spans, strict=True)
        ]
        befores = [
            row * width + len(prompts[number]) - 1 + torch.arange(lengths[number])
            for row, number in enumerate(members)
        ]
        device = batch.token_N.device
        yield MicroBatch(
            tokens_BT=pad_sequence(rows, batch_first=True),
            before_N=torch.cat(befores).to(device),
            index_N=torch.cat([torch.arange(first, end) for first, end in spans]).to(device),
        )


def micro_batch_count(
    batch: CompletionBatch, part: Part, chosen: Sequence[int], budget: int
) -> int:
    """Return how many micro-batches `lay_out` makes of the same arguments."""
    return len(bucket(_totals(batch, part, chosen), budget))


def _totals(batch: CompletionBatch, part: Part, chosen: Sequence[int]) -> list[int]:
    """Return how many tokens of each completion and its prompt go through the network."""
    lengths = part.length_S.tolist()
    groups = batch.group_S[part.sequence_S].tolist()
    return [len(batch.prompts[groups[number]]) + lengths[number] - 1 for number in chosen]
