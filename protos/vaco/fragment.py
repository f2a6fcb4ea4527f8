"""A fragment of experience: T steps of B environments, as one immutable value.

The actor makes it, the wire carries it, the learner trains on it exactly once. Its arrays
are plain NumPy; a fragment that came from the wire holds views of the message's bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self

import numpy as np

from vaco.identity import FragmentId
from vaco.incoming import NAMED_FIELDS, TENSOR_FIELDS, IncomingFragment
from vaco.tensors import Array, MalformedFragment, Part, tensor_parts
from vaco.v1 import trajectory_pb2 as pb
from vaco.wire import field_key

MAX_LENGTH: Final = 4096
MAX_ENVIRONMENTS: Final = 4096

_BOOL: Final = np.dtype(np.bool_)
_FLOAT32: Final = np.dtype("<f4")
_INT32: Final = np.dtype("<i4")
_INT64: Final = np.dtype("<i8")
_KEYS: Final = {name: field_key(pb.Trajectory, name) for name in (*NAMED_FIELDS, *TENSOR_FIELDS)}
# Sent last, so that those whose shapes are always the same come first: see vaco.layout.
_VARYING: Final = ("final_observations", "final_steps", "episode_returns", "episode_lengths")
_CONSTANT: Final = tuple(field for field in _KEYS if field not in _VARYING)


@dataclass(frozen=True, eq=False)
class Fragment:
    """T steps of B environments made by one actor.

    Its arrays do not change: what is computed of them is computed once.

    Attributes:
        id: identity, by which the learner recognises a resent fragment.
        weights_incarnation: the learner incarnation that published the weights.
        observations: by name, [T+1, B, ...]; entry T follows the last step. The only
            observation of a space that is no Dict is called `observation`.
        actions: [T, B] or [T, B, A], as sampled, before any clipping.
        rewards: float32 [T, B].
        terminated: bool [T, B].
        truncated: bool [T, B].
        valid: bool [T, B]; False: an autoreset step, which is no sample.
        behaviour_logp: float32 [T, B], log density of the action, summed over its dimensions.
        versions: int64 [T]; the weights that acted.
        episode_start: bool [T+1, B]; the observation is the first of an episode.
        final_observations: by name, [N, ...]: last observations of episodes truncated at a
            step whose next observation already belongs to the next episode.
        final_steps: int32 [N], where they belong: t*B + b, strictly ascending.
        core_state: by name, [B, H]; recurrent state before step 0; empty without a core.
        return_carry: float32 [B]; discounted return accumulated before step 0.
        episode_returns: float32 [E]; undiscounted, of the episodes that ended here.
        episode_lengths: int32 [E], steps.
        rollout_seconds: time spent producing, without waiting for credits or weights.

    Example:
        CartPole, 64 steps of 16 environments: observations {"observation": float32
        [65, 16, 4]}, actions int64 [64, 16], versions int64 [64].

    """

    id: FragmentId
    weights_incarnation: int
    observations: Mapping[str, Array]
    actions: Array
    rewards: Array
    terminated: Array
    truncated: Array
    valid: Array
    behaviour_logp: Array
    versions: Array
    episode_start: Array
    final_observations: Mapping[str, Array]
    final_steps: Array
    core_state: Mapping[str, Array]
    return_carry: Array
    episode_returns: Array
    episode_lengths: Array
    rollout_seconds: float

    @property
    def length(self) -> int:
        """T, steps."""
        return int(self.rewards.shape[0])

    @property
    def environments(self) -> int:
        """B."""
        return int(self.rewards.shape[1])

    @cached_property
    def samples(self) -> int:
        """Valid steps: what the ledger counts."""
        return int(np.count_nonzero(self.valid))

    @cached_property
    def nbytes(self) -> int:
        """Bytes of its arrays."""
        size: int = sum([getattr(self, name).nbytes for name in TENSOR_FIELDS])
        for name in NAMED_FIELDS:
            size += sum([array.nbytes for array in getattr(self, name).values()])
        return size

    @property
    def acted(self) -> Array:
        """int64 [T]: each entry of `versions` stands for the valid steps beside each other."""
        counts: Array = self.valid.sum(axis=1, dtype=np.int64)
        return counts

    @cached_property
    def min_version(self) -> int:
        """Oldest weights that acted."""
        return int(self.versions.min())

    @cached_property
    def max_version(self) -> int:
        """Newest weights that acted."""
        return int(self.versions.max())

    def to_parts(self, position: int = 0) -> tuple[list[Part], int]:
        """Return the serialised message in parts; the arrays' memory is referred to, not copied.

        Args:
            position: where in what is sent the message begins; arrays are aligned to that.

        Returns:
            The parts, and how many bytes they are together.

        Raises:
            TypeError: an array's dtype has no place on the wire.

        """
        parts: list[Part] = []
        end = self._add_arrays(parts, _CONSTANT, position)
        head = pb.Trajectory(
            id=self.id.to_proto(),
            weights_incarnation=self.weights_incarnation,
            min_version=self.min_version,
            max_version=self.max_version,
            length=self.length,
            environments=self.environments,
            rollout_seconds=self.rollout_seconds,
        ).SerializeToString()
        parts.append(head)
        end = self._add_arrays(parts, _VARYING, end + len(head))
        return parts, end - position

    @classmethod
    def decode(cls, incoming: IncomingFragment) -> Self:
        """Return the fragment that has arrived; its arrays are read-only views of the message.

        Checks all that every fragment of every job has in common: identity, bounds, and that
        the arrays agree with each other. What a job's spaces ask for is `FragmentSpec.check`.

        Raises:
            MalformedFragment: naming the field.

        """
        head = incoming.head
        length = _bounded("length", head.length, MAX_LENGTH)
        environments = _bounded("environments", head.environments, MAX_ENVIRONMENTS)
        steps = (length, environments)
        states = (length + 1, environments)
        actions = incoming.tensor("actions")
        if actions.shape[:2] != steps or actions.ndim > 3:
            raise MalformedFragment("actions", f"shape {actions.shape} for {steps} steps")
        final_steps = _at_most_one_per_step(incoming, "final_steps", _INT32, steps)
        episode_returns = _at_most_one_per_step(incoming, "episode_returns", _FLOAT32, steps)
        return cls(
            id=FragmentId.from_proto(head.id),
            weights_incarnation=head.weights_incarnation,
            observations=incoming.named_tensors("observations", states),
            actions=actions,
            rewards=incoming.tensor("rewards", steps, _FLOAT32),
            terminated=incoming.tensor("terminated", steps, _BOOL),
            truncated=incoming.tensor("truncated", steps, _BOOL),
            valid=incoming.tensor("valid", steps, _BOOL),
            behaviour_logp=incoming.tensor("behaviour_logp", steps, _FLOAT32),
            versions=_versions(incoming, length),
            episode_start=incoming.tensor("episode_start", states, _BOOL),
            final_observations=incoming.named_tensors("final_observations", final_steps.shape),
            final_steps=final_steps,
            core_state=incoming.named_tensors("core_state", (environments,)),
            return_carry=incoming.tensor("return_carry", (environments,), _FLOAT32),
            episode_returns=episode_returns,
            episode_lengths=incoming.tensor("episode_lengths", episode_returns.shape, _INT32),
            rollout_seconds=head.rollout_seconds,
        )

    def _add_arrays(self, parts: list[Part], fields: tuple[str, ...], position: int) -> int:
        """Append the parts of arrays of which the first is at `position`; return their end."""
        for field in fields:
            value = getattr(self, field)
            arrays = value.items() if field in NAMED_FIELDS else ((None, value),)
            for name, array in arrays:
                head, data = tensor_parts(_KEYS[field], array, position, name)
                parts += (head, data)
                position += len(head) + data.nbytes
        return position


def _bounded(field: str, value: int, most: int) -> int:
    if not 0 < value <= most:
        raise MalformedFragment(field, f"{value} is not in 1..{most}")
    return value


def _at_most_one_per_step(
    incoming: IncomingFragment, field: str, dtype: np.dtype[Any], steps: tuple[int, int]
) -> Array:
    array = incoming.tensor(field, dtype=dtype)
    if array.ndim != 1 or array.size > steps[0] * steps[1]:
        raise MalformedFragment(field, f"shape {array.shape} for {steps} steps")
    return array


def _versions(incoming: IncomingFragment, length: int) -> Array:
    versions = incoming.tensor("versions", (length,), _INT64)
    oldest, newest = incoming.head.min_version, incoming.head.max_version
    first = versions[:1].tobytes()
    if oldest == newest == versions[0] and versions.tobytes() == first * length:
        return versions  # as nearly always: no weights arrived meanwhile
    actual = int(versions.min())
    if actual < 0:
        raise MalformedFragment("versions", f"{actual} is negative")
    if actual != oldest:
        raise MalformedFragment("min_version", f"{oldest}, but the steps' versions say {actual}")
    actual = int(versions.max())
    if actual != newest:
        raise MalformedFragment("max_version", f"{newest}, but the steps' versions say {actual}")
    return versions
