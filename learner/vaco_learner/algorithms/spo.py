"""SPO: Simple Policy Optimization (arXiv 2401.16025)."""

from __future__ import annotations

from vaco.job import SpoAlgorithm

from vaco_learner.algorithms.base import Algorithm, Minibatch, PolicyLoss


class Spo(Algorithm):
    """Maximise mean(r*A - |A|/(2*epsilon)*(r - 1)^2), r = pi/beta.

    A parabola in each sample's ratio, with its vertex at 1 + sign(A)*epsilon.
    """

    def __init__(self, spec: SpoAlgorithm) -> None:
        super().__init__(spec.gamma, spec.lam)
        self._epsilon = spec.epsilon

    def policy_loss(self, minibatch: Minibatch) -> PolicyLoss:
        """Return the surrogate less its quadratic penalty."""
        ratio_N, advantage_N = minibatch.ratio_N, minibatch.advantage_N
        penalty_N = advantage_N.abs() / (2 * self._epsilon) * (ratio_N - 1).square()
        return PolicyLoss((penalty_N - ratio_N * advantage_N).mean())
