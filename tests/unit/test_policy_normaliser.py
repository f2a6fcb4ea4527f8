import numpy as np
import pytest
import torch
from vaco_policy.normaliser import (
    CLIP,
    ReturnNormaliser,
    RunningNormaliser,
    discounted_sums,
)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_statistics_are_those_of_all_data_together(offset: float) -> None:
    rng = np.random.default_rng(0)
    cuts = [rng.normal(offset, [1.0, 5.0, 0.01], (n, 3)) for n in (1, 40, 7, 300)]
    normaliser = RunningNormaliser(3)
    for cut in cuts:
        normaliser.update(torch.from_numpy(cut))
    normaliser.update(torch.empty(0, 3))

    everything = np.concatenate(cuts)
    np.testing.assert_allclose(normaliser.mean, everything.mean(0), rtol=1e-12)
    np.testing.assert_allclose(normaliser.var, everything.var(0), rtol=1e-6)
    assert float(normaliser.count) == len(everything)


def test_features_come_out_with_mean_zero_and_deviation_one() -> None:
    rng = np.random.default_rng(1)
    data = torch.from_numpy(rng.normal([3.0, -200.0], [0.1, 50.0], (5000, 2)).astype(np.float32))
    normaliser = RunningNormaliser(2)
    normaliser.update(data.reshape(50, 100, 2))
    out = normaliser(data)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.mean(0), torch.zeros(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(out.std(0), torch.ones(2), atol=1e-3, rtol=0)
    assert float(normaliser(torch.tensor([[1e9, -1e9]])).abs().max()) == CLIP


def test_nothing_is_changed_before_any_data_or_by_data_that_does_not_vary() -> None:
    normaliser = RunningNormaliser(2)
    x = torch.tensor([[0.5, -7.0]])
    torch.testing.assert_close(normaliser(x), x)
    normaliser.update(torch.full((10, 2), 4.0))
    assert normaliser(torch.full((1, 2), 4.0)).abs().max() < 1e-3


def slow_sums(
    rewards: np.ndarray, done: np.ndarray, valid: np.ndarray, carry: np.ndarray, gamma: float
) -> list[float]:
    """The discounted sums of valid steps, one environment and one step at a time."""
    sums = []
    for b in range(rewards.shape[1]):
        running = float(carry[b])
        for t in range(rewards.shape[0]):
            if not valid[t, b]:
                continue
            running = float(rewards[t, b]) + gamma * running
            sums.append(running)
            if done[t, b]:
                running = 0.0
    return sums


def episode_data(seed: int, length: int) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(seed)
    rewards = rng.normal(1.0, 2.0, (length, 5)).astype(np.float32)
    done = rng.random((length, 5)) < 0.2
    # As a vector environment with next-step autoreset does: the step after an end is no sample.
    valid = np.ones_like(done)
    valid[1:] = ~done[:-1]
    # And some in the middle of an episode, as padding is.
    valid &= rng.random((length, 5)) < 0.9
    done &= valid
    carry = rng.normal(0.0, 3.0, 5).astype(np.float32)
    return tuple(torch.from_numpy(array) for array in (rewards, done, valid, carry))


def test_reward_scale_is_the_deviation_of_discounted_sums() -> None:
    normaliser, sums = ReturnNormaliser(), []
    for seed, length in ((0, 30), (1, 1), (2, 64)):
        batch = episode_data(seed, length)
        normaliser.update(*batch, gamma=0.9)
        sums += slow_sums(*(array.numpy() for array in batch), gamma=0.9)
    assert float(normaliser.count) == len(sums)
    np.testing.assert_allclose(normaliser.var, np.var(sums), rtol=1e-9)
    assert float(normaliser.scale()) == pytest.approx(1 / np.std(sums), rel=1e-6)
    rewards = torch.tensor([[1.0, -2.0, 1e6]])
    expected = (rewards / np.std(sums)).clamp(-CLIP, CLIP).float()
    torch.testing.assert_close(normaliser(rewards), expected)


def test_a_batch_without_samples_changes_nothing() -> None:
    normaliser = ReturnNormaliser()
    rewards, done, valid, carry = episode_data(0, 4)
    normaliser.update(rewards, done, torch.zeros_like(valid), carry, 0.9)
    assert float(normaliser.count) == 0
    assert float(normaliser.scale()) == pytest.approx(1.0)


def test_sums_go_on_where_the_fragment_before_left_them() -> None:
    rewards, done, valid, carry = episode_data(3, 20)
    whole = discounted_sums(rewards, done, valid, carry, 0.95)
    first = discounted_sums(rewards[:8], done[:8], valid[:8], carry, 0.95)
    between = torch.where(done[7], 0.0, first[-1])
    rest = discounted_sums(rewards[8:], done[8:], valid[8:], between, 0.95)
    torch.testing.assert_close(torch.cat([first, rest]), whole)
