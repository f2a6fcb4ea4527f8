"""Distributions over actions: what a policy head's numbers mean.

Written directly on tensors rather than on `torch.distributions`, whose argument checks and
intermediate tensors cost more than the networks of small control tasks. Leading dimensions are
free: [B, ...] in an actor, [T, B, ...] or [N, ...] in the learner. Log-densities are float32 and
summed over the dimensions of an action.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)

# Finite, so that 0 * log(0) is 0 without a mask in every sum.
_IMPOSSIBLE = -1e9


class Distribution(Protocol):
    """A batch of distributions over actions."""

    def draw(self, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return sampled actions and their log-densities."""

    def mode(self) -> Tensor:
        """Return the most probable actions."""

    def logp(self, actions: Tensor) -> Tensor:
        """Return the log-densities of `actions`, summed over action dimensions."""

    def entropy(self) -> Tensor:
        """Return the entropies in nats, summed over action dimensions."""

    def parameters(self) -> dict[str, Tensor]:
        """Return what describes the distributions, by name."""


class Categorical:
    """One of n choices; actions are int64 [...].

    Args:
        logits: [..., n], unnormalised.

    """

    __slots__ = ("log_probs",)

    def __init__(self, logits: Tensor) -> None:
        self.log_probs = logits.log_softmax(-1)

    def draw(self, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Sample by an exponential race: argmax(p_i / e_i), e_i ~ Exp(1), is i with p_i."""
        action = _race(self.log_probs, generator)
        return action, self.logp(action)

    def mode(self) -> Tensor:
        """Return the most probable choices, [...]."""
        return self.log_probs.argmax(-1)

    def logp(self, actions: Tensor) -> Tensor:
        """Return log-probabilities of int64 `actions` [...]."""
        return self.log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Tensor:
        """Return the entropies in nats, [...]."""
        return -(self.log_probs.exp() * self.log_probs).sum(-1)

    def parameters(self) -> dict[str, Tensor]:
        """Return `log_probs` [..., n]."""
        return {"log_probs": self.log_probs}


class MultiCategorical:
    """Independent choices, one per dimension; actions are int64 [..., A].

    Args:
        logits: [..., A, M] with M the largest number of choices; what a dimension with fewer does
            not have is masked (see `choice_layout`).

    """

    __slots__ = ("_each",)

    def __init__(self, logits: Tensor) -> None:
        self._each = Categorical(logits)

    def draw(self, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return sampled choices [..., A] and their joint log-probabilities [...]."""
        action, logp = self._each.draw(generator)
        return action, logp.sum(-1)

    def mode(self) -> Tensor:
        """Return the most probable choices, [..., A]."""
        return self._each.mode()

    def logp(self, actions: Tensor) -> Tensor:
        """Return joint log-probabilities [...] of int64 `actions` [..., A]."""
        return self._each.logp(actions).sum(-1)

    def entropy(self) -> Tensor:
        """Return the entropies in nats, [...]."""
        return self._each.entropy().sum(-1)

    def parameters(self) -> dict[str, Tensor]:
        """Return `log_probs` [..., A, M]; hugely negative for choices a dimension has not."""
        return self._each.parameters()


class DiagonalGaussian:
    """Independent normal numbers, one per dimension; actions are float32 [..., A].

    The density is that of the action as drawn: the environment's bounds are the actor's matter.

    Args:
        mean: [..., A].
        log_std: [A], the same for every state.

    """

    __slots__ = ("_std", "log_std", "mean")

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean = mean
        self.log_std = log_std
        self._std = log_std.exp()

    def draw(self, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return sampled actions [..., A] and their log-densities [...]."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        action = torch.addcmul(self.mean, noise, self._std)
        return action, self.logp(action)

    def mode(self) -> Tensor:
        """Return the means, [..., A]."""
        return self.mean

    def logp(self, actions: Tensor) -> Tensor:
        """Return log-densities [...] of float32 `actions` [..., A]."""
        z = (actions - self.mean) / self._std
        return torch.addcmul(self.log_std + _HALF_LOG_TWO_PI, z, z, value=0.5).sum(-1).neg()

    def entropy(self) -> Tensor:
        """Return the entropies in nats, [...]."""
        each = self.log_std + (0.5 + _HALF_LOG_TWO_PI)
        return each.sum().expand(self.mean.shape[:-1])

    def parameters(self) -> dict[str, Tensor]:
        """Return `mean` and `log_std`, [..., A] each."""
        return {"mean": self.mean, "log_std": self.log_std.expand_as(self.mean)}


def _race(log_probs: Tensor, generator: torch.Generator | None) -> Tensor:
    # torch's exponential_ never gives 0, which would win whatever its probability.
    exponential = torch.empty_like(log_probs).exponential_(generator=generator)
    return (log_probs - exponential.log_()).argmax(-1)


def choice_layout(nvec: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return how a flat head of sum(nvec) logits becomes the [A, M] of `MultiCategorical`.

    Returns:
        `index` int64 [A * M] into the flat logits, and `mask` float32 [A, M] to add to them: 0
        where a dimension has that choice, hugely negative where it has not.

    """
    widest = max(nvec)
    choice = torch.arange(widest).expand(len(nvec), widest)
    count = torch.tensor(nvec).unsqueeze(-1)
    exists = choice < count
    index = torch.where(exists, count.cumsum(0) - count + choice, 0)
    return index.flatten(), torch.where(exists, 0.0, _IMPOSSIBLE)
