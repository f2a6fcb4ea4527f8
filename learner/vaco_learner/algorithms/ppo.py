"""PPO with the clipped objective (Schulman et al. 2017, arXiv 1707.06347, equation 7)."""

from __future__ import annotations

import torch
from vaco.job import PpoAlgorithm

from vaco_learner.algorithms.base import Algorithm, Minibatch, PolicyLoss


class Ppo(Algorithm):
    """Maximise mean min(r*A, clip(r, 1-epsilon, 1+epsilon)*A), r = pi/beta."""

    def __init__(self, spec: PpoAlgorithm) -> None:
        super().__init__(spec.gamma, spec.lam)
        self._epsilon = spec.clip_epsilon

    def policy_loss(self, minibatch: Minibatch) -> PolicyLoss:
        """Return the pessimistic one of the clipped and the unclipped objective."""
        ratio_N, advantage_N = minibatch.ratio_N, minibatch.advantage_N
        clipped_N = ratio_N.clamp(1 - self._epsilon, 1 + self._epsilon)
        return PolicyLoss(-torch.minimum(ratio_N * advantage_N, clipped_N * advantage_N).mean())
