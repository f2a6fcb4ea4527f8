"""Which fragments of one actor incarnation the learner has had: the memory behind de-duplication.

An actor numbers its fragments from 1 and sends them in order. After a reconnect it resends, in
order, whatever was not acknowledged. So a number at or below the highest one seen is decided,
unless it waits in the buffer (`queued`) or was lost with the learner's memory (`holes`: it waited
there when the checkpoint was made). The memory is therefore as small as the buffer, however long
the actor lives.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto


class Delivery(Enum):
    """What the learner knows about a sequence number."""

    NEW = auto()
    QUEUED = auto()
    DECIDED = auto()


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """A log as a checkpoint keeps it.

    Attributes:
        last: highest sequence number seen.
        undecided: numbers below it whose fragments must be accepted if they come again.

    """

    last: int
    undecided: tuple[int, ...]


class DeliveryLog:
    """The log of one actor incarnation. Not thread-safe: the ledger's lock guards it."""

    def __init__(self, last: int = 0, holes: Iterable[int] = ()) -> None:
        self._last = last
        self._holes = {number for number in holes if number <= last}
        self._queued: set[int] = set()

    @property
    def waiting(self) -> int:
        """How many of the fragments are queued."""
        return len(self._queued)

    def state_of(self, sequence: int) -> Delivery:
        """Return what is known about `sequence`."""
        if sequence in self._queued:
            return Delivery.QUEUED
        if sequence > self._last or sequence in self._holes:
            return Delivery.NEW
        return Delivery.DECIDED

    def queue(self, sequence: int) -> None:
        """Note that a new fragment waits in the buffer.

        Raises:
            ValueError: it is not new.

        """
        self._accept(sequence)
        self._queued.add(sequence)

    def settle(self, sequence: int) -> None:
        """Note that a fragment is decided, whether it waited in the buffer or is new.

        Raises:
            ValueError: it was decided before.

        """
        if sequence in self._queued:
            self._queued.remove(sequence)
        else:
            self._accept(sequence)

    def record(self) -> DeliveryRecord:
        """Return what must survive the process."""
        return DeliveryRecord(self._last, tuple(sorted(self._holes | self._queued)))

    def _accept(self, sequence: int) -> None:
        if self.state_of(sequence) is not Delivery.NEW:
            raise ValueError(f"sequence number {sequence} was had before")
        self._last = max(self._last, sequence)
        # What comes in order leaves nothing undecided behind it: an older number that was still
        # open would have come first.
        self._holes = {number for number in self._holes if number > sequence}
