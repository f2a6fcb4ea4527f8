"""A fragment of experience: T steps of B environments, as one immutable value.

The actor makes it, the wire carries it, the learner trains on it exactly once. Its arrays
are plain NumPy; a fragment that came from the wire holds views of the message's bytes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import numpy as np

from vaco.tensors import (
    Array,
    MalformedFragment,
    named_from_proto,
    named_to_proto,
    tensor_from_proto,
    tensor_to_proto,
)
from vaco.v1 import trajectory_pb2 as pb

MAX_LENGTH: Final = 4096
MAX_ENVIRONMENTS: Final = 4096
MAX_ID_LENGTH: Final = 253  # of a Kubernetes object's name


@dataclass(frozen=True, slots=True)
class FragmentId:
    """Who made a fragment, and which of that actor's fragments it is.

    Attributes:
        job_uid: the job it belongs to.
        actor_id: e.g. `actor-0`.
        actor_incarnation: grows with every restart of that actor.
        sequence: from 1, without gaps.
    """

    job_uid: str
    actor_id: str
    actor_incarnation: int
    sequence: int

    def to_proto(self) -> pb.FragmentId:
        """Return the message."""
        return pb.FragmentId(
            job_uid=self.job_uid,
            actor_id=self.actor_id,
            actor_incarnation=self.actor_incarnation,
            sequence=self.sequence,
        )

    @classmethod
    def from_proto(cls, message: pb.FragmentId) -> Self:
        """Return the identity in `message`.

        Raises:
            MalformedFragment: a name is empty or too long, or the sequence number is 0.
        """
        for field, value in (("job_uid", message.job_uid), ("actor_id", message.actor_id)):
            if not 0 < len(value) <= MAX_ID_LENGTH:
                raise MalformedFragment(f"id.{field}", f"a name of {len(value)} characters")
        if message.sequence == 0:
            raise MalformedFragment("id.sequence", "0, but sequence numbers start at 1")
        return cls(message.job_uid, message.actor_id, message.actor_incarnation, message.sequence)


@dataclass(frozen=True, slots=True, eq=False)
class Fragment:
    """T steps of B environments made by one actor.

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

    @property
    def samples(self) -> int:
        """Valid steps: what the ledger counts."""
        return int(np.count_nonzero(self.valid))

    @property
    def min_version(self) -> int:
        """Oldest weights that acted."""
        return int(self.versions.min())

    @property
    def max_version(self) -> int:
        """Newest weights that acted."""
        return int(self.versions.max())

    def to_proto(self) -> pb.Trajectory:
        """Return the message; the arrays are copied, so their buffers can be used again.

        Raises:
            TypeError: an array's dtype has no place on the wire.
        """
        return pb.Trajectory(
            id=self.id.to_proto(),
            weights_incarnation=self.weights_incarnation,
            min_version=self.min_version,
            max_version=self.max_version,
            length=self.length,
            environments=self.environments,
            observations=named_to_proto(self.observations),
            actions=tensor_to_proto(self.actions),
            rewards=tensor_to_proto(self.rewards),
            terminated=tensor_to_proto(self.terminated),
            truncated=tensor_to_proto(self.truncated),
            valid=tensor_to_proto(self.valid),
            behaviour_logp=tensor_to_proto(self.behaviour_logp),
            versions=tensor_to_proto(self.versions),
            episode_start=tensor_to_proto(self.episode_start),
            final_observations=named_to_proto(self.final_observations),
            final_steps=tensor_to_proto(self.final_steps),
            core_state=named_to_proto(self.core_state),
            return_carry=tensor_to_proto(self.return_carry),
            episode_returns=tensor_to_proto(self.episode_returns),
            episode_lengths=tensor_to_proto(self.episode_lengths),
            rollout_seconds=self.rollout_seconds,
        )

    @classmethod
    def from_proto(cls, message: pb.Trajectory) -> Self:
        """Return the fragment in `message`; its arrays are read-only views of the message.

        Checks all that every fragment of every job has in common: identity, bounds, and that
        the arrays agree with each other. What a job's spaces ask for is `FragmentSpec.check`.

        Raises:
            MalformedFragment: naming the field.
        """
        length = _bounded("length", message.length, MAX_LENGTH)
        environments = _bounded("environments", message.environments, MAX_ENVIRONMENTS)
        steps = (length, environments)
        actions = tensor_from_proto("actions", message.actions)
        if actions.shape[:2] != steps or actions.ndim > 3:
            raise MalformedFragment("actions", f"shape {actions.shape} for {steps} steps")
        final_steps = _vector("final_steps", message.final_steps, np.int32, steps)
        episode_returns = _vector("episode_returns", message.episode_returns, np.float32, steps)
        return cls(
            id=FragmentId.from_proto(message.id),
            weights_incarnation=message.weights_incarnation,
            observations=named_from_proto(
                "observations",
                message.observations,
                len(message.observations),
                (length + 1, environments),
            ),
            actions=actions,
            rewards=tensor_from_proto("rewards", message.rewards, steps, np.float32),
            terminated=tensor_from_proto("terminated", message.terminated, steps, np.bool_),
            truncated=tensor_from_proto("truncated", message.truncated, steps, np.bool_),
            valid=tensor_from_proto("valid", message.valid, steps, np.bool_),
            behaviour_logp=tensor_from_proto(
                "behaviour_logp", message.behaviour_logp, steps, np.float32
            ),
            versions=_versions(message, length),
            episode_start=tensor_from_proto(
                "episode_start", message.episode_start, (length + 1, environments), np.bool_
            ),
            final_observations=named_from_proto(
                "final_observations",
                message.final_observations,
                len(message.final_observations),
                final_steps.shape,
            ),
            final_steps=final_steps,
            core_state=named_from_proto(
                "core_state", message.core_state, len(message.core_state), (environments,)
            ),
            return_carry=tensor_from_proto(
                "return_carry", message.return_carry, (environments,), np.float32
            ),
            episode_returns=episode_returns,
            episode_lengths=tensor_from_proto(
                "episode_lengths", message.episode_lengths, episode_returns.shape, np.int32
            ),
            rollout_seconds=message.rollout_seconds,
        )


def _bounded(field: str, value: int, most: int) -> int:
    if not 0 < value <= most:
        raise MalformedFragment(field, f"{value} is not in 1..{most}")
    return value


def _vector(field: str, tensor: pb.Tensor, dtype: type, steps: tuple[int, int]) -> Array:
    """Read a vector with at most one entry per step."""
    array = tensor_from_proto(field, tensor, dtype=dtype)
    if array.ndim != 1 or array.size > steps[0] * steps[1]:
        raise MalformedFragment(field, f"shape {array.shape} for {steps} steps")
    return array


def _versions(message: pb.Trajectory, length: int) -> Array:
    versions = tensor_from_proto("versions", message.versions, (length,), np.int64)
    if int(versions.min()) < 0:
        raise MalformedFragment("versions", f"{int(versions.min())} is negative")
    for field, stated, actual in (
        ("min_version", message.min_version, int(versions.min())),
        ("max_version", message.max_version, int(versions.max())),
    ):
        if stated != actual:
            raise MalformedFragment(field, f"{stated}, but the steps' versions say {actual}")
    return versions
