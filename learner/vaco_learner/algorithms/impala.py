"""IMPALA: the V-trace actor-critic (Espeholt et al. 2018, arXiv 1802.01561)."""

from __future__ import annotations

from torch import Tensor
from vaco.job import ImpalaAlgorithm

from vaco_learner.algorithms.base import Algorithm, Minibatch, PolicyLoss, Realign
from vaco_learner.align import Aligned, Steps, vtrace


class Impala(Algorithm):
    """Follow min(rho_pg, pi/beta) * grad log pi * (r + gamma*v_{t+1} - V).

    The targets v are aligned anew for every gradient step. The weight is data: only log pi carries
    a gradient.
    """

    realign: Realign = "perMinibatch"

    def __init__(self, spec: ImpalaAlgorithm) -> None:
        super().__init__(spec.gamma, spec.lam)
        self._spec = spec

    def align(self, steps: Steps, log_rho_TB: Tensor) -> Aligned:
        """Align by V-trace, with IMPALA's own form of the advantage."""
        return vtrace(
            steps,
            log_rho_TB,
            gamma=self.gamma,
            lam=self.lam,
            rho_bar=self._spec.rho_bar,
            c_bar=self._spec.c_bar,
            form="impala",
        )

    def policy_loss(self, minibatch: Minibatch) -> PolicyLoss:
        """Return the weighted log-likelihood."""
        weight_N = minibatch.ratio_N.detach().clamp(max=self._spec.rho_pg_bar)
        return PolicyLoss(-(weight_N * minibatch.advantage_N * minibatch.logps.policy_N).mean())
