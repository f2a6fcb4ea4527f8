"""A whole phase against a slow truth: the formulas, one column, sample and parameter at a time."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from vaco.job import VACOJob
from vaco.trajectory import Fragment
from vaco_learner.batch import PhaseBatch, collate
from vaco_learner.update import Updater
from vaco_policy.policy import Policy
from vaco_policy.spaces import Box, Discrete, MultiDiscrete, Spaces

MakeJob = Callable[..., VACOJob]
MakeFragment = Callable[..., Fragment]
RecordedOrders = Callable[[Updater], list[torch.Tensor]]

# A large epsilon keeps Adam from turning rounding noise in tiny gradients into whole steps.
SMOOTH = {"adamEpsilon": 1e-3, "learningRate": 1e-2}
SMALL = {"network": {"type": "mlp", "hiddenSizes": [16]}}
GRU = {"core": {"type": "gru", "hiddenSize": 5}}
LSTM = {"core": {"type": "lstm", "hiddenSize": 5}}
CONTINUOUS = Spaces({"observation": Box((3,))}, Box((2,)))
MIXED = Spaces({"kind": Discrete(2), "place": Box((2, 2))}, MultiDiscrete((2, 3)))


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    return max(float((first[name] - second[name]).abs().max()) for name in first)


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
    recorded_orders: RecordedOrders,
) -> None:
    spaces = spaces or vector_spaces
    algorithm = {**SMOOTH, "epochs": 2, "minibatches": 3, **VARIANTS[variant]}
    job = training_job(algorithm=algorithm, policy={**SMALL, **policy})
    lengths = (8, 5, 8)
    batch = collate([make_fragment(spaces, i, t, 4, core) for i, t in enumerate(lengths)])
    updater = Updater(job, spaces)
    before = {name: tensor.clone() for name, tensor in updater.policy.state_dict().items()}
    orders = recorded_orders(updater)
    stats = updater.update(batch)
    truth = update_slowly(job, spaces, batch, orders)
    assert stats.gradient_steps == len(orders) == 6
    assert distance(updater.policy.state_dict(), truth) < 2e-5
    assert distance(updater.policy.state_dict(), before) > 1e-3
    if stats.threshold is not None:
        assert 0.0 < stats.filtered_share < 1.0


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
