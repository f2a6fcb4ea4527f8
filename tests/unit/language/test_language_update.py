"""The phase on completions: determinism, checkpoints, faults, and what it says of itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn
from vaco.completions import CompletionGroup
from vaco.errors import UserError
from vaco.job import VACOJob
from vaco_learner.language.diagnostics import LanguageStats
from vaco_learner.language.update import LanguageUpdater
from vaco_learner.optimiser import NonFiniteUpdate
from vaco_learner.trainer import TrainerState

MakeJob = Callable[..., VACOJob]
MakeDecoder = Callable[..., nn.Module]
MakeGroups = Callable[..., list[CompletionGroup]]


def nothing() -> None:
    """Nobody counts the steps."""


def train(
    updater: LanguageUpdater,
    groups: list[CompletionGroup],
    stepped: Callable[[], None] = nothing,
) -> LanguageStats:
    """Train a phase on what is fresh."""
    return updater.update(groups, stepped, [np.zeros(g.tokens.size, np.int64) for g in groups])


def updater_with(job: VACOJob, network: nn.Module) -> LanguageUpdater:
    return LanguageUpdater(network, network, job)


def weights(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def own_samples(network: nn.Module, groups: list[CompletionGroup]) -> list[CompletionGroup]:
    """The same tokens, as if the network had sampled them: its own log-probabilities."""
    found = []
    for group in groups:
        logps_NV, token_N = distributions(network, group)
        logp_N = logps_NV.gather(1, token_N[:, None]).squeeze(1)
        found.append(replace(group, behaviour_logp=logp_N.numpy()))
    return found


@torch.no_grad()
def distributions(network: nn.Module, group: CompletionGroup) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities [N, V] before each of a group's N tokens, and these tokens."""
    prompt, logps, first = torch.from_numpy(group.prompt.astype(np.int64)), [], 0
    token_N = torch.from_numpy(group.tokens.astype(np.int64))
    for length in group.lengths.tolist():
        tokens = token_N[first : first + length]
        logits = network(input_ids=torch.cat((prompt, tokens))[None]).logits[0]
        logps.append(logits.log_softmax(1)[len(prompt) - 1 : -1])
        first += length
    return torch.cat(logps), token_N


@pytest.mark.parametrize("budget", [16384, 24])
def test_a_seed_decides_everything(
    budget: int, language_job: MakeJob, decoder: MakeDecoder, make_groups: MakeGroups
) -> None:
    job = language_job(learner={"microBatchTokens": budget})
    ends = []
    for _ in range(2):
        network = decoder()
        train(updater_with(job, network), make_groups())
        ends.append(weights(network))
    assert same_bits(*ends)
    assert not same_bits(ends[0], weights(decoder()))


@pytest.mark.parametrize("budget", [16384, 24])
def test_a_step_sees_the_weights_that_the_one_before_has_left(
    budget: int, language_job: MakeJob, decoder: MakeDecoder, make_groups: MakeGroups
) -> None:
    """Two epochs of one phase see what the first steps of two phases see."""
    groups, found = make_groups(), []
    for epochs in (2, 1):
        job = language_job(
            algorithm={"name": "vaco-lm", "minibatches": 1, "epochs": epochs, "learningRate": 0.01},
            learner={"microBatchTokens": budget},
        )
        updater = updater_with(job, decoder())
        stats = [train(updater, groups) for _ in range(3 - epochs)]
        found.append([tv for each in stats for tv in each.tv_per_step])
        assert (stats[0].tv_start > 0.01) == (epochs == 2)
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    assert abs(found[0][0] - found[0][1]) > 0.01


def test_a_restart_goes_on_bit_for_bit(
    language_job: MakeJob, decoder: MakeDecoder, make_groups: MakeGroups
) -> None:
    job = language_job(
        algorithm={
            "name": "vaco-lm",
            "minibatches": 3,
            "epochs": 2,
            "learningRateSchedule": "linear",
        },
        stop={"envSteps": 100},
    )
    network = decoder()
    updater = updater_with(job, network)
    train(updater, make_groups(0))
    state = updater.state()
    stats = [train(updater, make_groups(seed)) for seed in (1, 2)]
    stored = TrainerState(
        state.policy,
        safetensors.torch.load(safetensors.torch.save(state.optimizer)),
        json.loads(json.dumps(state.document)),
    )
    other = decoder(seed=1)
    restarted = updater_with(job, other)
    restarted.load_state(stored)
    assert [train(restarted, make_groups(seed)) for seed in (1, 2)] == stats
    assert same_bits(weights(network), weights(other))
    assert stats[0].learning_rate > stats[1].learning_rate
    assert (restarted.updates, restarted.samples) == (3, 72)


def test_another_models_state_is_refused(language_job: MakeJob, decoder: MakeDecoder) -> None:
    first = updater_with(language_job(), decoder())
    second = updater_with(language_job(), decoder(num_hidden_layers=1))
    with pytest.raises(UserError, match="weights"):
        second.load_state(first.state())


def test_nothing_is_filtered_of_what_the_model_itself_sampled(
    language_job: MakeJob, decoder: MakeDecoder, make_groups: MakeGroups
) -> None:
    network = decoder()
    groups = own_samples(network, make_groups())
    lags = [np.zeros(group.tokens.size, np.int64) for group in groups]
    job = language_job(algorithm={"name": "vaco-lm", "minibatches": 1})
    stats = updater_with(job, network).update(groups, nothing, lags)
    assert stats.tv < 1e-5
    assert stats.filtered_share == stats.filtered_samples == stats.over_threshold_share == 0
    assert stats.rho_mean == pytest.approx(1, abs=1e-5)
    assert stats.mismatch_tokens == stats.tokens == sum(group.tokens.size for group in groups)
    assert stats.mismatch_max is not None
    assert stats.mismatch_max < 1e-4
    assert stats.lagged_tv is None


def test_mismatch_is_told_from_lag(
    language_job: MakeJob, decoder: MakeDecoder, make_groups: MakeGroups
) -> None:
    """Fresh tokens are off by 0.01 everywhere, tokens two versions old by 0.5."""
    network = decoder()
    fresh, old = own_samples(network, make_groups(groups=2))
    fresh = replace(fresh, behaviour_logp=fresh.behaviour_logp - np.float32(0.01))
    old = replace(old, behaviour_logp=old.behaviour_logp - np.float32(0.5))
    lags = [np.zeros(fresh.tokens.size, np.int64), np.full(old.tokens.size, 2, np.int64)]
    stats = updater_with(language_job(), network).update([fresh, old], nothing, lags)
    assert stats.mismatch_tokens == fresh.tokens.size
    assert stats.mismatch_mean == pytest.approx(0.01, abs=1e-4)
    assert stats.mismatch_max == pytest.approx(0.01, abs=1e-4)
    assert stats.mismatch_tv == pytest.approx(0.5 * np.expm1(0.01), abs=1e-4)
    assert stats.lagged_tv == pytest.approx(0.5 * np.expm1(0.5), abs=1e-3)
    # A token behind keys and values of older weights is of no single version.
    lags[1][-1] = 0
    stats = updater_with(language_job(), decoder()).update([fresh, old], nothing, lags)
    assert stats.mismatch_tokens == fresh.tokens.size
    lags = [lag + 1 for lag in lags]
    stats = updater_with(language_job(), decoder()).update([fresh, old], nothing, lags)
    assert (stats.mismatch_tokens, stats.mismatch_mean, stats.mismatch_tv) == (0, None, None)


def test_tokens_outside_of_the_learners_own_top_k_are_counted_by_lag(
    language_job: MakeJob, decoder: MakeDecoder, make_groups: MakeGroups
) -> None:
    """Random tokens, of which only the likeliest one would be sampled."""
    fresh, old = make_groups(groups=2)
    lags = [np.zeros(fresh.tokens.size, np.int64), np.ones(old.tokens.size, np.int64)]
    outside = []
    for group in (fresh, old):
        logps_NV, token_N = distributions(decoder(), group)
        outside.append(int((logps_NV.argmax(1) != token_N).sum()))
    found = {}
    for top_k in (0, 1):
        job = language_job(
            sampling={"groupSize": 4, "topK": top_k}, learner={"microBatchTokens": 24}
        )
        stats = updater_with(job, decoder()).update([fresh, old], nothing, lags)
        found[top_k] = [stats.mismatch_outside, stats.lagged_outside]
    assert found == {0: [0, 0], 1: outside}
    assert 0 < outside[0] < fresh.tokens.size
    assert 0 < outside[1] != outside[0]


def test_what_it_says_of_completions(
    language_job: MakeJob, decoder: MakeDecoder, make_groups: MakeGroups
) -> None:
    groups = make_groups(groups=3)
    groups[0] = replace(groups[0], rewards=np.ones(4, np.float32))
    groups[1] = replace(
        groups[1],
        rewards=np.array([1, 0, 0, 0], np.float32),
        finished=np.array([1, 1, 0, 1], np.bool_),
    )
    tokens = int(groups[2].lengths[:2].sum())
    groups[2] = replace(
        groups[2],
        **{n: getattr(groups[2], n)[:2] for n in ("lengths", "finished")},
        **{n: getattr(groups[2], n)[:tokens] for n in ("tokens", "behaviour_logp", "versions")},
        rewards=np.array([0, 1], np.float32),
    )
    stats = train(updater_with(language_job(), decoder()), groups)
    assert (stats.groups, stats.partial_groups, stats.uniform_groups) == (3, 1, 2)
    assert stats.samples == 10
    assert stats.tokens == sum(group.tokens.size for group in groups)
    assert stats.reward_mean == pytest.approx(0.6)
    assert stats.finished_share == pytest.approx(0.9)
    assert stats.completion_tokens == pytest.approx(stats.tokens / 10)
    assert stats.completion_tokens_max == max(int(group.lengths.max()) for group in groups)
    assert stats.gradient_steps == 2
    assert len(stats.tv_per_step) == 2
    assert stats.prompt_tv_p50 <= stats.prompt_tv_p95 <= stats.prompt_tv_max
    json.dumps(asdict(stats))


def without_tokens(group: CompletionGroup, number: int) -> CompletionGroup:
    """The group with an empty completion in place of its own."""
    first = int(group.lengths[:number].sum())
    gone = slice(first, first + int(group.lengths[number]))
    lengths = group.lengths.copy()
    lengths[number] = 0
    arrays = {
        n: np.delete(getattr(group, n), gone) for n in ("tokens", "behaviour_logp", "versions")
    }
    return replace(group, lengths=lengths, **arrays)


def test_an_empty_completion_gives_no_gradient_but_earned_its_reward(
    language_job: MakeJob, decoder: MakeDecoder, make_groups: MakeGroups
) -> None:
    rewards = np.array([0, 0, 1, 0], np.float32)
    group = without_tokens(replace(make_groups(groups=1)[0], rewards=rewards), 2)
    network = decoder()
    before = weights(network)
    stats = train(updater_with(language_job(), network), [group])
    assert (stats.empty_completions, stats.gradient_steps, stats.samples) == (1, 1, 4)
    assert stats.uniform_groups == 0  # the others are worse than it was
    assert not same_bits(before, weights(network))


def test_an_empty_completion_that_earned_the_mean_might_as_well_not_be_there(
    language_job: MakeJob, decoder: MakeDecoder, make_groups: MakeGroups
) -> None:
    """It counts neither in total variation nor in the mean of losses."""
    rewards = np.array([0, 1, 0.5, 0.5], np.float32)
    with_it = without_tokens(replace(make_groups(groups=1)[0], rewards=rewards), 2)
    kept = {n: np.delete(getattr(with_it, n), 2) for n in ("lengths", "rewards", "finished")}
    without_it = replace(with_it, **kept)
    networks = decoder(), decoder()
    stats = [
        train(updater_with(language_job(sampling={"groupSize": group.samples}), network), [group])
        for network, group in zip(networks, (with_it, without_it), strict=True)
    ]
    assert [each.samples for each in stats] == [4, 3]
    assert stats[0].tv == stats[1].tv > 0
    assert stats[0].prompt_tv_p50 == stats[1].prompt_tv_p50
    assert stats[0].policy_loss == stats[1].policy_loss != 0
    assert same_bits(*map(weights, networks))


def test_a_phase_of_empty_completions_changes_nothing(
    language_job: MakeJob, decoder: MakeDecoder, make_groups: MakeGroups
) -> None:
    group = make_groups(groups=1)[0]
    for number in range(4):
        group = without_tokens(group, number)
    network = decoder()
    before = weights(network)
    updater = updater_with(language_job(), network)
    stats = updater.update([group], nothing, [np.zeros(0, np.int64)])
    assert (stats.tokens, stats.gradient_steps, stats.tv, stats.samples) == (0, 0, 0.0, 4)
    assert same_bits(before, weights(network))
    assert updater.updates == 1


def test_groups_that_earned_the_same_are_not_run_backward(
    language_job: MakeJob, decoder: MakeDecoder, make_groups: MakeGroups
) -> None:
    groups = [
        replace(group, rewards=np.full(4, number % 2, np.float32))
        for number, group in enumerate(make_groups())
    ]
    network = decoder()
    before = weights(network)
    passes: list[bool] = []
    network.get_decoder().register_forward_pre_hook(  # type: ignore[operator]
        lambda *_: passes.append(torch.is_grad_enabled())
    )
    job = language_job(
        algorithm={"name": "grpo", "minibatches": 1}, learner={"microBatchTokens": 20}
    )
    stats = train(updater_with(job, network), groups)
    assert stats.gradient_norm == 0
    assert not any(passes[1:])  # the first probes the network's last layer
    assert same_bits(before, weights(network))


def test_groups_that_earned_the_same_leave_the_weights_though_adam_has_momentum(
    language_job: MakeJob, decoder: MakeDecoder, make_groups: MakeGroups
) -> None:
    network = decoder()
    updater = updater_with(language_job(algorithm={"name": "grpo", "minibatches": 1}), network)
    train(updater, make_groups())
    before = weights(network)
    train(updater, [replace(each, rewards=np.ones(4, np.float32)) for each in make_groups()])
    assert same_bits(before, weights(network))


@pytest.mark.parametrize("budget", [16384, 24])
def test_what_is_not_finite_is_not_applied(
    budget: int, language_job: MakeJob, decoder: MakeDecoder, make_groups: MakeGroups
) -> None:
    network = decoder()
    job = language_job(learner={"microBatchTokens": budget})
    updater = updater_with(job, network)
    with torch.no_grad():
        network.get_input_embeddings().weight[3] = torch.inf  # type: ignore[operator]
    before = weights(network)
    with pytest.raises(NonFiniteUpdate):
        train(updater, make_groups())
    assert same_bits(before, weights(network))


def test_a_phase_beats_through_all_its_passes(
    language_job: MakeJob, decoder: MakeDecoder, make_groups: MakeGroups
) -> None:
    """A watchdog waits for less than a phase."""
    beats = []
    for budget in (16384, 24):
        count = [0]

        def beat(count: list[int] = count) -> None:
            count[0] += 1

        job = language_job(learner={"microBatchTokens": budget})
        train(updater_with(job, decoder()), make_groups(), beat)
        beats.append(count[0])
    assert beats[0] >= 3  # survey, two steps
    assert beats[1] > 4 * beats[0]


@pytest.mark.parametrize("algorithm", [{"name": "vaco-lm", "epochs": 3}, {"name": "grpo"}])
def test_bfloat16_is_close_and_its_log_probabilities_are_float32(
    algorithm: dict[str, Any], language_job: MakeJob, decoder: MakeDecoder, make_groups: MakeGroups
) -> None:
    found = []
    for precision in ("fp32", "bf16"):
        network = decoder()
        job = language_job(algorithm=algorithm, learner={"precision": precision})
        updater = updater_with(job, network)
        groups = own_samples(network, make_groups())
        lags = [np.zeros(group.tokens.size, np.int64) for group in groups]
        found.append(updater.update(groups, nothing, lags))
        assert all(tensor.dtype == torch.float32 for tensor in network.state_dict().values())
    exact, rounded = found
    assert exact.mismatch_max is not None
    assert rounded.mismatch_max is not None
    assert exact.mismatch_max < 1e-4 < rounded.mismatch_max < 0.3
    assert rounded.entropy == pytest.approx(exact.entropy, abs=0.02)


def test_gradient_checkpointing_changes_nothing(
    language_job: MakeJob, decoder: MakeDecoder, make_groups: MakeGroups
) -> None:
    ends = []
    for checkpointing in (False, True):
        network = decoder()
        if checkpointing:
            network.gradient_checkpointing_enable()  # type: ignore[operator]
            network.train()
        train(updater_with(language_job(), network), make_groups())
        ends.append(weights(network))
    assert same_bits(*ends)
