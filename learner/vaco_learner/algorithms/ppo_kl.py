"""PPO with an adaptive KL penalty (Schulman et al. 2017, arXiv 1707.06347, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from vaco.job import PpoKlAlgorithm

from vaco_learner.algorithms.base import Algorithm, Minibatch, PolicyLoss, kl_from_behaviour
from vaco_learner.ratios import bounded

_FACTOR, _BAND = 2.0, 1.5
_BETA_BOUNDS = (2.0**-20, 2.0**20)


class PpoKl(Algorithm):
    """Maximise mean(r*A) - b*KL(beta||pi), r = pi/beta.

    After each phase b is doubled if the KL is over 1.5 times its target, and halved if it is under
    the target divided by 1.5. b stays within 2^-20 and 2^20, so that it can always come back.
    """

    adapts_to_kl: ClassVar[bool] = True

    def __init__(self, spec: PpoKlAlgorithm) -> None:
        super().__init__(spec.gamma, spec.lam)
        self._target = spec.target_kl
        self.beta = spec.initial_beta

    def policy_loss(self, minibatch: Minibatch) -> PolicyLoss:
        """Return the penalised surrogate."""
        log_ratio_N = bounded(minibatch.logps.policy_N - minibatch.logps.behaviour_N)
        surrogate = (torch.exp(log_ratio_N) * minibatch.advantage_N).mean()
        return PolicyLoss(self.beta * kl_from_behaviour(log_ratio_N) - surrogate)

    def adapt(self, kl: float) -> None:
        """Double or halve the penalty's weight."""
        if kl > _BAND * self._target:
            self.beta = min(self.beta * _FACTOR, _BETA_BOUNDS[1])
        elif kl < self._target / _BAND:
            self.beta = max(self.beta / _FACTOR, _BETA_BOUNDS[0])

    def state(self) -> dict[str, float]:
        """Return the penalty's weight."""
        return {"beta": self.beta}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Continue with a checkpoint's weight of the penalty."""
        self.beta = float(state["beta"])
