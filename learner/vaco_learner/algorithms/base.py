"""What an algorithm decides: the advantage of a sample, and the policy's loss.

Everything else is common to all and happens in `vaco_learner.update`: the critic's loss, the
entropy bonus, the normalisation of advantages (before the algorithm sees them, if it does not do
that itself), minibatches, steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from vaco_learner.align import Aligned, Steps, gae
from vaco_learner.filter import Filtered, Logps
from vaco_learner.ratios import likelihood_ratio

Realign = Literal["once", "perEpoch", "perMinibatch", "never"]


@dataclass(frozen=True, slots=True)
class Minibatch:
    """N samples of a gradient step. Only `logps.policy_N` carries a gradient."""

    logps: Logps
    advantage_N: Tensor
    fragment_N: Tensor  # int64, the sample's fragment
    fragments: int  # in the phase

    @property
    def ratio_N(self) -> Tensor:
        """pi/beta, with its gradient."""
        return likelihood_ratio(self.logps.policy_N - self.logps.behaviour_N)


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """A scalar to minimise; what the filter said, for an algorithm that has one."""

    loss: Tensor
    filtered: Filtered | None = None


class Algorithm(ABC):
    """One way to learn from a phase's data. The defaults are those of the PPO family.

    Attributes:
        realign: when advantages are computed anew with the updated policy and critic.
        threshold: TV over which the algorithm filters; none if it does not.
        normalises: whether `policy_loss` wants advantages as they are, and normalises them itself.
        adapts_to_kl: whether `adapt` wants to be told KL(beta||pi) after each phase.

    """

    realign: Realign = "never"
    threshold: float | None = None
    normalises: bool = False
    adapts_to_kl: ClassVar[bool] = False

    def __init__(self, gamma: float, lam: float) -> None:
        self.gamma = gamma
        self.lam = lam

    def align(self, steps: Steps, log_rho_TB: Tensor) -> Aligned:  # noqa: ARG002
        """Compute targets and advantages; here by GAE, which takes the data as the policy's own.

        Args:
            steps: data and critic's values.
            log_rho_TB: log pi - log beta of the actions, pi being the policy that `steps` has its
                values from.

        """
        return gae(steps, gamma=self.gamma, lam=self.lam)

    @abstractmethod
    def policy_loss(self, minibatch: Minibatch) -> PolicyLoss:
        """Return the policy's loss on a minibatch: a mean over all its N samples."""

    def adapt(self, kl: float) -> None:  # noqa: B027 - most have nothing to adapt
        """Hear KL(beta||pi) after a phase."""

    def state(self) -> dict[str, float]:
        """Return what a checkpoint has to keep, fit for JSON."""
        return {}

    def load_state(self, state: Mapping[str, float]) -> None:  # noqa: B027 - or to load
        """Continue from what `state` returned."""


def kl_from_behaviour(log_ratio_N: Tensor) -> Tensor:
    """Estimate KL(beta||pi) from beta's samples: mean(r - 1 - log r), r = pi/beta.

    Unbiased like mean(-log r), never negative, and of smaller variance, since r - 1 has mean 0
    under beta. The gradient passes. The log-ratios must be bounded (`ratios.bounded`).
    """
    return (torch.expm1(log_ratio_N) - log_ratio_N).mean()
