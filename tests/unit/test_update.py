"""The whole phase against a slow truth; determinism, checkpoints, and what must change nothing."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from vaco.errors import UserError
from vaco.job import VACOJob
from vaco.trajectory import Fragment
from vaco_learner.batch import PhaseBatch, collate
from vaco_learner.diagnostics import MAX_TV_STEPS
from vaco_learner.update import NonFiniteUpdate, Updater, UpdaterState
from vaco_policy.parameters import load_payload
from vaco_policy.policy import Policy
from vaco_policy.spaces import Box, Discrete, MultiDiscrete, Spaces

MakeJob = Callable[..., VACOJob]
MakeFragment = Callable[..., Fragment]

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


# --- the slow truth ------------------------------------------------------------------------------


def evaluate_columns(
    policy: Policy, batch: PhaseBatch
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log pi [T, B], V [T+1, B] and entropy [T, B], one column at a time."""
    columns = []
    for b in range(batch.environments):
        column = slice(b, b + 1)
        columns.append(
            policy.evaluate(
                {name: rows[:, column] for name, rows in batch.observations.items()},
                batch.actions[:, column],
                {name: state[column] for name, state in batch.core_state.items()},
                batch.episode_start_T1B[:, column],
            )
        )
    return (
        torch.cat([column.logp for column in columns], 1),
        torch.cat([column.value for column in columns], 1),
        torch.cat([column.entropy for column in columns], 1),
    )


def align_slowly(
    spec: Any, policy: Policy, batch: PhaseBatch, rewards: torch.Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Value targets and advantages [T, B] by the recursion of the algorithm's page."""
    with torch.no_grad():
        logp, value, _ = evaluate_columns(policy, batch)
    corrected = spec.name == "impala" or (spec.name == "vaco" and spec.realign != "never")
    impala = spec.name == "impala" or (spec.name == "vaco" and spec.advantage == "impala")
    rho_bar, c_bar = (spec.rho_bar, spec.c_bar) if corrected else (1.0, 1.0)
    log_rho = (logp - batch.behaviour_logp_TB).double().numpy() * corrected
    v, r = value.double().numpy(), rewards.double().numpy()
    target, advantage = v[:-1].copy(), np.zeros_like(r)
    for b in range(batch.environments):
        e = 0.0
        for t in reversed(range(batch.length)):
            if not batch.valid_TB[t, b]:
                e = 0.0
                continue
            ended = bool(batch.terminated_TB[t, b] or batch.truncated_TB[t, b])
            bootstrap = 0.0 if batch.terminated_TB[t, b] else v[t + 1, b]
            d = r[t, b] + spec.gamma * bootstrap - v[t, b]
            rho = math.exp(log_rho[t, b])
            later = 0.0 if ended else spec.gamma * e
            advantage[t, b] = d + later * (1.0 if impala else spec.lam)
            e = min(rho_bar, rho) * d + spec.lam * min(c_bar, rho) * later
            target[t, b] = v[t, b] + e
    return target, advantage


def policy_loss_slowly(
    spec: Any, beta: float, logp: Any, behaviour: Any, start: Any, a: Any, owner: Any
) -> torch.Tensor:
    ratio = (logp - behaviour).exp()
    now = logp.detach()
    if spec.name == "ppo":
        bounds = 1 - spec.clip_epsilon, 1 + spec.clip_epsilon
        return -torch.minimum(ratio * a, ratio.clamp(*bounds) * a).mean()
    if spec.name == "ppo-kl":
        return beta * (ratio - 1 - (logp - behaviour)).mean() - (ratio * a).mean()
    if spec.name == "spo":
        return (a.abs() / (2 * spec.epsilon) * (ratio - 1) ** 2 - ratio * a).mean()
    if spec.name == "impala":
        return -(ratio.detach().clamp(max=spec.rho_pg_bar) * a * logp).mean()
    anchors = {
        "behaviour": ((now - behaviour).exp() - 1, now - behaviour),
        "learnerStart": ((now - start).exp() - 1, now - start),
        "gap": ((now - behaviour).exp() - (start - behaviour).exp(), now - start),
    }
    deviation, direction = anchors[spec.tv_anchor]
    owner = owner if spec.filter_scope == "fragment" else torch.zeros_like(owner)
    threshold = spec.delta / 2 if spec.threshold == "halfDelta" else spec.delta
    keep = torch.ones_like(a)
    for i in range(len(a)):
        over = 0.5 * deviation[owner == owner[i]].abs().mean() > threshold
        if spec.filter_ and over and a[i] * direction[i] > 0:
            keep[i] = 0.0
    return -(keep * a * ratio).mean()


def update_slowly(
    job: VACOJob, spaces: Spaces, batch: PhaseBatch, orders: list[torch.Tensor]
) -> dict[str, torch.Tensor]:
    """One phase, minibatch by minibatch (each a list of flat indices), from the formulas."""
    spec = job.spec.algorithm
    policy = Policy(job.spec.policy, spaces, job.spec.seed)
    rewards = batch.rewards_TB
    if policy.return_normaliser is not None:
        done = batch.terminated_TB | batch.truncated_TB
        policy.return_normaliser.update(
            rewards, done, batch.valid_TB, batch.return_carry_B, spec.gamma
        )
        rewards = policy.return_normaliser(rewards)
    parameters = list(policy.parameters())
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    realign = getattr(spec, "realign", "perMinibatch" if spec.name == "impala" else "once")
    with torch.no_grad():
        start = evaluate_columns(policy, batch)[0].flatten()
    for number, index in enumerate(orders):
        new_epoch = number % spec.minibatches == 0
        if number == 0 or realign == "perMinibatch" or (realign == "perEpoch" and new_epoch):
            target, advantage = align_slowly(spec, policy, batch, rewards)
        logp, value, entropy = evaluate_columns(policy, batch)
        a = torch.from_numpy(advantage).flatten()[index].float()
        if spec.normalise_advantages:
            a = (a - a.mean()) / a.std(correction=0)
        loss = policy_loss_slowly(
            spec,
            getattr(spec, "initial_beta", 0.0),
            logp.flatten()[index],
            batch.behaviour_logp_TB.flatten()[index],
            start[index],
            a,
            batch.fragment_B[index % batch.environments],
        )
        error = value[:-1].flatten()[index] - torch.from_numpy(target).flatten()[index].float()
        loss = loss + spec.value_coefficient * 0.5 * (error**2).mean()
        loss = loss - spec.entropy_coefficient * entropy.flatten()[index].mean()
        gradients = torch.autograd.grad(loss, parameters)
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients))
        bound = min(1.0, spec.max_gradient_norm / norm)
        for parameter, gradient, (m, v) in zip(parameters, gradients, moments, strict=True):
            m += 0.1 * (bound * gradient - m)
            v += 0.001 * ((bound * gradient) ** 2 - v)
            m_hat, v_hat = m / (1 - 0.9 ** (number + 1)), v / (1 - 0.999 ** (number + 1))
            with torch.no_grad():
                parameter -= spec.learning_rate * m_hat / (v_hat.sqrt() + spec.adam_epsilon)
    normaliser = policy.observation_normaliser
    if normaliser is not None:
        values = policy.features.continuous(
            {name: rows[:-1] for name, rows in batch.observations.items()}
        )
        normaliser.update(values[batch.valid_TB])
    return dict(policy.state_dict())


def recorded_orders(updater: Updater) -> list[torch.Tensor]:
    """The flat indices of every minibatch that the updater evaluates, as it goes."""
    orders: list[torch.Tensor] = []
    evaluate = updater._evaluator.evaluate

    def record(batch: PhaseBatch, part: torch.Tensor) -> Any:
        seen = evaluate(batch, part)
        orders.append(seen.index_N)
        return seen

    updater._evaluator.evaluate = record  # type: ignore[method-assign]
    return orders


VARIANTS: dict[str, dict[str, Any]] = {
    "vaco": {},
    "vaco-delta": {"delta": 0.2, "threshold": "delta"},
    "vaco-start": {"tvAnchor": "learnerStart", "delta": 0.004},
    "vaco-gap": {"tvAnchor": "gap", "delta": 0.004},
    "vaco-fragment": {"filterScope": "fragment", "delta": 0.33},
    "vaco-per-epoch": {"realign": "perEpoch"},
    "vaco-per-minibatch": {"realign": "perMinibatch"},
    "vaco-never": {"realign": "never"},
    "vaco-impala": {"advantage": "impala"},
    "vaco-no-filter": {"filter": False},
    "vaco-bars": {"rhoBar": 1.5, "cBar": 0.5},
    "vaco-plain": {"normaliseAdvantages": False, "entropyCoefficient": 0.1},
    "ppo": {"name": "ppo"},
    "ppo-kl": {"name": "ppo-kl"},
    "spo": {"name": "spo"},
    "impala": {"name": "impala", "rhoPgBar": 1.3},
}
CASES = [
    *((variant, {}, None, None) for variant in VARIANTS),
    ("vaco", {}, CONTINUOUS, None),
    ("vaco", {"sharedTrunk": True}, MIXED, None),
    ("vaco", {"normaliseObservations": True, "normaliseReturns": True}, None, None),
    ("vaco", GRU, None, ("gru", 5)),
    ("vaco-per-minibatch", LSTM, CONTINUOUS, ("lstm", 5)),
]


@pytest.mark.parametrize(
    ("variant", "policy", "spaces", "core"), CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)]
)
def test_a_phase_is_what_the_formulas_say(
    variant: str,
    policy: dict[str, Any],
    spaces: Spaces | None,
    core: tuple[str, int] | None,
    training_job: MakeJob,
    make_fragment: MakeFragment,
    vector_spaces: Spaces,
) -> None:
    spaces = spaces or vector_spaces
    algorithm = {**SMOOTH, "epochs": 2, "minibatches": 3, **VARIANTS[variant]}
    job = training_job(algorithm=algorithm, policy={**SMALL, **policy})
    lengths = (8, 5, 8)
    batch = collate([make_fragment(spaces, i, t, 4, core) for i, t in enumerate(lengths)])
    updater = Updater(job, spaces)
    before = weights(updater)
    orders = recorded_orders(updater)
    stats = updater.update(batch)
    truth = update_slowly(job, spaces, batch, orders)
    assert stats.gradient_steps == len(orders) == 6
    assert distance(weights(updater), truth) < 2e-5
    assert distance(weights(updater), before) > 1e-3
    if stats.threshold is not None:
        assert 0.0 < stats.filtered_share < 1.0


# --- minibatches ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("policy", "core"), [({}, None), (GRU, ("gru", 5))])
def test_every_valid_sample_is_in_one_minibatch_of_each_epoch(
    policy: dict[str, Any],
    core: tuple[str, int] | None,
    training_job: MakeJob,
    make_fragment: MakeFragment,
    vector_spaces: Spaces,
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


def through_a_checkpoint(state: UpdaterState) -> UpdaterState:
    """What comes back from safetensors and JSON."""
    return UpdaterState(
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


def test_a_gradient_that_is_not_finite_is_not_applied(
    training_job: MakeJob, vector_spaces: Spaces
) -> None:
    """The square root has an infinite slope at 0: the loss is 0 and its gradient is not finite."""
    updater = Updater(training_job(), vector_spaces)
    before = weights(updater)
    bias = updater.policy.value_head.bias
    with pytest.raises(NonFiniteUpdate, match="loss 0, gradient norm"):
        updater._optimiser.step((bias * 0.0).abs().sum().sqrt(), 1e-3)
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


# --- statistics ----------------------------------------------------------------------------------


def test_statistics_of_a_phase(
    training_job: MakeJob, make_fragment: MakeFragment, vector_spaces: Spaces
) -> None:
    """With one gradient step everything can be computed from the policy that it started from."""
    job = training_job(algorithm={"minibatches": 1, "delta": 0.3})
    updater = Updater(job, vector_spaces)
    batch = collate([make_fragment(vector_spaces, 0, 30, 10)])
    with torch.no_grad():
        logp, value, entropy = evaluate_columns(updater.policy, batch)
    target, _ = align_slowly(job.spec.algorithm, updater.policy, batch, batch.rewards_TB)
    valid = batch.valid_TB.numpy()
    log_ratio = (logp - batch.behaviour_logp_TB).numpy()[valid]
    ratio, v, targets = np.exp(log_ratio), value[:-1].numpy()[valid], target[valid]
    stats = updater.update(batch)
    expected = {
        "tv": 0.5 * np.abs(ratio - 1).mean(),
        "tv_behaviour": 0.5 * np.abs(ratio - 1).mean(),
        "tv_start": 0.0,
        "threshold": 0.15,
        "over_threshold_share": 1.0,
        "rho_mean": ratio.mean(),
        "rho_max": ratio.max(),
        "ess": ratio.sum() ** 2 / (ratio**2).sum() / len(ratio),
        "value_loss": 0.5 * ((v - targets) ** 2).mean(),
        "explained_variance": 1 - np.var(targets - v) / np.var(targets),
        "entropy": entropy.numpy()[valid].mean(),
        "kl": (ratio - 1 - log_ratio).mean(),
        "learning_rate": 3e-4,
        "gradient_steps": 1,
        "samples": int(valid.sum()),
    }
    actual = dataclasses.asdict(stats)
    for name, number in expected.items():
        assert actual[name] == pytest.approx(number, rel=1e-4, abs=1e-5), name
    assert stats.tv_per_step == (stats.tv,)
    assert stats.filtered_samples == round(stats.filtered_share * stats.samples)
    json.dumps(actual)


def test_filtered_samples_counts_each_sample_once(
    training_job: MakeJob, make_fragment: MakeFragment, vector_spaces: Spaces
) -> None:
    """The same samples are dropped at every step of a policy that does not move."""
    fields = {"minibatches": 1, "learningRate": 1e-12}
    batch = collate([make_fragment(vector_spaces, 0, 30, 10)])
    one, five = (
        Updater(training_job(algorithm={**fields, "epochs": n}), vector_spaces).update(batch)
        for n in (1, 5)
    )
    assert one.filtered_samples == five.filtered_samples > 0
    assert five.filtered_share == pytest.approx(one.filtered_share)


def test_tv_per_step_is_bounded(
    training_job: MakeJob, make_fragment: MakeFragment, vector_spaces: Spaces
) -> None:
    job = training_job(algorithm={"minibatches": 100, "epochs": 3})
    stats = Updater(job, vector_spaces).update(
        collate([make_fragment(vector_spaces, 0, 20, 6, ends=0.0)])
    )
    assert stats.gradient_steps == 300 > MAX_TV_STEPS
    assert len(stats.tv_per_step) == 150
