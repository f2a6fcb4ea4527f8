"""The losses of tokens, by algorithm.

    vaco-lm   -A * stopgrad(min(r, c)) * log pi * keep      r = pi/beta; `keep` by total variation
    grpo      -min(r*A, clip(r, 1-e, 1+e)*A)                clipped as in PPO (arXiv 2402.03300)
    dppo      -A * r * keep                                 `keep` by pi - beta of the token alone
    tis       -min(w, C) * min(s*A, clip(s, 1-e, 1+e)*A)    w = pi_T/beta, s = pi/pi_T

beta is the distribution that was sampled from, pi_T the model at the start of the phase. A
completion's loss is the sum over its tokens divided by a constant, and a minibatch's is the mean
over its completions; tokens that are dropped count with 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from vaco.job import (
    DppoAlgorithm,
    GrpoAlgorithm,
    LanguageAlgorithm,
    TisAlgorithm,
    VacoLmAlgorithm,
)

from vaco_learner.filter import Filtered, Logps
from vaco_learner.language.filter import Scope, filter_tokens
from vaco_learner.ratios import bounded, likelihood_ratio


@dataclass(frozen=True, slots=True)
class TokenMinibatch:
    """The N tokens of a gradient step's S completions, of G prompts. None of these has none."""

    logps: Logps
    advantage_N: Tensor
    length_S: Tensor
    completions_G: Tensor


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """A loss for each token, and what the filter said, for an algorithm that has one."""

    loss_N: Tensor
    filtered: Filtered | None = None


@dataclass(frozen=True, slots=True)
class Weighed:
    """What a gradient step needs to know of its tokens.

    Attributes:
        slope_N: derivative of each token's loss by its log-probability.
        loss_N: the losses.
        filtered: what the filter said, for an algorithm that has one.

    """

    slope_N: Tensor
    loss_N: Tensor
    filtered: Filtered | None


class TokenAlgorithm(ABC):
    """One way to learn from completions.

    Attributes:
        threshold: TV over which the algorithm filters; none if it does not.
        scope: how its TV is averaged.

    """

    threshold: float | None = None
    scope: Scope = "prompt"

    @abstractmethod
    def losses(self, minibatch: TokenMinibatch) -> TokenLosses:
        """Return the loss of each token; the gradient of `logps.policy_N` passes."""


def weigh(algorithm: TokenAlgorithm, minibatch: TokenMinibatch) -> Weighed:
    """Differentiate the losses by the tokens' log-probabilities, whatever these depend on.

    The gradient of the whole minibatch is then the sum over its tokens of slope times the gradient
    of the log-probability, and can be summed up in any number of pieces.
    """
    logps = minibatch.logps
    with torch.enable_grad():
        policy_N = logps.policy_N.detach().requires_grad_()
        moving = Logps(policy_N, logps.behaviour_N, logps.start_N)
        losses = algorithm.losses(
            TokenMinibatch(
                moving, minibatch.advantage_N, minibatch.length_S, minibatch.completions_G
            )
        )
        (slope_N,) = torch.autograd.grad(losses.loss_N.sum(), policy_N)
    return Weighed(slope_N, losses.loss_N.detach(), losses.filtered)


class VacoLm(TokenAlgorithm):
    """VACO without a critic: nothing is aligned, tokens are filtered."""

    def __init__(self, spec: VacoLmAlgorithm) -> None:
        self._spec = spec
        self._threshold = spec.delta / 2 if spec.threshold == "halfDelta" else spec.delta
        self.threshold = self._threshold if spec.filter_ else None
        self.scope = spec.scope

    def losses(self, minibatch: TokenMinibatch) -> TokenLosses:
        """Return -A * stopgrad(min(r, c)) * log pi of what the filter keeps."""
        logps, advantage_N = minibatch.logps, minibatch.advantage_N
        ratio_N = likelihood_ratio(logps.policy_N - logps.behaviour_N).detach()
        loss_N = -advantage_N * ratio_N.clamp(max=self._spec.ratio_bound) * logps.policy_N
        if not self._spec.filter_:
            return TokenLosses(loss_N)
        filtered = filter_tokens(
            logps,
            advantage_N,
            minibatch.length_S,
            minibatch.completions_G,
            anchor=self._spec.tv_anchor,
            scope=self._spec.scope,
            threshold=self._threshold,
        )
        return TokenLosses(filtered.keep_N * loss_N, filtered)


class Grpo(TokenAlgorithm):
    """Ratios to the distribution that was sampled from, clipped."""

    def __init__(self, spec: GrpoAlgorithm) -> None:
        self._epsilon = spec.clip_epsilon

    def losses(self, minibatch: TokenMinibatch) -> TokenLosses:
        """Return the clipped surrogate."""
        ratio_N = likelihood_ratio(minibatch.logps.policy_N - minibatch.logps.behaviour_N)
        return TokenLosses(-_clipped(ratio_N, minibatch.advantage_N, self._epsilon))


class Dppo(TokenAlgorithm):
    """Tokens are dropped whose own probability has moved too far where the advantage pushes it."""

    def __init__(self, spec: DppoAlgorithm) -> None:
        self._divergence = spec.divergence

    def losses(self, minibatch: TokenMinibatch) -> TokenLosses:
        """Return the surrogate of the tokens that are kept."""
        logps, advantage_N = minibatch.logps, minibatch.advantage_N
        moved_N = logps.policy_N.detach().exp() - logps.behaviour_N.exp()
        far_N = torch.where(advantage_N > 0, moved_N, -moved_N)
        ratio_N = likelihood_ratio(logps.policy_N - logps.behaviour_N)
        return TokenLosses(-advantage_N * ratio_N * (far_N <= self._divergence))


class Tis(TokenAlgorithm):
    """Ratios to the start of the phase, clipped; what came before is a truncated weight."""

    def __init__(self, spec: TisAlgorithm) -> None:
        self._epsilon = spec.clip_epsilon
        self._bound = spec.weight_bound

    def losses(self, minibatch: TokenMinibatch) -> TokenLosses:
        """Return the weighted, clipped surrogate."""
        logps = minibatch.logps
        weight_N = torch.exp(bounded(logps.start_N - logps.behaviour_N)).clamp(max=self._bound)
        ratio_N = likelihood_ratio(logps.policy_N - logps.start_N)
        return TokenLosses(-weight_N * _clipped(ratio_N, minibatch.advantage_N, self._epsilon))


def _clipped(ratio_N: Tensor, advantage_N: Tensor, epsilon: float) -> Tensor:
    within_N = ratio_N.clamp(1 - epsilon, 1 + epsilon)
    return torch.minimum(ratio_N * advantage_N, within_N * advantage_N)


def make_algorithm(spec: LanguageAlgorithm) -> TokenAlgorithm:
    """Build the algorithm that a job asks for."""
    match spec:
        case VacoLmAlgorithm():
            return VacoLm(spec)
        case GrpoAlgorithm():
            return Grpo(spec)
        case DppoAlgorithm():
            return Dppo(spec)
        case TisAlgorithm():
            return Tis(spec)
        case _:
            raise TypeError(f"{type(spec).__name__} has no implementation")
