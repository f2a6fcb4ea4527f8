"""How an actor's connection to the learner ends, and which answers of the learner end it."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import grpc

# Asked again, the answer would be the same. What a learner that restarts, or a failing network,
# may answer is not among them; nor is UNAUTHENTICATED, because tokens are renewed while we run.
PERMANENT: Final = frozenset(
    {
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


# A restart has another incarnation, so it may be answered otherwise.
FENCED: Final = grpc.StatusCode.ALREADY_EXISTS


class Outcome(Enum):
    """How the connection ended."""

    COMPLETE = auto()
    """The learner sent us home: the job is complete."""
    DRAINED = auto()
    """We said goodbye, and everything we sent is in the learner's hands."""
    REPORTED = auto()
    """We said why we cannot go on."""
    FENCED = auto()
    """The learner knows a newer incarnation of us: another process, or our clock was set back."""
    REFUSED = auto()
    """The learner does not want us, and would not the next time."""
    LOST = auto()
    """The learner has been away for longer than we wait."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How and why."""

    outcome: Outcome
    details: str = ""
