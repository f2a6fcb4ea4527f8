"""What trains a policy, whatever the task; the training loop around it is the same for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from vaco.experience import ExperienceSpec


@dataclass(frozen=True, slots=True)
class TrainerState:
    """All that a learner needs to continue bit for bit.

    Attributes:
        policy: the weights, normalisers included, as `vaco_policy.parameters` writes them.
        optimizer: Adam's moments and steps, and the states of random number generators.
        document: the rest, fit for JSON.

    """

    policy: bytes
    optimizer: dict[str, Tensor]
    document: dict[str, Any]


class PhaseStats(Protocol):
    """What is known of a phase: a dataclass, all of which goes into the journal."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def samples(self) -> int:
        """Samples trained on."""

    @property
    def tv(self) -> float:
        """Total variation between the policy and the filter's anchor, mean over gradient steps."""

    @property
    def threshold(self) -> float | None:
        """Total variation above which the filter acts; none if nothing is filtered."""

    @property
    def filtered_share(self) -> float:
        """Share of what the filter looked at that it dropped, mean over gradient steps."""

    @property
    def filtered_samples(self) -> int:
        """Samples of which something was dropped in at least one gradient step."""


class Trainer(Protocol):
    """Owns the policy and everything that changes it."""

    @property
    def contract(self) -> str:
        """What learner and actors must agree on, as JSON: the environment's spaces, or the model.

        Actors get it with every version, and refuse another's.
        """

    @property
    def experience(self) -> ExperienceSpec:
        """What fragments must look like."""

    @property
    def published(self) -> nn.Module:
        """The module whose `state_dict` actors get."""

    def train(
        self,
        fragments: Sequence[Any],
        stepped: Callable[[], None],
        lags: Sequence[NDArray[np.int64]],
        /,
    ) -> PhaseStats:
        """Train on a batch: one phase, which makes one version.

        Args:
            fragments: what `experience` has decoded, at least one.
            stepped: called after every gradient step, or more often.
            lags: of each fragment, in versions, one for each entry of its `versions`.

        Raises:
            NonFiniteUpdate: a loss or a gradient is not finite.

        """

    def begin(self, stepped: Callable[[], None], tell: Callable[[str], None], /) -> None:
        """Do what comes before the first version; called once, without a checkpoint.

        Args:
            stepped: called often.
            tell: called with how far it is, for the status.

        """

    def excerpts(self, fragments: Sequence[Any], /) -> list[dict[str, Any]]:
        """Return a few samples for people to read, fit for JSON and bounded in length; or none."""

    def state(self) -> TrainerState:
        """Copy everything that changes, for a checkpoint."""

    def load_state(self, state: TrainerState) -> None:
        """Continue from a checkpoint of the same job.

        Raises:
            UserError: weights or moments are not those of this policy.

        """
