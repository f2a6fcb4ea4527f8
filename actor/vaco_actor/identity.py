"""Who this actor is: its name, the number that seeds it, and which of its lives this is.

The local runner hands all three out. A pod knows its name only; the rest follows from it and from
the clock, without asking anybody.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from vaco.errors import UserError
from vaco_policy.seeding import derive


@dataclass(frozen=True, slots=True)
class ActorIdentity:
    """Identity of one actor's process.

    Attributes:
        actor_id: its name.
        index: its number among the actors: seeds of environments and actions follow from it.
        incarnation: grows with every start of the same actor.

    """

    actor_id: str
    index: int
    incarnation: int

    @classmethod
    def of(
        cls,
        actor_id: str | None,
        index: int | None,
        incarnation: int | None,
        environ: Mapping[str, str],
    ) -> Self:
        """Fill in what was not given.

        The name is that of the pod. The index is a 63-bit hash of the name: that two of 4096 actors
        share one, and so play the same episodes, has a probability of 4096^2 / 2^64, about one in
        10^12. The incarnation is the time in milliseconds: a container that is started again has a
        greater one. If the clock was set back, the learner refuses it until time has caught up.

        Raises:
            UserError: there is no name.

        """
        name = actor_id or environ.get("POD_NAME", "")
        if not name:
            raise UserError("--actor-id", "not given", "Give it, or set POD_NAME.")
        return cls(
            actor_id=name,
            index=derive(0, "actor index", name) if index is None else index,
            incarnation=time.time_ns() // 1_000_000 if incarnation is None else incarnation,
        )
