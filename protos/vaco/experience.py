"""What an actor sends and a learner trains on, whatever the task: the parts both kinds have.

    task          one fragment is              one sample is
    gymnasium     `Fragment`                   a step of an environment
    languageModel `CompletionGroup`            a completion

Identity, versions, ledger, credits and lag are the same for both, and written once.
"""

from typing import Any, Protocol

from vaco.identity import FragmentId
from vaco.tensors import Array, Part


class Experience(Protocol):
    """A fragment of experience that can be trained on."""

    @property
    def id(self) -> FragmentId:
        """Identity, by which the learner recognises a resent fragment."""

    @property
    def weights_incarnation(self) -> int:
        """The learner incarnation that published the weights."""

    @property
    def samples(self) -> int:
        """What the ledger counts."""

    @property
    def nbytes(self) -> int:
        """Bytes of its arrays."""

    @property
    def versions(self) -> Array:
        """int64 [V]; the weights that acted, one entry per step or token."""

    @property
    def acted(self) -> Array:
        """int64 [V]; for how many decisions each entry of `versions` stands."""

    @property
    def min_version(self) -> int:
        """Oldest weights that acted."""

    @property
    def max_version(self) -> int:
        """Newest weights that acted."""

    @property
    def episode_returns(self) -> Array:
        """float32 [E]; returns of what ended here."""

    @property
    def rollout_seconds(self) -> float:
        """Time spent producing, without waiting for credits or weights."""

    def to_parts(self, position: int = 0) -> tuple[list[Part], int]:
        """Return the serialised message in parts, for a message that begins at `position`."""


class IncomingExperience(Protocol):
    """A fragment that has arrived and is not decoded yet."""

    @property
    def head(self) -> Any:
        """The message without its arrays; `id` is one of its fields."""

    @property
    def claimed_samples(self) -> int:
        """Samples that it says it has, or that its bytes have room for; not checked."""


class ExperienceSpec(Protocol):
    """What the fragments of one job must look like."""

    @property
    def max_samples(self) -> int:
        """Bound of one fragment's samples."""

    @property
    def max_bytes(self) -> int:
        """Bound of one fragment's arrays."""

    def decode(self, incoming: Any) -> Experience:
        """Return the fragment, checked: it can be trained on.

        Args:
            incoming: of the kind that this job's actors send.

        Raises:
            MalformedFragment: naming the field and what is wrong with it.

        """
