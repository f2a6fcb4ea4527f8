"""Buffers that published versions lie in, and who reads them.

    training thread --take--> [being written] --publisher--> [newest] --> [superseded] --> free
                                                                streams read: Lease

A snapshot is the one copy of the weights that training needs in order to go on. Its buffer is
written again when nobody reads it: memory that was never used before is what is slow about it. Of
small versions there can be several buffers, of large ones two, and only one as long as every
actor has the newest version when the next one comes.

Streams read in the event loop, the training thread takes; all of it is under one lock.
"""

import threading
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from vaco.weights import SPARE_BYTES, new_buffer

STALLED_SECONDS: Final = 2.0
"""A stream that takes nothing for so long does not hold up publication."""
_SETTLED_SECONDS: Final = 1.0
"""Within this, everyone who waits for a version has begun to read it."""
_FEWEST_BUFFERS: Final = 2
_MOST_BUFFERS: Final = 16


class _State(Enum):
    FREE = auto()
    TAKEN = auto()
    NEWEST = auto()
    SUPERSEDED = auto()


class Snapshot:
    """A buffer, and the version in it. Everything but `memory` belongs to `Snapshots`."""

    def __init__(self, size: int) -> None:
        self.memory = new_buffer(size)
        self.state = _State.TAKEN
        self.published_at = 0.0
        self.publication = 0
        self.leases: set[Lease] = set()


class Lease:
    """One stream's hold on a snapshot.

    Attributes:
        lost: whether the buffer was taken back; what was read since is of another version.

    """

    def __init__(self, snapshot: Snapshot, clock: Callable[[], float]) -> None:
        self.lost = False
        self._clock = clock
        self._snapshot = snapshot
        self._moved_at = clock()

    @property
    def snapshot(self) -> Snapshot:
        """What is read."""
        return self._snapshot

    @property
    def stalled(self) -> bool:
        """Whether the stream took nothing for `STALLED_SECONDS`."""
        return self._clock() - self._moved_at >= STALLED_SECONDS

    def moved(self) -> None:
        """Note that the stream took something."""
        self._moved_at = self._clock()


class Snapshots:
    """All buffers of one learner; safe to use from several threads.

    Args:
        clock: monotonic seconds.

    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buffers: list[Snapshot] = []
        self._lock = threading.Lock()
        self._publications = 0

    def __len__(self) -> int:
        """Count the buffers."""
        return len(self._buffers)

    def take(self, size: int) -> Snapshot | None:
        """Return a snapshot to write to; None: all buffers are in use, try again later.

        A version that everyone has, or that only stalled streams read, is withdrawn for it.
        """
        with self._lock:
            self._buffers = [b for b in self._buffers if b.state is not _State.FREE or _is(b, size)]
            snapshot = self._free()
            if snapshot is None and size > SPARE_BYTES:
                snapshot = self._withdrawn(_State.NEWEST)
            if snapshot is None and len(self._buffers) < _limit(size):
                self._buffers.append(Snapshot(size))
                return self._buffers[-1]
            if snapshot is None:
                snapshot = self._withdrawn(_State.SUPERSEDED)
            if snapshot is None:
                return None
            if not _is(snapshot, size):
                self._buffers.remove(snapshot)
                snapshot = Snapshot(size)
                self._buffers.append(snapshot)
            snapshot.state = _State.TAKEN
            return snapshot

    def give_back(self, snapshot: Snapshot) -> None:
        """Free a snapshot that was taken: it is not published from here."""
        with self._lock:
            snapshot.state = _State.FREE

    def publish(self, snapshot: Snapshot) -> int:
        """Make a snapshot that was taken the newest; return the publication's number, for `lease`.

        A buffer serves many versions: only the number tells them apart.
        """
        with self._lock:
            for other in self._buffers:
                if other.state is _State.NEWEST:
                    other.state = _State.SUPERSEDED if other.leases else _State.FREE
            snapshot.state = _State.NEWEST
            snapshot.published_at = self._clock()
            self._publications += 1
            snapshot.publication = self._publications
            return self._publications

    def lease(self, snapshot: Snapshot, publication: int) -> Lease | None:
        """Begin to read; None: it is not the newest any more."""
        with self._lock:
            if snapshot.state is not _State.NEWEST or snapshot.publication != publication:
                return None
            lease = Lease(snapshot, self._clock)
            snapshot.leases.add(lease)
            return lease

    def end(self, lease: Lease) -> None:
        """End reading."""
        with self._lock:
            snapshot = lease.snapshot
            snapshot.leases.discard(lease)
            if snapshot.state is _State.SUPERSEDED and not snapshot.leases:
                snapshot.state = _State.FREE

    def _free(self) -> Snapshot | None:
        return next((b for b in self._buffers if b.state is _State.FREE), None)

    def _withdrawn(self, state: _State) -> Snapshot | None:
        """Take a snapshot from its readers, if all of them are stalled."""
        settled = self._clock() - _SETTLED_SECONDS
        for snapshot in self._buffers:
            if (
                snapshot.state is state
                and snapshot.published_at <= settled
                and all(lease.stalled for lease in snapshot.leases)
            ):
                for lease in snapshot.leases:
                    lease.lost = True
                snapshot.leases.clear()
                return snapshot
        return None


def _limit(size: int) -> int:
    return max(_FEWEST_BUFFERS, min(_MOST_BUFFERS, SPARE_BYTES // max(size, 1)))


def _is(snapshot: Snapshot, size: int) -> bool:
    return len(snapshot.memory) == size
