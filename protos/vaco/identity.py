"""Who made a fragment, and which one it is: what de-duplication and fencing go by."""

from dataclasses import dataclass
from typing import Final, Self

from vaco.tensors import MalformedFragment
from vaco.v1 import trajectory_pb2 as pb

MAX_ID_LENGTH: Final = 253  # of a Kubernetes object's name


@dataclass(frozen=True, slots=True)
class FragmentId:
    """Identity of a fragment; a resent one has the same.

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
