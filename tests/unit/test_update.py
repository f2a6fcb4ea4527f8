"""The phase: determinism, checkpoints, faults, and what must change nothing."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from vaco.errors import UserError
from vaco.job import VACOJob
from vaco.trajectory import Fragment
from vaco_learner.algorithms import Minibatch, PolicyLoss
from vaco_learner.batch import PhaseBatch, collate
from vaco_learner.diagnostics import MAX_TV_STEPS
from vaco_learner.trainer import TrainerState
from vaco_learner.update import NonFiniteUpdate, Updater
from vaco_policy.parameters import load_payload
from vaco_policy.policy import Policy
from vaco_policy.spaces import Box, Discrete, MultiDiscrete, Spaces

MakeJob = Callable[..., VACOJob]
MakeFragment = Callable[..., Fragment]
RecordedOrders = Callable[[Updater], list[torch.Tensor]]

# A large epsilon keeps Adam from turning rounding noise in tiny gradients into whole steps.
SMOOTH = {"adamEpsilon": 1e-3, "learningRate": 1e-2}
GRU = {"core": {"type": "gru", "hiddenSize": 5}}
LSTM = {"core": {"type": "lstm", "hiddenSize": 5}}
SMALL = {"network": {"type": "mlp", "hiddenSizes": [16]}}
CONTINUOUS = Spaces({"observation": Box((3,))}, Box((2,)))
MIXED = Spaces({"kind": Discrete(2), "place": Box((2, 2))}, MultiDiscrete((2, 3)))


def weights(updater: Updater) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in updater.policy.state_dict().items()}


def same_bits(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return max(float((first[name] - second[name]).abs().max()) for name in first)


# --- minibatches ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "core"), [({}, None), (GRU, ("gru", 5))])
def test_every_valid_sample_is_in_one_minibatch_of_each_epoch(
    policy: dict[str, Any],
    core: tuple[str, int] | None,
    training_job: MakeJob,
    make_fragment: MakeFragment,
    vector_spaces: Spaces,
    recorded_orders: RecordedOrders,
) -> None:
    job = training_job(algorithm={"epochs": 2, "minibatches": 5}, policy=policy)
    batch = collate([make_fragment(vector_spaces, i, 9, 7, core) for i in range(2)])
    updater = Updater(job, vector_spaces)
    orders = recorded_orders(updater)
    stats = updater.update(batch)
    valid = batch.valid_TB.flatten().nonzero().squeeze(1)
    epochs = [torch.cat(orders[:5]), torch.cat(orders[5:])]
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, valid)
    assert not torch.equal(*epochs)
    assert stats.samples == len(valid) == batch.samples
    if core is None:
        assert max(map(len, orders)) - min(map(len, orders)) <= 1


@pytest.mark.parametrize(("policy", "core", "steps"), [({}, None, 4), (GRU, ("gru", 5), 2)])
def test_there_are_no_empty_minibatches(
    policy: dict[str, Any],
    core: tuple[str, int] | None,
    steps: int,
    training_job: MakeJob,
    make_fragment: MakeFragment,
    vector_spaces: Spaces,
) -> None:
    job = training_job(algorithm={"minibatches": 64}, policy=policy)
    batch = collate([make_fragment(vector_spaces, 0, 2, 2, core, ends=0.0)])
    assert Updater(job, vector_spaces).update(batch).gradient_steps == steps


# --- what must change nothing --------------------------------------------------------------------


def trained_on(job: VACOJob, spaces: Spaces, *batches: PhaseBatch) -> dict[str, torch.Tensor]:
    updater = Updater(job, spaces)
    for batch in batches:
        updater.update(batch)
    return weights(updater)


@pytest.mark.parametrize(
    ("policy", "core"), [({"normaliseObservations": True}, None), (LSTM, ("lstm", 5))]
)
def test_padding_changes_nothing(
    policy: dict[str, Any],
    core: tuple[str, int] | None,
    training_job: MakeJob,
    make_fragment: MakeFragment,
    vector_spaces: Spaces,
) -> None:
    """A batch, and the same padded by a longer fragment that has no sample in it."""
    job = training_job(algorithm={"epochs": 2}, policy={**SMALL, **policy})
    short = [make_fragment(vector_spaces, i, 5, 4, core) for i in range(2)]
    long = make_fragment(vector_spaces, 9, 11, 3, core)
    empty = dataclasses.replace(long, valid=np.zeros_like(long.valid))
    alone = trained_on(job, vector_spaces, collate(short))
    padded = trained_on(job, vector_spaces, collate([*short, empty]))
    assert distance(alone, padded) < 1e-6


@pytest.mark.parametrize("name", ["vaco", "ppo", "impala"])
def test_what_is_done_in_invalid_steps_changes_nothing(
    name: str, training_job: MakeJob, make_fragment: MakeFragment, vector_spaces: Spaces
) -> None:
    """The observation of such a step is an episode's last one and counts; nothing else does."""
    job = training_job(
        algorithm={"name": name, "epochs": 2},
        policy={**SMALL, "normaliseObservations": True, "normaliseReturns": True},
    )
    batch = collate([make_fragment(vector_spaces, 0, 40, 6, ends=0.3)])
    invalid = ~batch.valid_TB
    assert invalid.sum() > 10
    other = dataclasses.replace(
        batch,
        actions=torch.where(invalid, 1 - batch.actions, batch.actions),
        rewards_TB=torch.where(invalid, 1e6, batch.rewards_TB),
        behaviour_logp_TB=torch.where(invalid, -50.0, batch.behaviour_logp_TB),
        terminated_TB=batch.terminated_TB | invalid,
    )
    assert same_bits(trained_on(job, vector_spaces, batch), trained_on(job, vector_spaces, other))


def both_layouts(
    spaces: Spaces, make_fragment: MakeFragment, core: tuple[str, int] | None
) -> tuple[Fragment, Fragment]:
    """Three steps, truncation, four steps: as next-step and as same-step autoreset give it."""
    base = make_fragment(spaces, 5, 8, 3, core, ends=0.0)
    truncated, valid, starts = (np.zeros((n, 3), bool) for n in (8, 8, 9))
    truncated[2], valid[:], valid[3], starts[4] = True, True, False, True
    next_step = dataclasses.replace(base, truncated=truncated, valid=valid, episode_start=starts)

    def without_reset(array: np.ndarray) -> np.ndarray:
        return np.delete(array, 3, axis=0)

    same_step = dataclasses.replace(
        next_step,
        **{
            name: without_reset(getattr(next_step, name))
            for name in (
                "actions",
                "rewards",
                "terminated",
                "truncated",
                "valid",
                "behaviour_logp",
                "versions",
                "episode_start",
            )
        },
        observations={name: without_reset(rows) for name, rows in next_step.observations.items()},
        final_observations={name: rows[3] for name, rows in next_step.observations.items()},
        final_steps=np.array([6, 7, 8], np.int32),
    )
    return next_step, same_step


@pytest.mark.parametrize(("policy", "core"), [({}, None), (GRU, ("gru", 5)), (LSTM, ("lstm", 5))])
@pytest.mark.parametrize("minibatches", [1, 3])
def test_both_kinds_of_autoreset_bootstrap_truncation_alike(
    policy: dict[str, Any],
    core: tuple[str, int] | None,
    minibatches: int,
    training_job: MakeJob,
    make_fragment: MakeFragment,
    vector_spaces: Spaces,
) -> None:
    job = training_job(
        algorithm={**SMOOTH, "epochs": 2, "minibatches": minibatches}, policy={**SMALL, **policy}
    )
    next_step, same_step = both_layouts(vector_spaces, make_fragment, core)
    first = trained_on(job, vector_spaces, collate([next_step]))
    second = trained_on(job, vector_spaces, collate([same_step]))
    assert distance(first, second) < 1e-6
    unread = dataclasses.replace(
        same_step, final_observations={}, final_steps=np.zeros(0, np.int32)
    )
    assert distance(first, trained_on(job, vector_spaces, collate([unread]))) > 1e-5


def test_the_survey_values_a_truncated_step_by_its_final_observation(
    training_job: MakeJob, make_fragment: MakeFragment, vector_spaces: Spaces
) -> None:
    updater = Updater(training_job(), vector_spaces)
    for fragment in both_layouts(vector_spaces, make_fragment, None):
        survey = updater._survey(collate([fragment, fragment]))
        with torch.no_grad():
            final = torch.from_numpy(fragment.observations["observation"][3])
            if len(fragment.final_steps):
                final = torch.from_numpy(fragment.final_observations["observation"])
            expected = updater.policy.value({"observation": final})
        np.testing.assert_allclose(survey.next_value_TB[2], expected.repeat(2), atol=1e-6)


# --- lag zero, normalisers -----------------------------------------------------------------------


def acted(policy: Policy, fragment: Fragment) -> Fragment:
    """The fragment, as if `policy` had acted in it."""
    with torch.no_grad():
        logp = policy.evaluate(
            {n: torch.from_numpy(rows[:-1]) for n, rows in fragment.observations.items()},
            torch.from_numpy(fragment.actions),
            {n: torch.from_numpy(values) for n, values in fragment.core_state.items()},
            torch.from_numpy(fragment.episode_start[:-1]),
        ).logp
    return dataclasses.replace(fragment, behaviour_logp=logp.numpy())


def test_without_lag_the_published_policy_is_the_start_of_the_next_phase(
    training_job: MakeJob, make_fragment: MakeFragment, vector_spaces: Spaces
) -> None:
    """Also where training has moved the observation normaliser, which is part of the policy."""
    job = training_job(
        algorithm={"learningRate": 1e-2, "minibatches": 1},
        policy={"normaliseObservations": True, "normaliseReturns": True},
    )
    updater = Updater(job, vector_spaces)
    actor = Policy(job.spec.policy, vector_spaces, seed=99)
    for version in range(3):
        load_payload(actor, updater.state().policy)
        fragment = make_fragment(vector_spaces, version, 20, 8)
        shifted = {"observation": fragment.observations["observation"] * 3 + 5}
        stats = updater.update(
            collate([acted(actor, dataclasses.replace(fragment, observations=shifted))])
        )
        assert stats.rho_max == pytest.approx(1.0, abs=1e-5)
        assert stats.rho_mean == pytest.approx(1.0, abs=1e-6)
        assert stats.ess == pytest.approx(1.0, abs=1e-6)
        assert stats.tv < 1e-6
        assert stats.kl == pytest.approx(0.0, abs=1e-6)
        assert stats.filtered_samples == 0
    normaliser = updater.policy.observation_normaliser
    assert normaliser is not None
    assert float(normaliser.mean.min()) > 4.0


# --- determinism and state -----------------------------------------------------------------------


FULL_POLICY = {**SMALL, "normaliseObservations": True, "normaliseReturns": True}


@pytest.mark.parametrize(("policy", "core"), [({}, None), (LSTM, ("lstm", 5))])
@pytest.mark.parametrize("name", ["vaco", "ppo-kl", "impala"])
def test_same_seed_and_batches_give_the_same_bits(
    name: str,
    policy: dict[str, Any],
    core: tuple[str, int] | None,
    training_job: MakeJob,
    make_fragment: MakeFragment,
    vector_spaces: Spaces,
) -> None:
    job = training_job(seed=7, algorithm={"name": name, "epochs": 2}, policy=FULL_POLICY | policy)
    batches = [collate([make_fragment(vector_spaces, i, 10, 8, core)]) for i in range(3)]
    first = trained_on(job, vector_spaces, *batches)
    torch.manual_seed(123)  # the global generator must not matter
    assert same_bits(first, trained_on(job, vector_spaces, *batches))
    other = training_job(seed=8, algorithm={"name": name, "epochs": 2}, policy=FULL_POLICY | policy)
    assert not same_bits(first, trained_on(other, vector_spaces, *batches))


def through_a_checkpoint(state: TrainerState) -> TrainerState:
    """What comes back from safetensors and JSON."""
    return TrainerState(
        policy=bytes(state.policy),
        optimizer=safetensors.torch.load(safetensors.torch.save(state.optimizer)),
        document=json.loads(json.dumps(state.document)),
    )


@pytest.mark.parametrize("name", ["vaco", "ppo-kl"])
@pytest.mark.parametrize("done", [0, 2])
def test_a_checkpoint_continues_bit_for_bit(
    name: str,
    done: int,
    training_job: MakeJob,
    make_fragment: MakeFragment,
    vector_spaces: Spaces,
) -> None:
    job = training_job(
        algorithm={"name": name, "epochs": 2, "learningRateSchedule": "linear"}, policy=FULL_POLICY
    )
    batches = [collate([make_fragment(vector_spaces, i, 10, 8)]) for i in range(5)]
    straight = Updater(job, vector_spaces)
    for batch in batches[:done]:
        straight.update(batch)
    state = through_a_checkpoint(straight.state())
    restored = Updater(job, vector_spaces)
    restored.update(batches[-1])  # what it has done before must not matter
    restored.load_state(state)
    for batch in batches[done:]:
        assert straight.update(batch) == restored.update(batch)
    assert same_bits(weights(straight), weights(restored))
    first, second = straight.state(), restored.state()
    assert first.document == second.document
    assert same_bits(first.optimizer, second.optimizer)
    assert first.document["updates"] == 5
    assert first.document["samples"] == sum(batch.samples for batch in batches)


def test_a_checkpoint_does_not_change_while_training_goes_on(
    training_job: MakeJob, make_fragment: MakeFragment, vector_spaces: Spaces
) -> None:
    updater = Updater(training_job(), vector_spaces)
    updater.update(collate([make_fragment(vector_spaces)]))
    state = updater.state()
    kept = copy.deepcopy(state)
    updater.update(collate([make_fragment(vector_spaces, 1)]))
    assert same_bits(state.optimizer, kept.optimizer)
    assert state.policy == kept.policy
    assert state.document == kept.document


def test_another_policys_moments_are_refused(
    training_job: MakeJob, make_fragment: MakeFragment, vector_spaces: Spaces
) -> None:
    small, large = (
        Updater(training_job(policy={"network": {"hiddenSizes": sizes}}), vector_spaces)
        for sizes in ([8], [9])
    )
    for updater in (small, large):
        updater.update(collate([make_fragment(vector_spaces)]))
    kept = small.state()
    wrong = dataclasses.replace(small.state(), optimizer=large.state().optimizer)
    with pytest.raises(UserError, match="shape"):
        small.load_state(wrong)
    partial = {k: v for k, v in small.state().optimizer.items() if not k.startswith("exp_avg.")}
    with pytest.raises(UserError, match="not this policy"):
        small.load_state(dataclasses.replace(small.state(), optimizer=partial))
    assert same_bits(small.state().optimizer, kept.optimizer)


# --- faults --------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_is_not_applied(
    training_job: MakeJob, make_fragment: MakeFragment, vector_spaces: Spaces
) -> None:
    updater = Updater(training_job(algorithm={"minibatches": 1}), vector_spaces)
    batch = collate([make_fragment(vector_spaces)])
    updater.update(batch)
    before, moments = weights(updater), updater.state().optimizer
    poisoned = dataclasses.replace(batch, rewards_TB=torch.full_like(batch.rewards_TB, 1e30))
    with pytest.raises(NonFiniteUpdate, match="loss inf"):
        updater.update(poisoned)
    assert same_bits(before, weights(updater))
    after = updater.state().optimizer
    assert all(torch.equal(moments[k], after[k]) for k in moments if k != "generator")
    assert updater.updates == 1


@pytest.mark.parametrize(
    ("slope", "message"),
    [
        # The square root has an infinite slope at 0: the loss is finite and its gradient is not.
        (lambda bias: (bias * 0.0).abs().sum().sqrt(), "loss 0, gradient norm"),
        (lambda bias: bias.sum() * 0.0 + torch.inf, "loss inf, gradient norm 0"),
    ],
)
def test_neither_a_loss_nor_a_gradient_that_is_not_finite_is_applied(
    slope: Callable[[torch.Tensor], torch.Tensor],
    message: str,
    training_job: MakeJob,
    vector_spaces: Spaces,
) -> None:
    updater = Updater(training_job(), vector_spaces)
    before = weights(updater)
    with pytest.raises(NonFiniteUpdate, match=message):
        updater._optimiser.step(slope(updater.policy.value_head.bias), 1e-3)
    assert same_bits(before, weights(updater))


def test_a_batch_without_samples_is_refused(
    training_job: MakeJob, make_fragment: MakeFragment, vector_spaces: Spaces
) -> None:
    fragment = make_fragment(vector_spaces)
    empty = dataclasses.replace(fragment, valid=np.zeros_like(fragment.valid))
    with pytest.raises(ValueError, match="without a valid step"):
        Updater(training_job(), vector_spaces).update(collate([empty]))


# --- switches that a phase as a whole decides ----------------------------------------------------


def test_realigning_more_often_matters_only_where_there_is_a_more(
    training_job: MakeJob, make_fragment: MakeFragment, vector_spaces: Spaces
) -> None:
    batch = collate([make_fragment(vector_spaces, 0, 16, 8)])

    def after(realign: str, epochs: int, minibatches: int) -> dict[str, torch.Tensor]:
        algorithm = {
            "realign": realign,
            "epochs": epochs,
            "minibatches": minibatches,
            "learningRate": 1e-2,
        }
        return trained_on(training_job(algorithm=algorithm), vector_spaces, batch)

    assert same_bits(after("once", 1, 1), after("perMinibatch", 1, 1))
    assert same_bits(after("once", 1, 4), after("perEpoch", 1, 4))
    assert same_bits(after("perEpoch", 3, 1), after("perMinibatch", 3, 1))
    assert not same_bits(after("once", 3, 1), after("perEpoch", 3, 1))
    assert not same_bits(after("perEpoch", 1, 4), after("perMinibatch", 1, 4))
    assert not same_bits(after("once", 1, 1), after("never", 1, 1))


@pytest.mark.parametrize(("normalise", "lowest", "highest"), [(False, 1.0, 1.0), (True, 0.2, 0.8)])
def test_the_filter_sees_the_normalised_advantage(
    normalise: bool,
    lowest: float,
    highest: float,
    training_job: MakeJob,
    make_fragment: MakeFragment,
    vector_spaces: Spaces,
) -> None:
    """All actions likelier than under beta, all advantages positive: plain, all are dropped.

    Normalised, those below the mean are negative, and kept.
    """
    job = training_job(algorithm={"minibatches": 1, "normaliseAdvantages": normalise, "lam": 0.0})
    fragment = make_fragment(vector_spaces, 0, 20, 10, ends=0.0)
    rewards = np.random.default_rng(0).normal(50.0, 1.0, (20, 10)).astype(np.float32)
    batch = collate(
        [
            dataclasses.replace(
                fragment, rewards=rewards, behaviour_logp=np.full((20, 10), -2.0, "f")
            )
        ]
    )
    stats = Updater(job, vector_spaces).update(batch)
    assert stats.over_threshold_share == 1.0
    assert lowest <= stats.filtered_share <= highest
    assert stats.filtered_samples == round(stats.filtered_share * 200)


def test_linear_schedule_reaches_zero_at_the_last_env_step(
    training_job: MakeJob, make_fragment: MakeFragment, vector_spaces: Spaces
) -> None:
    job = training_job(
        algorithm={"learningRate": 1e-2, "learningRateSchedule": "linear"}, stop={"envSteps": 200}
    )
    updater = Updater(job, vector_spaces)
    batch = collate([make_fragment(vector_spaces, 0, 10, 10, ends=0.0)])
    assert updater.update(batch).learning_rate == 1e-2
    assert updater.update(batch).learning_rate == pytest.approx(5e-3)
    before = weights(updater)
    assert updater.update(batch).learning_rate == 0.0
    assert same_bits(before, weights(updater))
    constant = Updater(training_job(algorithm={"learningRate": 1e-2}), vector_spaces)
    assert {constant.update(batch).learning_rate for _ in range(3)} == {1e-2}


def test_ppo_kl_hears_of_the_whole_phase(
    training_job: MakeJob, make_fragment: MakeFragment, vector_spaces: Spaces
) -> None:
    """Its one gradient step saw KL 0; what it moved the policy by is what counts."""
    fragment = make_fragment(vector_spaces, 0, 20, 8)
    for rate, beta in ((3e-2, 2.0), (1e-6, 0.5)):
        job = training_job(algorithm={"name": "ppo-kl", "minibatches": 1, "learningRate": rate})
        updater = Updater(job, vector_spaces)
        stats = updater.update(collate([acted(updater.policy, fragment)]))
        assert stats.kl == pytest.approx(0.0, abs=1e-6)
        assert updater.state().document["algorithm"] == {"beta": beta}


def test_bf16_computes_nearly_the_same_and_stays_float32(
    training_job: MakeJob, make_fragment: MakeFragment, vector_spaces: Spaces
) -> None:
    batch = collate([make_fragment(vector_spaces, 0, 32, 8)])
    updaters = [
        Updater(
            training_job(learner={"precision": p}, algorithm={"learningRate": 1e-2}), vector_spaces
        )
        for p in ("fp32", "bf16")
    ]
    plain, half = (updater.update(batch) for updater in updaters)
    assert plain != half
    assert half.tv == pytest.approx(plain.tv, rel=0.05)
    assert half.value_loss == pytest.approx(plain.value_loss, rel=0.05)
    assert all(tensor.dtype == torch.float32 for tensor in weights(updaters[1]).values())


@pytest.mark.parametrize("core", [None, "gru"])
def test_bf16_does_not_mistake_rounding_for_lag(
    training_job: MakeJob, make_fragment: MakeFragment, core: str | None
) -> None:
    """A trained policy is sharp: what bfloat16 rounds off its means would look like a TV of .01."""
    spaces = Spaces({"observation": Box((17,))}, Box((6,)))
    policy = {"initialLogStd": -1.5, **({"core": {"type": core, "hiddenSize": 8}} if core else {})}
    job = training_job(
        policy=policy, learner={"precision": "bf16"}, algorithm={"minibatches": 1, "epochs": 1}
    )
    updater = Updater(job, spaces)
    with torch.no_grad():
        updater.policy.policy_head.weight.mul_(100)
    memory = (core, 8) if core else None
    batch = collate([acted(updater.policy, make_fragment(spaces, 0, 64, 16, memory))])
    stats = updater.update(batch)
    assert stats.tv < 1e-4
    assert stats.rho_max == pytest.approx(1.0, abs=1e-3)
    assert stats.filtered_share == 0.0


# --- statistics ----------------------------------------------------------------------------------


def test_filtered_samples_counts_each_sample_once_however_often_it_was_dropped(
    training_job: MakeJob,
    make_fragment: MakeFragment,
    vector_spaces: Spaces,
    recorded_orders: RecordedOrders,
) -> None:
    """The policy moves fast, so that each epoch drops other samples."""
    job = training_job(algorithm={"minibatches": 2, "epochs": 4, "learningRate": 3e-2})
    updater = Updater(job, vector_spaces)
    orders = recorded_orders(updater)
    dropped: list[torch.Tensor] = []
    policy_loss = updater._algorithm.policy_loss

    def record(minibatch: Minibatch) -> PolicyLoss:
        result = policy_loss(minibatch)
        assert result.filtered is not None
        dropped.append(~result.filtered.keep_N)
        return result

    updater._algorithm.policy_loss = record  # type: ignore[method-assign]
    stats = updater.update(collate([make_fragment(vector_spaces, 0, 30, 10)]))
    each = [set(i[d].tolist()) for i, d in zip(orders, dropped, strict=True)]
    epochs = [each[n] | each[n + 1] for n in range(0, 8, 2)]
    assert stats.filtered_samples == len(set.union(*epochs)) > max(map(len, epochs))
    shares = [float(d.float().mean()) for d in dropped]
    assert stats.filtered_share == pytest.approx(np.mean(shares))


def test_tv_per_step_is_bounded(
    training_job: MakeJob, make_fragment: MakeFragment, vector_spaces: Spaces
) -> None:
    job = training_job(algorithm={"minibatches": 100, "epochs": 3})
    stats = Updater(job, vector_spaces).update(
        collate([make_fragment(vector_spaces, 0, 20, 6, ends=0.0)])
    )
    assert stats.gradient_steps == 300 > MAX_TV_STEPS
    assert len(stats.tv_per_step) == 150
