"""Training on environments: fragments side by side, then an update of the actor-critic policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from vaco.job import VACOJob
from vaco.trajectory import Fragment, FragmentSpec
from vaco_policy.policy import Policy
from vaco_policy.spaces import Spaces, fragment_spec

from vaco_learner.batch import collate
from vaco_learner.trainer import TrainerState
from vaco_learner.update import Updater, UpdateStats


class EnvironmentTrainer:
    """Implements `vaco_learner.trainer.Trainer` for gymnasium's environments.

    Args:
        job: resolved.
        contract: the spaces.
        device: where the policy lives.

    Raises:
        UserError: the contract is no spaces, or the policy does not fit them.

    """

    def __init__(self, job: VACOJob, contract: str, device: torch.device) -> None:
        spaces, parts = Spaces.from_json(contract), job.spec.control
        self._device = device
        self._updater = Updater(job, spaces, device)
        self.contract = spaces.to_json()
        self.experience: FragmentSpec = fragment_spec(
            spaces, parts.policy, job.spec.rollout, parts.task.reward_bound
        )

    @property
    def published(self) -> Policy:
        """The whole policy."""
        return self._updater.policy

    def begin(self, _stepped: Callable[[], None], _tell: Callable[[str], None], /) -> None:
        """Do nothing: fresh weights are the first version."""

    def train(
        self,
        fragments: Sequence[Fragment],
        stepped: Callable[[], None],
        _lags: Sequence[NDArray[np.int64]],
        /,
    ) -> UpdateStats:
        """Train on a batch; see `Updater.update`."""
        return self._updater.update(collate(fragments, self._device), stepped)

    def excerpts(self, _fragments: Sequence[Fragment], /) -> list[dict[str, Any]]:
        """Return nothing: steps of an environment are not for reading."""
        return []

    def state(self) -> TrainerState:
        """Copy everything that changes, for a checkpoint."""
        return self._updater.state()

    def load_state(self, state: TrainerState) -> None:
        """Continue from a checkpoint of the same job; see `Updater.load_state`."""
        self._updater.load_state(state)
