"""Publication: each version is serialised once and shared by every actor's stream.

    training thread --publish()--> [newest payload] --> publisher thread --> announce()

The training thread leaves the payload, which is its snapshot of the weights, and goes on; what it
leaves replaces what was not yet taken. The publisher thread does what takes time, the digest. A
learner that finds that it was replaced publishes nothing.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

from vaco.v1 import weights_pb2
from vaco.weights import Weights, weights_frames

from vaco_learner.claims import Claim


@dataclass(frozen=True, slots=True)
class Published:
    """A version that may be served.

    Attributes:
        incarnation: of the learner.
        version: of the weights.
        frames: the messages that carry it, shared by all streams.

    """

    incarnation: int
    version: int
    frames: tuple[weights_pb2.WatchWeightsResponse, ...]


class Publisher:
    """Publishes versions in a thread of its own.

    Args:
        claim: of this learner; it has reserved what is published.
        spaces_json: what the policy was built for.
        announce: called in the publisher's thread with every version.
        crashed: called in the publisher's thread when it ends with an error.

    """

    def __init__(
        self,
        claim: Claim,
        spaces_json: str,
        announce: Callable[[Published], None],
        crashed: Callable[[BaseException], None],
    ) -> None:
        self._claim = claim
        self._spaces_json = spaces_json
        self._announce = announce
        self._crashed = crashed
        self._pending: tuple[int, bytes] | None = None
        self._version = -1
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    @property
    def version(self) -> int:
        """The newest version that an actor can have from this learner; -1 before the first."""
        return self._version

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def publish(self, version: int, payload: bytes) -> None:
        """Leave a version for publication and return at once; a newer one replaces it."""
        with self._changed:
            self._pending = (version, payload)
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
        except Exception as error:
            self._crashed(error)

    def _next(self) -> tuple[int, bytes] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._pending is not None)
            pending, self._pending = self._pending, None
            return None if self._closed else pending

    def _publish(self, version: int, payload: bytes) -> None:
        weights = Weights.of(self._claim.number, version, payload, self._spaces_json)
        frames = tuple(weights_frames(weights))
        self._claim.check()
        self._version = version
        self._announce(Published(self._claim.number, version, frames))
