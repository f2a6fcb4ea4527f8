"""V-trace and GAE against a slow truth, rlax and each other."""

from __future__ import annotations

import dataclasses
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from vaco_learner.align import Aligned, Steps, gae, vtrace

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import jax
    import jax.numpy as jnp
    import rlax

GAMMA, LAM = 0.97, 0.9
SEEDS = range(5)


def random_steps(
    seed: int, length: int = 12, columns: int = 7, ends: float = 0.15
) -> tuple[Steps, torch.Tensor]:
    """Steps in float64 with episodes that end in both ways, and log-ratios around 0."""
    rng = np.random.default_rng(seed)
    shape = (length, columns)
    terminated = rng.random(shape) < ends
    truncated = (rng.random(shape) < ends) & ~terminated
    steps = Steps(
        rewards_TB=torch.from_numpy(rng.normal(size=shape)),
        value_TB=torch.from_numpy(rng.normal(size=shape)),
        next_value_TB=torch.from_numpy(rng.normal(size=shape)),
        terminated_TB=torch.from_numpy(terminated),
        truncated_TB=torch.from_numpy(truncated),
        valid_TB=torch.ones(shape, dtype=torch.bool),
    )
    return steps, torch.from_numpy(rng.normal(scale=0.7, size=shape))


def chained(steps: Steps) -> Steps:
    """The same, with the next value of a step that goes on being the next step's value."""
    going_on = ~(steps.terminated_TB | steps.truncated_TB)
    next_value = steps.next_value_TB.clone()
    next_value[:-1] = torch.where(going_on[:-1], steps.value_TB[1:], next_value[:-1])
    return dataclasses.replace(steps, next_value_TB=next_value)


def truth(
    steps: Steps, log_rho_TB: torch.Tensor, rho_bar: float = 1.0, c_bar: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """V-trace as the sum over later steps that defines it, one step after the other."""
    r, v, vn = (x.numpy() for x in (steps.rewards_TB, steps.value_TB, steps.next_value_TB))
    terminated, truncated = steps.terminated_TB.numpy(), steps.truncated_TB.numpy()
    rho = np.exp(log_rho_TB.numpy())
    target, advantage = np.zeros_like(v), np.zeros_like(v)
    length, columns = v.shape
    for b in range(columns):
        for s in range(length):
            total = weighted = 0.0
            product = 1.0
            for t in range(s, length):
                bootstrap = 0.0 if terminated[t, b] else vn[t, b]
                d = r[t, b] + GAMMA * bootstrap - v[t, b]
                weighted += product * min(rho_bar, rho[t, b]) * d
                if t == s:
                    total += d
                else:
                    # Everything of the first step's own weight c_s divides out of A_s.
                    total += product / min(c_bar, rho[s, b]) * min(rho_bar, rho[t, b]) * d
                if terminated[t, b] or truncated[t, b]:
                    break
                product *= GAMMA * LAM * min(c_bar, rho[t, b])
            target[s, b] = v[s, b] + weighted
            advantage[s, b] = total
    return target, advantage


def gae_truth(steps: Steps, decay: np.ndarray) -> np.ndarray:
    """GAE's recursion with a decay per step in the place of gamma*lambda."""
    v, vn = steps.value_TB.numpy(), steps.next_value_TB.numpy()
    terminated, truncated = steps.terminated_TB.numpy(), steps.truncated_TB.numpy()
    advantage = np.zeros_like(v)
    later = np.zeros(v.shape[1])
    for t in reversed(range(len(v))):
        d = steps.rewards_TB.numpy()[t] + GAMMA * vn[t] * ~terminated[t] - v[t]
        later = d + decay[t] * ~(terminated[t] | truncated[t]) * later
        advantage[t] = later
    return advantage


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=1e-9, atol=1e-9)


def same(result: Aligned, target: np.ndarray, advantage: np.ndarray) -> None:
    np.testing.assert_allclose(result.value_target_TB.numpy(), target, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(result.advantage_TB.numpy(), advantage, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("rho_bar", "c_bar"), [(1.0, 1.0), (2.0, 0.5), (0.3, 1.7)])
def test_vtrace_is_the_sum_that_defines_it(seed: int, rho_bar: float, c_bar: float) -> None:
    steps, log_rho = random_steps(seed)
    result = vtrace(steps, log_rho, gamma=GAMMA, lam=LAM, rho_bar=rho_bar, c_bar=c_bar)
    same(result, *truth(steps, log_rho, rho_bar, c_bar))


@pytest.mark.parametrize("seed", SEEDS)
def test_advantage_is_gae_with_a_shorter_trace_where_later_actions_have_become_unlikely(
    seed: int,
) -> None:
    steps, log_rho = random_steps(seed)
    decay = np.full(log_rho.shape, GAMMA * LAM)
    decay[:-1] *= np.minimum(1.0, np.exp(log_rho.numpy()[1:]))
    result = vtrace(steps, log_rho, gamma=GAMMA, lam=LAM)
    np.testing.assert_allclose(result.advantage_TB.numpy(), gae_truth(steps, decay), atol=1e-9)


@jax.jit
@partial(jax.vmap, in_axes=1, out_axes=1)
def rlax_vtrace(v_tm1, v_t, r_t, discount_t, rho_tm1):
    return rlax.vtrace_td_error_and_advantage(v_tm1, v_t, r_t, discount_t, rho_tm1, LAM)


@pytest.mark.parametrize("seed", SEEDS)
def test_advantage_is_rlax_q_estimate_less_v(seed: int) -> None:
    """To rlax a termination is discount 0, and a truncation (of all columns, here) the end."""
    steps, log_rho = random_steps(seed)
    steps.truncated_TB.zero_()
    steps.truncated_TB[5] = ~steps.terminated_TB[5]
    steps = chained(steps)
    result = vtrace(steps, log_rho, gamma=GAMMA, lam=LAM)
    for part in (slice(0, 6), slice(6, 12)):
        value = steps.value_TB[part].numpy()
        out = rlax_vtrace(
            jnp.asarray(value, jnp.float32),
            jnp.asarray(steps.next_value_TB[part].numpy(), jnp.float32),
            jnp.asarray(steps.rewards_TB[part].numpy(), jnp.float32),
            jnp.asarray(GAMMA * (~steps.terminated_TB[part]).numpy(), jnp.float32),
            jnp.exp(jnp.asarray(log_rho[part].numpy(), jnp.float32)),
        )
        advantage, target = result.advantage_TB[part], result.value_target_TB[part]
        np.testing.assert_allclose(advantage.numpy(), out.q_estimate - value, atol=2e-5)
        np.testing.assert_allclose(target.numpy(), out.errors + value, atol=2e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_on_policy_it_is_gae(seed: int) -> None:
    steps, log_rho = random_steps(seed)
    advantage = gae_truth(steps, np.full(log_rho.shape, GAMMA * LAM))
    target = steps.value_TB.numpy() + advantage
    same(vtrace(steps, torch.zeros_like(log_rho), gamma=GAMMA, lam=LAM), target, advantage)
    same(gae(steps, gamma=GAMMA, lam=LAM), target, advantage)


@pytest.mark.parametrize("seed", SEEDS)
def test_value_target_is_v_plus_the_weighted_advantage(seed: int) -> None:
    steps, log_rho = random_steps(seed)
    result = vtrace(steps, log_rho, gamma=GAMMA, lam=LAM)
    weighted = log_rho.exp().clamp(max=1.0) * result.advantage_TB
    close(result.value_target_TB, steps.value_TB + weighted)


@pytest.mark.parametrize("seed", SEEDS)
def test_impala_form_bootstraps_from_the_next_target(seed: int) -> None:
    steps, log_rho = random_steps(seed)
    steps = chained(steps)
    result = vtrace(steps, log_rho, gamma=GAMMA, lam=LAM, form="impala")
    target = vtrace(steps, log_rho, gamma=GAMMA, lam=LAM).value_target_TB
    close(result.value_target_TB, target)
    going_on = ~(steps.terminated_TB | steps.truncated_TB)
    bootstrap = torch.where(steps.terminated_TB, 0.0, steps.next_value_TB)
    bootstrap[:-1] = torch.where(going_on[:-1], target[1:], bootstrap[:-1])
    expected = steps.rewards_TB + GAMMA * bootstrap - steps.value_TB
    close(result.advantage_TB, expected)


def test_both_forms_agree_at_lambda_one_and_only_there() -> None:
    steps, log_rho = random_steps(0)
    steps = chained(steps)

    def advantage(lam: float, form: str) -> torch.Tensor:
        return vtrace(steps, log_rho, gamma=GAMMA, lam=lam, form=form).advantage_TB

    close(advantage(1.0, "unweighted"), advantage(1.0, "impala"))
    assert not torch.allclose(advantage(0.9, "unweighted"), advantage(0.9, "impala"))


@pytest.mark.parametrize("ending", ["terminated_TB", "truncated_TB"])
def test_nothing_crosses_the_end_of_an_episode(ending: str) -> None:
    steps, log_rho = random_steps(1, ends=0.0)
    getattr(steps, ending)[5] = True
    other, other_log_rho = random_steps(2, ends=0.0)
    mixed = Steps(
        *(
            torch.cat((getattr(steps, field.name)[:6], getattr(other, field.name)[6:]))
            for field in dataclasses.fields(Steps)
        )
    )
    mixed_log_rho = torch.cat((log_rho[:6], other_log_rho[6:]))
    first = vtrace(steps, log_rho, gamma=GAMMA, lam=LAM)
    second = vtrace(mixed, mixed_log_rho, gamma=GAMMA, lam=LAM)
    assert torch.equal(first.advantage_TB[:6], second.advantage_TB[:6])
    assert torch.equal(first.value_target_TB[:6], second.value_target_TB[:6])
    assert not torch.equal(first.advantage_TB[6:], second.advantage_TB[6:])


def test_a_truncated_step_bootstraps_and_a_terminated_one_does_not() -> None:
    steps, log_rho = random_steps(3, length=4, columns=2, ends=0.0)
    steps.truncated_TB[1, 0] = True
    steps.terminated_TB[1, 1] = True
    steps.next_value_TB[1, 1] = torch.nan
    advantage = vtrace(steps, log_rho, gamma=GAMMA, lam=LAM).advantage_TB[1]
    reward, value = steps.rewards_TB[1], steps.value_TB[1]
    close(advantage[0], reward[0] + GAMMA * steps.next_value_TB[1, 0] - value[0])
    close(advantage[1], reward[1] - value[1])


def test_invalid_steps_contribute_nothing() -> None:
    steps, log_rho = random_steps(4, ends=0.0)
    steps.truncated_TB[3] = True
    steps.valid_TB[4] = False
    steps.valid_TB[9:, 2:] = False
    wild = dataclasses.replace(
        steps,
        rewards_TB=torch.where(steps.valid_TB, steps.rewards_TB, torch.inf),
        next_value_TB=torch.where(steps.valid_TB, steps.next_value_TB, torch.nan),
        terminated_TB=steps.terminated_TB | ~steps.valid_TB,
    )
    wild_log_rho = torch.where(steps.valid_TB, log_rho, 1e9)
    calm = vtrace(steps, log_rho, gamma=GAMMA, lam=LAM)
    result = vtrace(wild, wild_log_rho, gamma=GAMMA, lam=LAM)
    assert torch.equal(result.advantage_TB, calm.advantage_TB)
    assert torch.equal(result.value_target_TB, calm.value_target_TB)
    assert (result.advantage_TB[~steps.valid_TB] == 0).all()
    assert torch.equal(result.value_target_TB[~steps.valid_TB], steps.value_TB[~steps.valid_TB])


def test_an_episode_behind_an_invalid_step_is_as_if_it_stood_alone() -> None:
    steps, log_rho = random_steps(5, ends=0.0)
    steps.terminated_TB[3] = True
    steps.valid_TB[4] = False
    alone = Steps(*(getattr(steps, field.name)[5:] for field in dataclasses.fields(Steps)))
    whole = vtrace(steps, log_rho, gamma=GAMMA, lam=LAM)
    part = vtrace(alone, log_rho[5:], gamma=GAMMA, lam=LAM)
    assert torch.equal(whole.advantage_TB[5:], part.advantage_TB)


def test_a_fragment_cut_short_is_as_if_it_had_been_that_short() -> None:
    steps, log_rho = random_steps(6)
    steps.valid_TB[8:] = False
    short = Steps(*(getattr(steps, field.name)[:8] for field in dataclasses.fields(Steps)))
    padded = vtrace(steps, log_rho, gamma=GAMMA, lam=LAM)
    alone = vtrace(short, log_rho[:8], gamma=GAMMA, lam=LAM)
    assert torch.equal(padded.advantage_TB[:8], alone.advantage_TB)
    assert torch.equal(padded.value_target_TB[:8], alone.value_target_TB)


def test_extreme_ratios_stay_finite_in_float32() -> None:
    steps, _ = random_steps(7)
    steps = Steps(
        *(
            x.float() if x.is_floating_point() else x
            for x in (getattr(steps, field.name) for field in dataclasses.fields(Steps))
        )
    )
    log_rho = torch.where(torch.arange(12)[:, None] % 2 == 0, 500.0, -500.0).expand(12, 7)
    result = vtrace(steps, log_rho, gamma=GAMMA, lam=LAM, rho_bar=1e6, c_bar=1e6)
    assert result.advantage_TB.isfinite().all()
    assert result.value_target_TB.isfinite().all()
