"""Supervised steps before the first version: a model that never answers right cannot be reinforced.

Cross-entropy of the answers behind their prompts, per token, Adam; the problems are gone through in
an order that the job's seed decides, again and again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from vaco.errors import UserError
from vaco.job import Optimisation, SamplingSpec, WarmStart
from vaco_policy.seeding import derive

from vaco_learner.language.completion_batch import CompletionBatch, part_of
from vaco_learner.language.forward import Forward
from vaco_learner.optimiser import NonFiniteUpdate, Optimiser

_LOG = logging.getLogger(__name__)
_REPORT_SECONDS: Final = 5.0
_MAX_GRADIENT_NORM: Final = 1.0


@dataclass(frozen=True, slots=True)
class Example:
    """A problem and what to answer, in tokens.

    Attributes:
        prompt: at least one token.
        answer: its end token included.

    """

    prompt: Sequence[int]
    answer: Sequence[int]


def warm_start(
    network: nn.Module,
    examples: Sequence[Example],
    spec: WarmStart,
    *,
    seed: int,
    bf16: bool,
    budget: int,
    stepped: Callable[[], None],
    tell: Callable[[str], None],
) -> float:
    """Train the network to answer the examples.

    Args:
        network: a causal language model, on the device where it will stay.
        examples: at least one.
        spec: steps, examples per step, step size.
        seed: of the job.
        bf16: whether the network computes in bfloat16 (autocast).
        budget: tokens that go through the network at once.
        stepped: called after every pass through the network.
        tell: called with how far it is, every few seconds.

    Returns:
        The last step's loss, in nats per token.

    Raises:
        UserError: there is no example, or training diverged.

    """
    if not examples:
        raise UserError(
            "spec.policy.warmStart",
            "there is no problem to train on",
            "Give some, or leave it out.",
        )
    forward = Forward(network, SamplingSpec(), bf16=bf16, budget=budget)
    adam = Optimisation(learning_rate=spec.learning_rate, max_gradient_norm=_MAX_GRADIENT_NORM)
    optimiser = Optimiser(network, adam)
    device = next(network.parameters()).device
    began = reported = time.monotonic()
    loss = 0.0
    orders = _orders(len(examples), spec.batch_size, derive(seed, "warm start"))
    for step in range(1, spec.steps + 1):
        batch = _batch([examples[number] for number in next(orders)], device)
        loss = _step(forward, optimiser, batch, spec.learning_rate, stepped)
        now = time.monotonic()
        if now - reported >= _REPORT_SECONDS or step == spec.steps:
            reported = now
            rate = step / (now - began)
            told = f"step {step} of {spec.steps}, loss {loss:.3f}, {rate:.1f} steps/s"
            _LOG.info("warm start: %s", told)
            tell(f"warm start: {told}")
    return loss


def _step(
    forward: Forward,
    optimiser: Optimiser,
    batch: CompletionBatch,
    learning_rate: float,
    stepped: Callable[[], None],
) -> float:
    """Step on the mean cross-entropy of the batch's tokens; return it."""
    whole = part_of(batch, torch.ones_like(batch.finished_S))
    optimiser.clear()
    total = torch.zeros((), device=batch.token_N.device)
    for _, scores in forward.micro_batches(batch, whole, range(batch.samples)):
        part = -scores.logp_N.sum() / batch.tokens
        part.backward()  # type: ignore[no-untyped-call]
        total += part.detach()
        stepped()
    try:
        optimiser.apply(total, learning_rate)
    except NonFiniteUpdate as error:
        raise UserError(
            "spec.policy.warmStart.learningRate", f"training diverged: {error}", "Lower it."
        ) from error
    return float(total)


def _orders(count: int, size: int, seed: int) -> Iterator[list[int]]:
    """Yield the numbers of each step's examples, without end."""
    generator = torch.Generator().manual_seed(seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < size:
            waiting += torch.randperm(count, generator=generator).tolist()
        yield waiting[:size]
        waiting = waiting[size:]


def _batch(examples: Sequence[Example], device: torch.device) -> CompletionBatch:
    def put(numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=device)

    token_N = put([token for example in examples for token in example.answer])
    nothing_S = torch.zeros(len(examples), device=device)
    return CompletionBatch(
        prompts=tuple(put(example.prompt) for example in examples),
        token_N=token_N,
        behaviour_logp_N=torch.zeros(len(token_N), device=device),
        length_S=put([len(example.answer) for example in examples]),
        group_S=put(range(len(examples))),
        reward_S=nothing_S,
        finished_S=nothing_S == 0,
    )
