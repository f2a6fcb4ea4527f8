"""Completions laid out under a budget, and gradients that do not depend on how they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from vaco.completions import CompletionGroup
from vaco.job import VACOJob
from vaco_learner.language.advantages import group_advantages
from vaco_learner.language.completion_batch import collate, deal, part_of
from vaco_learner.language.micro_batches import bucket, lay_out
from vaco_learner.language.update import LanguageUpdater

MakeJob = Callable[..., VACOJob]
MakeDecoder = Callable[..., nn.Module]
MakeGroups = Callable[..., list[CompletionGroup]]


def nothing() -> None:
    """Nobody counts the steps."""


# A large epsilon keeps Adam from turning rounding noise in tiny gradients into whole steps.
SMOOTH = {"adamEpsilon": 1e-3, "learningRate": 1e-2, "maxGradientNorm": 1e6}
ALGORITHMS = ["vaco-lm", "grpo", "dppo", "tis"]


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 200))
def test_buckets_hold_everything_under_the_budget(lengths: list[int], budget: int) -> None:
    buckets = bucket(lengths, budget)
    assert sorted(number for members in buckets for number in members) == list(range(len(lengths)))
    for members in buckets:
        longest = max(lengths[number] for number in members)
        assert longest * len(members) <= budget or len(members) == 1
    order = [lengths[number] for members in buckets for number in members]
    assert order == sorted(order, reverse=True)


def test_every_token_is_predicted_from_the_one_before_it(make_groups: MakeGroups) -> None:
    groups = make_groups()
    batch = collate(groups)
    part = part_of(batch, batch.group_S >= 2)
    seen = []
    for micro in lay_out(batch, part, range(len(part.sequence_S)), budget=30):
        width = micro.tokens_BT.shape[1]
        assert micro.tokens_BT.numel() <= 30
        for before, index in zip(micro.before_N.tolist(), micro.index_N.tolist(), strict=True):
            number = int(part.index_N[index])
            row, column = divmod(before, width)
            sequence, place = _whereabouts(groups, number)
            assert micro.tokens_BT[row, : column + 1].tolist() == sequence[: column + 1]
            assert column + 1 == place
            seen.append(index)
    assert sorted(seen) == list(range(len(part.index_N)))


def _whereabouts(groups: list[CompletionGroup], number: int) -> tuple[list[int], int]:
    """Prompt and completion of a token of the batch, and its place in it."""
    for group in groups:
        start = 0
        for length in group.lengths.tolist():
            if start <= number < start + length:
                tokens = group.tokens[start : start + length].tolist()
                return [*group.prompt.tolist(), *tokens], len(group.prompt) + number - start
            start += length
        number -= start
    raise AssertionError


def test_minibatches_are_whole_groups_and_all_of_them(make_groups: MakeGroups) -> None:
    groups = make_groups(groups=7)
    batch = collate(groups)
    generator = torch.Generator().manual_seed(0)
    orders = []
    for _ in range(2):
        parts = deal(batch, 3, generator)
        orders.append([batch.group_S[part.sequence_S].unique().tolist() for part in parts])
        assert sorted(len(each) for each in orders[-1]) == [2, 2, 3]
        assert sorted(group for each in orders[-1] for group in each) == list(range(7))
        for part in parts:
            assert part.completions_G.tolist() == [4] * len(part.completions_G)
            assert int(part.length_S.sum()) == len(part.index_N)
    assert orders[0] != orders[1]
    assert len(deal(batch, 100, generator)) == 7


def gradients(
    updater: LanguageUpdater, groups: list[CompletionGroup]
) -> tuple[list[Tensor], list[float]]:
    """Train one phase; return each step's gradient and loss."""
    optimiser, found, losses = updater._optimiser, [], []
    apply = optimiser.apply

    def recorded(loss: Tensor, learning_rate: float) -> Tensor:
        found.append(
            torch.cat(
                [
                    (torch.zeros_like(p) if p.grad is None else p.grad).flatten()
                    for p in optimiser._parameters
                ]
            )
        )
        losses.append(float(loss))
        return apply(loss, learning_rate)

    optimiser.apply = recorded  # type: ignore[method-assign]
    updater.update(groups, nothing, [np.zeros(g.tokens.size, np.int64) for g in groups])
    return found, losses


def updater_with(job: VACOJob, decoder: MakeDecoder, **config: Any) -> LanguageUpdater:
    network = decoder(**config)
    return LanguageUpdater(network, network, job)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_accumulated_gradients_are_those_of_one_big_batch(
    name: str, language_job: MakeJob, decoder: MakeDecoder, make_groups: MakeGroups
) -> None:
    algorithm = {"name": name, "minibatches": 2, "epochs": 2, **SMOOTH}
    if name == "vaco-lm":
        algorithm |= {"delta": 0.6, "tvAnchor": "learnerStart"}  # over it in some steps
    whole, losses = gradients(
        updater_with(language_job(algorithm=algorithm), decoder), make_groups()
    )
    assert len(whole) == 4
    assert all(float(gradient.norm()) > 1e-3 for gradient in whole)
    for budget in (1, 20, 45):
        job = language_job(algorithm=algorithm, learner={"microBatchTokens": budget})
        pieces, own = gradients(updater_with(job, decoder), make_groups())
        assert own == pytest.approx(losses, rel=1e-4, abs=1e-6)
        for step, (first, second) in enumerate(zip(whole, pieces, strict=True)):
            # Later steps are on weights that differ by rounding already.
            bound = 1e-4 if step else 1e-5
            assert float((first - second).norm() / first.norm()) < bound


def test_the_gradient_is_that_of_the_loss_written_down(
    language_job: MakeJob, decoder: MakeDecoder, make_groups: MakeGroups
) -> None:
    """Every sequence alone, the loss as `algorithm.md` has it, all by autograd."""
    groups, network = make_groups(), decoder()
    spec = {"name": "vaco-lm", "minibatches": 1, "ratioBound": 2.0, **SMOOTH}
    job = language_job(algorithm=spec, learner={"microBatchTokens": 30})
    batch = collate(groups)
    advantage_S = group_advantages(batch.reward_S, batch.group_S, 6, size=1, scale=False)
    total, first = torch.zeros(()), 0
    for sequence in range(batch.samples):
        count = int(batch.length_S[sequence])
        prompt = batch.prompts[int(batch.group_S[sequence])]
        tokens = batch.token_N[first : first + count]
        behaviour = batch.behaviour_logp_N[first : first + count]
        logits = network(input_ids=torch.cat((prompt, tokens))[None]).logits[0]
        logp = logits.log_softmax(1)[len(prompt) - 1 : -1].gather(1, tokens[:, None]).squeeze(1)
        moved = (logp - behaviour).detach()
        weight = moved.clamp(-20, 20).exp().clamp(max=2.0)
        keep = advantage_S[sequence] * moved.sign() <= 0  # TV is far over delta/2
        total = total - (advantage_S[sequence] * weight * keep * logp).sum() / 8
        first += count
    total = total / batch.samples
    truth = torch.cat([g.flatten() for g in torch.autograd.grad(total, list(network.parameters()))])
    found, losses = gradients(LanguageUpdater(network, network, job), groups)
    assert losses == pytest.approx([float(total.detach())], rel=1e-5)
    assert float((found[0] - truth).norm() / truth.norm()) < 1e-5


def test_the_constant_of_a_completion_may_be_chosen(
    language_job: MakeJob, decoder: MakeDecoder, make_groups: MakeGroups
) -> None:
    """Null: `task.maxCompletionTokens`, which is 8 here."""
    found = []
    for normaliser in (None, 8.0, 2.0):
        spec = {"name": "grpo", "minibatches": 1, "lossNormaliser": normaliser}
        found.append(
            gradients(updater_with(language_job(algorithm=spec), decoder), make_groups())[0][0]
        )
    assert torch.equal(found[0], found[1])
    assert torch.allclose(found[0] * 4, found[2], rtol=1e-4, atol=1e-7)
