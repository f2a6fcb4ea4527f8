"""Publication: each version is written once, into a buffer that every actor's stream reads.

    training thread --publish()--> [newest snapshot] --> publisher thread --> announce()

The training thread copies the weights into a snapshot and goes on; what it leaves replaces what
was not yet taken. The publisher thread does what takes time: digests, and the file if versions go
by files. A learner that finds that it was replaced publishes nothing.
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from vaco.v1 import weights_pb2 as pb
from vaco.weights import Weights, weights_header
from vaco.weights_volume import WeightsVolume

from vaco_learner.claims import Claim
from vaco_learner.snapshots import Snapshot, Snapshots

_LOG = logging.getLogger(__name__)

VOLUME_PATIENCE_SECONDS: Final = 600.0
"""For how long a version that cannot be written to the volume is tried again."""
_VOLUME_POLL_SECONDS: Final = 1.0


class Source(Protocol):
    """Writes the weights as they are now; `size` bytes."""

    size: int

    def write(self, buffer: memoryview) -> None:
        """Write them into `buffer`, of that size."""


@dataclass(frozen=True, slots=True)
class Published:
    """A version that may be served.

    Attributes:
        header: what announces it.
        snapshot: what holds it; None: a file does.
        publication: of the snapshot, by which it is leased.

    """

    header: pb.WeightsHeader
    snapshot: Snapshot | None
    publication: int = 0

    @property
    def incarnation(self) -> int:
        """Of the learner."""
        return self.header.incarnation

    @property
    def version(self) -> int:
        """Of the weights."""
        return self.header.version


class Publisher:
    """Publishes versions in a thread of its own.

    Args:
        claim: of this learner; it has reserved what is published.
        spaces_json: what the policy was built for.
        announce: called in the publisher's thread with every version.
        crashed: called in the publisher's thread when it ends with an error.
        snapshots: where versions lie.
        volume: where they are written as files; None: they go by the streams.

    """

    def __init__(
        self,
        claim: Claim,
        spaces_json: str,
        announce: Callable[[Published], None],
        crashed: Callable[[BaseException], None],
        snapshots: Snapshots,
        volume: WeightsVolume | None = None,
    ) -> None:
        self._claim = claim
        self._spaces_json = spaces_json
        self._announce = announce
        self._crashed = crashed
        self._snapshots = snapshots
        self._volume = volume
        self._pending: tuple[int, Snapshot] | None = None
        self._version = -1
        self._owes = False
        self._closed = False
        self._give_up: float | None = None  # while the volume fails
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    @property
    def version(self) -> int:
        """The newest version that an actor can have from this learner; -1 before the first."""
        return self._version

    @property
    def owes(self) -> bool:
        """Whether the last version was put off because all buffers were being read."""
        return self._owes

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def publish(self, version: int, source: Source) -> None:
        """Take a snapshot for publication and return; a newer one replaces it.

        Nothing is published, and `owes` is set, if there is no room for a snapshot.
        """
        with self._changed:
            replaced, self._pending = self._pending, None
        if replaced is not None:
            self._snapshots.give_back(replaced[1])
        snapshot = self._snapshots.take(source.size)
        self._owes = snapshot is None
        if snapshot is None:
            return
        source.write(snapshot.memory)
        with self._changed:
            self._pending = (version, snapshot)
            self._changed.notify()

    def stop(self) -> None:
        """End the thread; what it has begun is finished, what is pending is not published."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            while (pending := self._next()) is not None:
                self._publish(*pending)
            if self._volume is not None:
                self._clear(self._volume)
        except Exception as error:
            self._crashed(error)

    def _next(self) -> tuple[int, Snapshot] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._pending is not None)
            pending, self._pending = self._pending, None
            return None if self._closed else pending

    def _publish(self, version: int, snapshot: Snapshot) -> None:
        number = self._claim.number
        weights = Weights(number, version, snapshot.memory, self._spaces_json)
        if self._volume is None:
            header = weights_header(weights)
            self._claim.check()
            published = Published(header, snapshot, self._snapshots.publish(snapshot))
        else:
            header = weights_header(weights, self._volume.name(number, version))
            self._claim.check()
            written = self._write(self._volume, header.file, snapshot)
            self._snapshots.give_back(snapshot)
            if not written:
                return
            self._claim.check()
            published = Published(header, None)
        self._version = version
        self._announce(published)

    def _write(self, volume: WeightsVolume, name: str, snapshot: Snapshot) -> bool:
        """Write the file; return whether it is there, which a newer version can make needless.

        Raises:
            OSError: the volume was full or gone for `VOLUME_PATIENCE_SECONDS`, with however many
                versions it was tried.
            FencedError: a newer learner has taken over.

        """
        while True:
            try:
                volume.tidy(self._claim.number)
                volume.write(name, snapshot.memory)
            except OSError as error:
                _LOG.error("weights cannot be written to the volume: %s", error)
                if self._give_up is None:
                    self._give_up = time.monotonic() + VOLUME_PATIENCE_SECONDS
                if time.monotonic() > self._give_up:
                    raise
                self._claim.check()
            else:
                self._give_up = None
                return True
            with self._changed:
                if self._changed.wait_for(
                    lambda: self._closed or self._pending is not None, _VOLUME_POLL_SECONDS
                ):
                    return False

    def _clear(self, volume: WeightsVolume) -> None:
        try:
            volume.clear(self._claim.number)
        except OSError as error:
            _LOG.warning("files of weights stay on the volume: %s", error)
