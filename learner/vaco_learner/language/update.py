"""One optimisation phase on completions: filter and step, epochs x minibatches.

    groups -> advantages, survey with pi_T
                     |
             .--- next minibatch <--- Adam <--- gradient, micro-batch by micro-batch <---.
             '--> log pi of all its tokens --> filter, slope of each token's loss -------'

The gradient of a minibatch is summed up in micro-batches. Whether its tokens are filtered depends
on the total variation of all of them, so that has to be known before the first is summed up: the
tokens' log-probabilities are looked at without gradient first. In the first step of a phase the
survey has them already, and what fits into one micro-batch needs no second look; else it costs one
more forward pass. Completions whose tokens' losses have no slope (their group earned the same, or
the filter dropped them) are left out of the passes with gradient, which often saves more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from vaco.completions import CompletionGroup
from vaco.job import VACOJob
from vaco_policy.parameters import load_payload, to_payload
from vaco_policy.seeding import derive

from vaco_learner.filter import Logps
from vaco_learner.language.advantages import group_advantages
from vaco_learner.language.algorithms import TokenMinibatch, Weighed, make_algorithm, weigh
from vaco_learner.language.completion_batch import (
    CompletionBatch,
    Part,
    any_by_completion,
    collate,
    deal,
    part_of,
)
from vaco_learner.language.diagnostics import (
    LanguageStats,
    of_completions,
    of_mismatch,
    of_start,
    of_steps,
    record_step,
)
from vaco_learner.language.forward import Forward
from vaco_learner.optimiser import Optimiser, scheduled_rate
from vaco_learner.trainer import TrainerState

_GENERATOR = "generator"


@dataclass(slots=True)
class _Phase:
    """What a phase knows of its batch; `moved` and `dropped_N` change."""

    batch: CompletionBatch
    advantage_S: Tensor
    start_N: Tensor  # log pi_T
    dropped_N: Tensor  # bool: filtered in some step
    moved: bool = False  # a step was applied: pi is no longer pi_T


@dataclass(frozen=True, slots=True)
class _Live:
    """Tokens of a minibatch whose log-probabilities still have their graph."""

    index_N: Tensor
    logp_N: Tensor


class LanguageUpdater:
    """Owns a network's weights and everything that changes them.

    Args:
        network: a causal language model, on the device where it will stay.
        published: the module whose `state_dict` are the weights that change.
        job: its seed, algorithm, sampling, budget and precision are used, and `stop.envSteps` where
            the learning rate follows it.

    Attributes:
        updates: phases done.
        samples: completions trained on, over the job's whole life.

    """

    def __init__(self, network: nn.Module, published: nn.Module, job: VACOJob) -> None:
        spec, parts = job.spec, job.spec.language
        self._spec = parts.algorithm
        self._total_samples = spec.stop.env_steps
        self._group_size = parts.sampling.group_size
        self._normaliser = self._spec.loss_normaliser or float(parts.task.max_completion_tokens)
        self._published = published
        self._device = next(network.parameters()).device
        self.updates = 0
        self.samples = 0
        self._algorithm = make_algorithm(self._spec)
        self._forward = Forward(
            network,
            parts.sampling,
            bf16=spec.learner.precision == "bf16",
            budget=spec.learner.micro_batch_tokens,
        )
        self._optimiser = Optimiser(network, self._spec)
        self._generator = torch.Generator().manual_seed(derive(spec.seed, "minibatches"))

    def update(
        self,
        groups: Sequence[CompletionGroup],
        stepped: Callable[[], None],
        lags: Sequence[NDArray[np.int64]],
    ) -> LanguageStats:
        """Train on a batch: one phase, which makes one version.

        Args:
            groups: what to train on, at least one.
            stepped: called after every pass through the network.
            lags: of each group, in versions, one for each token.

        Raises:
            NonFiniteUpdate: a loss or a gradient is not finite. That step was not applied, the
                phase's earlier ones were; the updater is not to be used for further phases.
            ValueError: there is no group.

        """
        batch = collate(groups, self._device)
        advantage_S = group_advantages(
            batch.reward_S,
            batch.group_S,
            batch.groups,
            size=self._group_size,
            scale=self._spec.scale_advantages,
        )
        whole = part_of(batch, torch.ones_like(batch.finished_S))
        start = self._forward.survey(batch, whole, stepped, entropy=True)
        phase = _Phase(batch, advantage_S, start.logp_N, torch.zeros_like(start.logp_N).bool())
        learning_rate = scheduled_rate(self._spec, self.samples, self._total_samples)
        records = list(self._steps(phase, learning_rate, stepped))
        self.updates += 1
        self.samples += batch.samples
        lag_N = torch.from_numpy(np.concatenate(lags)).to(self._device)
        return LanguageStats(
            **of_steps(records),
            **of_start(batch, whole, start),
            **of_mismatch(batch, start, lag_N),
            **of_completions(batch, advantage_S, self._group_size),
            threshold=self._algorithm.threshold,
            filtered_samples=int(any_by_completion(phase.dropped_N, whole.length_S).sum()),
            learning_rate=learning_rate,
        )

    def state(self) -> TrainerState:
        """Copy everything that changes, for a checkpoint."""
        return TrainerState(
            policy=to_payload(self._published),
            optimizer={**self._optimiser.state(), _GENERATOR: self._generator.get_state()},
            document={"updates": self.updates, "samples": self.samples},
        )

    def load_state(self, state: TrainerState) -> None:
        """Continue from a checkpoint of the same job.

        Raises:
            UserError: weights or moments are not those of this model.

        """
        load_payload(self._published, state.policy)
        moments = dict(state.optimizer)
        self._generator.set_state(moments.pop(_GENERATOR).cpu())
        self._optimiser.load_state(moments)
        self.updates = int(state.document["updates"])
        self.samples = int(state.document["samples"])

    def _steps(
        self, phase: _Phase, learning_rate: float, stepped: Callable[[], None]
    ) -> Iterator[Tensor]:
        """Step through all epochs; yields the record of every gradient step."""
        for _ in range(self._spec.epochs):
            for part in deal(phase.batch, self._spec.minibatches, self._generator):
                yield self._step(phase, part, learning_rate, stepped)
                stepped()

    def _step(
        self, phase: _Phase, part: Part, learning_rate: float, stepped: Callable[[], None]
    ) -> Tensor:
        """Filter one minibatch and step on it."""
        batch = phase.batch
        policy_N, live = self._look(phase, part, stepped)
        minibatch = TokenMinibatch(
            Logps(policy_N, batch.behaviour_logp_N[part.index_N], phase.start_N[part.index_N]),
            part.of_tokens(phase.advantage_S),
            part.length_S,
            part.completions_G,
        )
        weighed = weigh(self._algorithm, minibatch)
        scale = 1.0 / (self._normaliser * len(part.sequence_S))
        self._optimiser.clear()
        if live is None:
            self._accumulate(batch, part, weighed, scale, stepped)
        else:
            _backward(weighed.slope_N[live.index_N] * scale, live.logp_N)
        loss = weighed.loss_N.sum() * scale
        if bool((weighed.slope_N != 0).any()):
            norm = self._optimiser.apply(loss, learning_rate)
            phase.moved = True
        else:
            # Adam's momentum would move the weights all the same, by nothing that was learned here.
            norm = torch.zeros_like(loss)
        if weighed.filtered is not None:
            phase.dropped_N[part.index_N] |= ~weighed.filtered.keep_N
        return record_step(minibatch, weighed, self._algorithm.scope, loss, norm)

    def _look(
        self, phase: _Phase, part: Part, stepped: Callable[[], None]
    ) -> tuple[Tensor, _Live | None]:
        """Return log pi of all tokens of a minibatch, without gradient, and those that have one."""
        batch = phase.batch
        if not phase.moved:
            return phase.start_N[part.index_N], None
        steep_S = phase.advantage_S[part.sequence_S] != 0
        steep = steep_S.nonzero().squeeze(1).tolist()
        if not self._forward.at_once(batch, part, steep):
            return self._forward.survey(batch, part, stepped).logp_N, None
        level = (~steep_S).nonzero().squeeze(1).tolist()
        policy_N = self._forward.survey(batch, part, stepped, level).logp_N
        ((micro, scores),) = self._forward.micro_batches(batch, part, steep)
        policy_N[micro.index_N] = scores.logp_N.detach()
        return policy_N, _Live(micro.index_N, scores.logp_N)

    def _accumulate(
        self,
        batch: CompletionBatch,
        part: Part,
        weighed: Weighed,
        scale: float,
        stepped: Callable[[], None],
    ) -> None:
        """Sum the minibatch's gradient up, micro-batch by micro-batch."""
        steep_S = torch.segment_reduce(weighed.slope_N.abs(), "sum", lengths=part.length_S)
        chosen = (steep_S != 0).nonzero().squeeze(1).tolist()
        for micro, scores in self._forward.micro_batches(batch, part, chosen):
            _backward(weighed.slope_N[micro.index_N] * scale, scores.logp_N)
            stepped()


def _backward(slope_N: Tensor, logp_N: Tensor) -> None:
    torch.dot(slope_N, logp_N).backward()  # type: ignore[no-untyped-call]
