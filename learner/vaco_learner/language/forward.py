"""The model on a phase's completions: without gradient, or with, in micro-batches.

In bfloat16 the network computes in that format, and its log-probabilities differ from the actors'
by rounding. That is part of the mismatch that is measured (`vaco_learner.language.diagnostics`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from vaco.job import SamplingSpec
from vaco_policy.language.logps import CompletionScorer, TokenScores

from vaco_learner.language.completion_batch import CompletionBatch, Part
from vaco_learner.language.micro_batches import MicroBatch, lay_out, micro_batch_count


class Forward:
    """Scores the tokens of completions.

    Args:
        network: a causal language model.
        sampling: what bends its distribution where actors sample from it.
        bf16: whether the network computes in bfloat16 (autocast); scores are float32 anyway.
        budget: tokens that go through the network at once.

    """

    def __init__(
        self, network: nn.Module, sampling: SamplingSpec, *, bf16: bool, budget: int
    ) -> None:
        self._scorer = CompletionScorer(network, sampling)
        self._bf16 = bf16
        self._budget = budget

    @torch.no_grad()
    def survey(
        self,
        batch: CompletionBatch,
        part: Part,
        stepped: Callable[[], None],
        chosen: Sequence[int] | None = None,
        *,
        entropy: bool = False,
    ) -> TokenScores:
        """Score the tokens of a part, in its order, without gradient.

        Args:
            batch: where they are.
            part: of the batch.
            stepped: called after every micro-batch.
            chosen: completions, by their numbers in the part; the tokens of the others score 0.
                None: all.
            entropy: whether entropies are wanted too, and which tokens are outside.

        """
        chosen = range(len(part.sequence_S)) if chosen is None else chosen
        logp_N = torch.zeros(len(part.index_N), device=part.index_N.device)
        entropy_N, outside_N = torch.zeros_like(logp_N), torch.zeros_like(logp_N).bool()
        for micro, scores in self.micro_batches(batch, part, chosen, entropy=entropy):
            logp_N[micro.index_N] = scores.logp_N
            if scores.entropy_N is not None and scores.outside_N is not None:
                entropy_N[micro.index_N] = scores.entropy_N
                outside_N[micro.index_N] = scores.outside_N
            stepped()
        return TokenScores(logp_N, entropy_N, outside_N) if entropy else TokenScores(logp_N)

    def at_once(self, batch: CompletionBatch, part: Part, chosen: Sequence[int]) -> bool:
        """Whether some of a part's completions go through the network in one micro-batch."""
        return micro_batch_count(batch, part, chosen, self._budget) == 1

    def micro_batches(
        self, batch: CompletionBatch, part: Part, chosen: Sequence[int], *, entropy: bool = False
    ) -> Iterator[tuple[MicroBatch, TokenScores]]:
        """Score the tokens of some of a part's completions, micro-batch by micro-batch.

        Args:
            batch: where they are.
            part: of the batch.
            chosen: completions, by their numbers in the part.
            entropy: whether entropies are wanted too, and which tokens are outside.

        """
        for micro in lay_out(batch, part, chosen, self._budget):
            token_N: Tensor = batch.token_N[part.index_N[micro.index_N]]
            with torch.autocast(token_N.device.type, torch.bfloat16, enabled=self._bf16):
                scores = self._scorer(micro.tokens_BT, micro.before_N, token_N, entropy=entropy)
            yield micro, scores
