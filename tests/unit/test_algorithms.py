"""Every algorithm's loss and gradient against its formula, one sample at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from vaco.job import AlgorithmSpec
from vaco_learner.algorithms import Algorithm, Minibatch, kl_from_behaviour, make_algorithm
from vaco_learner.align import Steps, gae, normalise_kept, vtrace
from vaco_learner.filter import Logps
from vaco_learner.ratios import bounded

N = 40
FRAGMENTS = 4


def algorithm(**fields: object) -> Algorithm:
    return make_algorithm(TypeAdapter(AlgorithmSpec).validate_python(fields))


def minibatch(seed: int = 0, spread: float = 0.6) -> Minibatch:
    """Samples whose policy has moved from pi_T, and pi_T from beta; float64."""
    rng = np.random.default_rng(seed)
    behaviour = rng.normal(-1.5, 0.5, N)
    start = behaviour + rng.normal(0, spread, N)
    policy = start + rng.normal(0, spread, N)
    return Minibatch(
        logps=Logps(
            policy_N=torch.tensor(policy, requires_grad=True),
            behaviour_N=torch.from_numpy(behaviour),
            start_N=torch.from_numpy(start),
        ),
        advantage_N=torch.from_numpy(rng.normal(0.2, 1.0, N)),
        fragment_N=torch.from_numpy(rng.integers(0, FRAGMENTS, N)),
        fragments=FRAGMENTS,
    )


def parts(batch: Minibatch) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    logps = batch.logps
    policy, behaviour, start = (
        x.detach().numpy() for x in (logps.policy_N, logps.behaviour_N, logps.start_N)
    )
    return policy, behaviour, start, batch.advantage_N.numpy()


def vaco_truth(
    batch: Minibatch,
    threshold: float,
    anchor: str = "behaviour",
    scope: str = "minibatch",
) -> tuple[float, np.ndarray]:
    """Loss and its gradient with respect to log pi, written like the formulas."""
    policy, behaviour, start, advantage = parts(batch)
    ratio = np.exp(policy - behaviour)
    if anchor == "gap":
        deviation, direction = ratio - np.exp(start - behaviour), policy - start
    else:
        direction = policy - (behaviour if anchor == "behaviour" else start)
        deviation = np.exp(direction) - 1
    owner = batch.fragment_N.numpy() if scope == "fragment" else np.zeros(N, int)
    loss, gradient = 0.0, np.zeros(N)
    for i in range(N):
        tv = 0.5 * np.mean(np.abs(deviation[owner == owner[i]]))
        keep = 1 if tv <= threshold or advantage[i] * np.sign(direction[i]) <= 0 else 0
        loss -= keep * advantage[i] * ratio[i] / N
        gradient[i] = -keep * advantage[i] * ratio[i] / N
    return loss, gradient


def check(batch: Minibatch, loss: torch.Tensor, value: float, gradient: np.ndarray) -> None:
    assert float(loss.detach()) == pytest.approx(value, rel=1e-9)
    (actual,) = torch.autograd.grad(loss, batch.logps.policy_N)
    np.testing.assert_allclose(actual.numpy(), gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("anchor", ["behaviour", "learnerStart", "gap"])
@pytest.mark.parametrize("scope", ["minibatch", "fragment"])
@pytest.mark.parametrize(("threshold", "level"), [("halfDelta", 0.25), ("delta", 0.5)])
def test_vaco(seed: int, anchor: str, scope: str, threshold: str, level: float) -> None:
    batch = minibatch(seed)
    subject = algorithm(
        name="vaco", delta=0.5, threshold=threshold, tvAnchor=anchor, filterScope=scope
    )
    result = subject.policy_loss(batch)
    check(batch, result.loss, *vaco_truth(batch, level, anchor, scope))
    assert subject.threshold == level


def test_the_two_thresholds_differ_between_them() -> None:
    """TV lies between delta/2 and delta: one threshold filters, the other does not."""
    batch = minibatch()
    policy, behaviour, _, _ = parts(batch)
    tv = float(0.5 * np.mean(np.abs(np.exp(policy - behaviour) - 1)))
    half, whole = (
        algorithm(name="vaco", delta=1.5 * tv, threshold=t).policy_loss(batch).filtered
        for t in ("halfDelta", "delta")
    )
    assert half is not None
    assert whole is not None
    assert not half.keep_N.all()
    assert whole.keep_N.all()


def test_vaco_divides_by_all_samples_also_by_those_it_drops() -> None:
    behaviour = torch.full((4,), -1.0, dtype=torch.float64)
    ratio = torch.tensor([2.0, 2.0, 0.5, 0.5], dtype=torch.float64)
    batch = Minibatch(
        Logps(behaviour + ratio.log(), behaviour, behaviour),
        advantage_N=torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64),
        fragment_N=torch.zeros(4, dtype=torch.int64),
        fragments=1,
    )
    # Kept: -1*2 and 1*0.5; the denominator is 4, not 2.
    assert float(algorithm(name="vaco").policy_loss(batch).loss) == pytest.approx(1.5 / 4)


@pytest.mark.parametrize("delta", [0.1, 2.0])
def test_vaco_normalises_what_the_filter_keeps(delta: float) -> None:
    """The filter goes by the advantages as they are; 0.1 drops some of them, 2 drops none."""
    batch = minibatch()
    policy, behaviour, _, advantage = parts(batch)
    ratio = np.exp(policy - behaviour)
    over = 0.5 * np.mean(np.abs(ratio - 1)) > delta / 2
    keep = ~over | (advantage * np.sign(policy - behaviour) <= 0)
    kept = advantage[keep]
    scaled = np.where(keep, (advantage - kept.mean()) / kept.std(), 0.0)
    subject = algorithm(name="vaco", delta=delta, normaliseAfterFilter=True)
    assert subject.normalises
    loss = subject.policy_loss(batch).loss
    assert keep.all() == (delta == 2.0)
    assert float(loss.detach()) == pytest.approx(-np.mean(scaled * ratio), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, batch.logps.policy_N)
    np.testing.assert_allclose(gradient.numpy(), -scaled * ratio / N, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("off", ["normaliseAdvantages", "filter"])
def test_vaco_leaves_normalising_to_the_update_otherwise(off: str) -> None:
    assert not algorithm(name="vaco").normalises
    assert not algorithm(**{"name": "vaco", "normaliseAfterFilter": True, off: False}).normalises


def test_nothing_is_left_when_the_filter_drops_all() -> None:
    nothing = normalise_kept(torch.tensor([1.0, 2.0]), torch.zeros(2, dtype=torch.bool))
    assert nothing.tolist() == [0.0, 0.0]


def test_vaco_without_filter_is_the_plain_surrogate() -> None:
    batch = minibatch()
    subject = algorithm(name="vaco", filter=False)
    policy, behaviour, _, advantage = parts(batch)
    ratio = np.exp(policy - behaviour)
    result = subject.policy_loss(batch)
    check(batch, result.loss, -np.mean(advantage * ratio), -advantage * ratio / N)
    assert result.filtered is None
    assert subject.threshold is None


def test_ppo() -> None:
    batch = minibatch()
    policy, behaviour, _, advantage = parts(batch)
    loss, gradient = 0.0, np.zeros(N)
    for i in range(N):
        ratio = math.exp(policy[i] - behaviour[i])
        clipped = min(max(ratio, 1 - 0.3), 1 + 0.3)
        loss -= min(ratio * advantage[i], clipped * advantage[i]) / N
        stopped = ratio > 1.3 if advantage[i] > 0 else ratio < 0.7
        gradient[i] = 0.0 if stopped else -advantage[i] * ratio / N
    check(batch, algorithm(name="ppo", clipEpsilon=0.3).policy_loss(batch).loss, loss, gradient)
    assert (gradient == 0).any()


def test_ppo_kl() -> None:
    batch = minibatch()
    policy, behaviour, _, advantage = parts(batch)
    ratio = np.exp(policy - behaviour)
    kl = np.mean(ratio - 1 - (policy - behaviour))
    loss = 3.0 * kl - np.mean(ratio * advantage)
    gradient = (3.0 * (ratio - 1) - ratio * advantage) / N
    check(batch, algorithm(name="ppo-kl", initialBeta=3.0).policy_loss(batch).loss, loss, gradient)


def test_spo() -> None:
    batch = minibatch()
    policy, behaviour, _, advantage = parts(batch)
    ratio = np.exp(policy - behaviour)
    weight = np.abs(advantage) / (2 * 0.25)
    loss = -np.mean(ratio * advantage - weight * (ratio - 1) ** 2)
    gradient = -ratio * (advantage - 2 * weight * (ratio - 1)) / N
    check(batch, algorithm(name="spo", epsilon=0.25).policy_loss(batch).loss, loss, gradient)


def test_spo_turns_at_epsilon() -> None:
    behaviour = torch.zeros(2, dtype=torch.float64)
    policy = torch.tensor([1.2, 0.8], dtype=torch.float64).log().requires_grad_()
    batch = Minibatch(
        Logps(policy, behaviour, behaviour),
        torch.tensor([2.0, -3.0], dtype=torch.float64),
        torch.zeros(2, dtype=torch.int64),
        1,
    )
    (gradient,) = torch.autograd.grad(algorithm(name="spo").policy_loss(batch).loss, policy)
    np.testing.assert_allclose(gradient.numpy(), 0.0, atol=1e-12)


def test_impala() -> None:
    batch = minibatch()
    policy, behaviour, _, advantage = parts(batch)
    weight = np.minimum(1.2, np.exp(policy - behaviour))
    loss, gradient = -np.mean(weight * advantage * policy), -weight * advantage / N
    check(batch, algorithm(name="impala", rhoPgBar=1.2).policy_loss(batch).loss, loss, gradient)


SMOOTH = [
    {"name": "vaco", "delta": 0.3},
    {"name": "vaco", "delta": 0.3, "tvAnchor": "gap", "filterScope": "fragment"},
    {"name": "ppo"},
    {"name": "ppo-kl"},
    {"name": "spo"},
]


@pytest.mark.parametrize("fields", SMOOTH, ids=lambda fields: fields["name"])
def test_gradients_are_finite_differences_of_the_loss(fields: dict[str, object]) -> None:
    """Not IMPALA's: its weight is data, so its loss is no antiderivative of its gradient."""
    batch = minibatch(spread=0.3)
    subject = algorithm(**fields)
    (gradient,) = torch.autograd.grad(subject.policy_loss(batch).loss, batch.logps.policy_N)
    step = 1e-6
    for i in range(N):
        losses = []
        for sign in (1, -1):
            moved = batch.logps.policy_N.detach().clone()
            moved[i] += sign * step
            logps = Logps(moved, batch.logps.behaviour_N, batch.logps.start_N)
            losses.append(
                float(
                    subject.policy_loss(
                        Minibatch(logps, batch.advantage_N, batch.fragment_N, FRAGMENTS)
                    ).loss
                )
            )
        difference = (losses[0] - losses[1]) / (2 * step)
        assert float(gradient[i]) == pytest.approx(difference, abs=1e-7)


def random_steps() -> tuple[Steps, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)

    def normal() -> torch.Tensor:
        return torch.randn(9, 4, generator=generator, dtype=torch.float64)

    ended = torch.rand(9, 4, generator=generator) < 0.15
    steps = Steps(
        normal(), normal(), normal(), ended, torch.zeros_like(ended), torch.ones_like(ended)
    )
    return steps, normal()


Fields = dict[str, object]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"name": "vaco", "rhoBar": 2.0, "cBar": 0.5}, {"rho_bar": 2.0, "c_bar": 0.5}),
        ({"name": "vaco", "advantage": "impala"}, {"form": "impala"}),
        ({"name": "vaco", "realign": "perEpoch"}, {}),
        ({"name": "impala", "rhoBar": 3.0}, {"form": "impala", "rho_bar": 3.0}),
    ],
)
def test_who_aligns_with_vtrace(fields: Fields, expected: Fields) -> None:
    steps, log_rho = random_steps()
    aligned = algorithm(gamma=0.9, lam=0.8, **fields).align(steps, log_rho)
    truth = vtrace(steps, log_rho, gamma=0.9, lam=0.8, **expected)  # type: ignore[arg-type]
    assert torch.equal(aligned.advantage_TB, truth.advantage_TB)
    assert torch.equal(aligned.value_target_TB, truth.value_target_TB)


@pytest.mark.parametrize(
    "fields",
    [{"name": "vaco", "realign": "never"}, {"name": "ppo"}, {"name": "ppo-kl"}, {"name": "spo"}],
)
def test_who_takes_plain_gae(fields: Fields) -> None:
    steps, log_rho = random_steps()
    aligned = algorithm(gamma=0.9, lam=0.8, **fields).align(steps, log_rho)
    truth = gae(steps, gamma=0.9, lam=0.8)
    assert torch.equal(aligned.advantage_TB, truth.advantage_TB)
    assert torch.equal(aligned.value_target_TB, truth.value_target_TB)


@pytest.mark.parametrize(
    ("fields", "realign"),
    [
        ({"name": "vaco"}, "once"),
        ({"name": "vaco", "realign": "perMinibatch"}, "perMinibatch"),
        ({"name": "impala"}, "perMinibatch"),
        ({"name": "ppo"}, "never"),
    ],
)
def test_when_advantages_are_computed(fields: Fields, realign: str) -> None:
    assert algorithm(**fields).realign == realign


@pytest.mark.parametrize(
    ("kl", "factor"), [(0.0151, 2.0), (0.0149, 1.0), (0.01, 1.0), (0.0067, 1.0), (0.0066, 0.5)]
)
def test_ppo_kl_adapts_its_penalty(kl: float, factor: float) -> None:
    subject = algorithm(name="ppo-kl", targetKl=0.01, initialBeta=3.0)
    assert subject.adapts_to_kl
    subject.adapt(kl)
    assert subject.state() == {"beta": 3.0 * factor}


@pytest.mark.parametrize(("kl", "back"), [(0.0, 1.0), (1.0, 0.0)])
def test_the_penalty_can_always_come_back(kl: float, back: float) -> None:
    subject = algorithm(name="ppo-kl")
    for _ in range(5000):
        subject.adapt(kl)
    for _ in range(20):
        subject.adapt(back)
    assert subject.state() == {"beta": 1.0}


def test_the_penalty_is_state() -> None:
    first, second = algorithm(name="ppo-kl"), algorithm(name="ppo-kl")
    first.adapt(1.0)
    second.load_state(first.state())
    batch = minibatch()
    assert torch.equal(second.policy_loss(batch).loss, first.policy_loss(batch).loss)
    assert second.state() == {"beta": 2.0}


@pytest.mark.parametrize("name", ["vaco", "ppo", "spo", "impala"])
def test_the_others_keep_no_state(name: str) -> None:
    assert algorithm(name=name).state() == {}
    assert not algorithm(name=name).adapts_to_kl


def test_kl_estimate_is_exact_in_expectation() -> None:
    """Over all actions, weighed by beta, the estimate is the KL of two categorical policies."""
    behaviour = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    policy = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
    times = torch.tensor([2, 1, 1])  # how often beta takes each in four
    log_ratio = (policy / behaviour).log().repeat_interleave(times)
    exact = float((behaviour * (behaviour / policy).log()).sum())
    assert float(kl_from_behaviour(bounded(log_ratio))) == pytest.approx(exact)


@pytest.mark.parametrize("name", ["vaco", "ppo", "ppo-kl", "spo", "impala"])
@pytest.mark.parametrize("value", [150.0, -150.0])
def test_extreme_ratios_stay_finite_in_float32(name: str, value: float) -> None:
    double = minibatch()
    behaviour = double.logps.behaviour_N.float()
    logps = Logps((behaviour + value).requires_grad_(), behaviour, behaviour)
    batch = Minibatch(logps, double.advantage_N.float(), double.fragment_N, FRAGMENTS)
    loss = algorithm(name=name).policy_loss(batch).loss
    (gradient,) = torch.autograd.grad(loss, batch.logps.policy_N)
    assert loss.isfinite()
    assert gradient.isfinite().all()
