"""The ledger: where every sample that reached the learner is.

A sample is in exactly one place: waiting (`queued`), or decided as `trained`, `stale`,
`duplicate` or `rejected`. The totals balance at all times:

    received = queued + trained + stale + duplicate + rejected

`filtered` is counted apart: trained samples that gave no policy gradient at some steps.

Two threads write: ingest books what arrives, the training thread books what becomes of it. The
ledger's lock is theirs to hold around a booking and the change that it describes (a delivery
log, a buffer), so that a checkpoint never sees the one without the other.
"""

import threading
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from vaco.v1 import trajectory_pb2


class LedgerError(RuntimeError):
    """A booking that would unbalance the ledger: a fault of the learner, never of its input."""


class Fate(Enum):
    """What became of a fragment."""

    TRAINED = trajectory_pb2.FATE_TRAINED
    STALE = trajectory_pb2.FATE_STALE
    DUPLICATE = trajectory_pb2.FATE_DUPLICATE
    REJECTED = trajectory_pb2.FATE_REJECTED


_COLUMNS: Final = {
    Fate.TRAINED: "trained",
    Fate.STALE: "stale",
    Fate.DUPLICATE: "duplicate",
    Fate.REJECTED: "rejected",
}


@dataclass(frozen=True, slots=True)
class LedgerCounts:
    """The totals at one moment, in samples.

    Raises:
        LedgerError: they do not balance, or one of them is negative.

    """

    received: int = 0
    queued: int = 0
    trained: int = 0
    stale: int = 0
    duplicate: int = 0
    rejected: int = 0
    filtered: int = 0

    def __post_init__(self) -> None:
        parts = (self.queued, self.trained, self.stale, self.duplicate, self.rejected)
        if min(parts) < 0 or self.received != sum(parts):
            raise LedgerError(f"the ledger does not balance: {self}")
        if not 0 <= self.filtered <= self.trained:
            raise LedgerError(f"more samples were filtered than trained: {self}")

    def without_queued(self) -> "LedgerCounts":
        """Return the totals that a checkpoint keeps.

        What waits in memory is lost with the process and comes again, because its actor was not
        told its fate; a restored learner has therefore not received it yet.
        """
        return replace(self, received=self.received - self.queued, queued=0)


class Ledger:
    """The running totals.

    Attributes:
        lock: re-entrant; held during every booking, and by whoever needs several bookings, or a
            booking and what it describes, to be seen together.

    """

    def __init__(self, counts: LedgerCounts | None = None) -> None:
        self.lock = threading.RLock()
        self._counts = counts or LedgerCounts()

    def arrived(self, samples: int, fate: Fate | None = None) -> None:
        """Book samples that came in: queued, or decided at once.

        Raises:
            LedgerError: a sample cannot be trained as it arrives, nor be fewer than none.

        """
        if fate is Fate.TRAINED or samples < 0:
            raise LedgerError(f"{samples} samples cannot arrive as {fate}")
        column = "queued" if fate is None else _COLUMNS[fate]
        with self.lock:
            self._add({"received": samples, column: samples})

    def decided(self, samples: int, fate: Fate) -> None:
        """Book the fate of samples that were queued.

        Raises:
            LedgerError: fewer are queued, or the fate is none that a queued sample can have.

        """
        if fate not in (Fate.TRAINED, Fate.STALE) or samples < 0:
            raise LedgerError(f"{samples} queued samples cannot become {fate}")
        with self.lock:
            self._add({"queued": -samples, _COLUMNS[fate]: samples})

    def filtered(self, samples: int) -> None:
        """Book trained samples that the filter kept from the policy gradient.

        Raises:
            LedgerError: that would be more than were trained.

        """
        with self.lock:
            self._add({"filtered": samples})

    def counts(self) -> LedgerCounts:
        """Return the totals, which balance."""
        with self.lock:
            return self._counts

    def _add(self, changes: dict[str, int]) -> None:
        counts = self._counts
        changed = {column: getattr(counts, column) + by for column, by in changes.items()}
        self._counts = replace(counts, **changed)
