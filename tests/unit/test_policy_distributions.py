import math

import numpy as np
import pytest
import torch
from torch import Tensor
from vaco_policy.distributions import (
    Categorical,
    DiagonalGaussian,
    MultiCategorical,
    choice_layout,
)

NVEC = (3, 2, 4)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def multi(flat: Tensor) -> MultiCategorical:
    index, mask = choice_layout(NVEC)
    return MultiCategorical(flat[..., index].reshape(*flat.shape[:-1], *mask.shape) + mask)


def assert_frequencies(counts: np.ndarray, probabilities: np.ndarray) -> None:
    """Each count within five standard deviations of its binomial."""
    n = counts.sum()
    deviation = np.sqrt(n * probabilities * (1 - probabilities))
    assert (np.abs(counts - n * probabilities) <= 5 * deviation + 1e-9).all(), counts / n


def test_choices_are_drawn_as_often_as_they_are_probable() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.049, 0.001])
    distribution = Categorical(probabilities.log().expand(200_000, 5) + 3.0)
    actions, logp = distribution.draw(generator())
    assert_frequencies(np.bincount(actions.numpy(), minlength=5), probabilities.numpy())
    torch.testing.assert_close(logp, probabilities.log()[actions])


def test_draws_depend_on_the_generator_alone() -> None:
    logits = torch.randn(50, 6, generator=generator())
    torch.manual_seed(1)
    one, _ = Categorical(logits).draw(generator(5))
    torch.manual_seed(2)
    again, _ = Categorical(logits).draw(generator(5))
    other, _ = Categorical(logits).draw(generator(6))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_categorical_is_its_formula() -> None:
    logits = torch.randn(7, 4, generator=generator())
    p = np.exp(logits.double().numpy())
    p /= p.sum(-1, keepdims=True)
    distribution = Categorical(logits)

    np.testing.assert_allclose(distribution.entropy(), -(p * np.log(p)).sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(distribution.mode(), p.argmax(-1))
    action = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    np.testing.assert_allclose(
        distribution.logp(action), np.log(p[np.arange(7), action]), rtol=1e-5
    )


def test_dimensions_of_a_multi_categorical_are_independent_categoricals() -> None:
    flat = torch.randn(6, sum(NVEC), generator=generator())
    each = [Categorical(part) for part in flat.split(NVEC, -1)]
    joint = multi(flat)
    actions = torch.stack([torch.randint(n, (6,), generator=generator()) for n in NVEC], -1)

    logps = [one.logp(action) for one, action in zip(each, actions.unbind(-1), strict=True)]
    torch.testing.assert_close(joint.logp(actions), torch.stack(logps).sum(0))
    torch.testing.assert_close(joint.entropy(), torch.stack([e.entropy() for e in each]).sum(0))
    assert torch.equal(joint.mode(), torch.stack([e.mode() for e in each], -1))


def test_a_multi_categorical_draws_each_dimension_by_its_own_probabilities() -> None:
    flat = torch.randn(sum(NVEC), generator=generator())
    actions, logp = multi(flat.expand(100_000, -1)).draw(generator(3))
    for dimension, logits in enumerate(flat.split(NVEC)):
        counts = np.bincount(actions[:, dimension].numpy(), minlength=NVEC[dimension])
        assert_frequencies(counts, logits.softmax(0).numpy())
    torch.testing.assert_close(logp, multi(flat.expand(100_000, -1)).logp(actions))


def test_masked_choices_get_no_gradient_and_no_nan() -> None:
    flat = torch.randn(4, sum(NVEC), generator=generator(), requires_grad=True)
    distribution = multi(flat)
    (distribution.entropy().sum() + distribution.logp(torch.zeros(4, 3).long()).sum()).backward()
    assert flat.grad is not None
    assert flat.grad.isfinite().all()
    assert (flat.grad != 0).all()


def test_a_gaussian_has_the_density_of_its_formula() -> None:
    mean = torch.randn(9, 3, generator=generator())
    log_std = torch.tensor([-1.0, 0.0, 0.7])
    actions = torch.randn(9, 3, generator=generator(1)) * 2
    m, s, a = mean.double().numpy(), log_std.exp().double().numpy(), actions.double().numpy()
    expected = (-((a - m) ** 2) / (2 * s**2) - np.log(s * math.sqrt(2 * math.pi))).sum(-1)

    distribution = DiagonalGaussian(mean, log_std)

    np.testing.assert_allclose(distribution.logp(actions), expected, rtol=1e-5)
    entropy = (0.5 * np.log(2 * math.pi * math.e * s**2)).sum()
    np.testing.assert_allclose(distribution.entropy(), np.full(9, entropy), rtol=1e-6)


def test_a_gaussian_draws_its_mean_and_deviation() -> None:
    mean, log_std = torch.tensor([2.0, -1.0]), torch.tensor([-1.0, 0.5])
    actions, logp = DiagonalGaussian(mean.expand(200_000, 2), log_std).draw(generator())
    torch.testing.assert_close(actions.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(actions.std(0), log_std.exp(), atol=0.02, rtol=0)
    correlation = np.corrcoef(actions.T.numpy())[0, 1]
    assert abs(correlation) < 0.015
    torch.testing.assert_close(logp, DiagonalGaussian(mean, log_std).logp(actions))


def test_a_quarter_of_a_deviation_is_the_default_threshold() -> None:
    behaviour = DiagonalGaussian(torch.zeros(500_000, 1), torch.zeros(1))
    moved = DiagonalGaussian(torch.full((500_000, 1), 0.25), torch.zeros(1))
    actions, logp = behaviour.draw(generator())
    tv = 0.5 * float((moved.logp(actions) - logp).exp().sub(1).abs().mean())
    assert tv == pytest.approx(math.erf(0.125 / math.sqrt(2)), abs=0.001)
    assert tv == pytest.approx(0.1, abs=0.002)
