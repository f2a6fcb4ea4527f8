"""Where the newest weights lie: put there by whoever watches the learner, read between two steps.

A slot, not a queue: what was not fetched before something newer came is of no use any more. It
never goes back: not to an older version, and not to an older incarnation of the learner, whose
last versions a restarted learner may have given up.

Who takes weights over says so, and their memory is used again: for the next version if it is a
large one, of which there is never more than one.
"""

import threading
from collections.abc import Callable

from vaco.weights import MAX_WEIGHTS_BYTES, SPARE_BYTES, Weights


class Mailbox:
    """Holds the newest weights; safe to use from several threads.

    Attributes:
        newest: None until the first weights come. Reading it needs no lock.
        max_bytes: bound of a payload; what the policy at hand can be given at most.

    """

    def __init__(self) -> None:
        self.newest: Weights | None = None
        self.max_bytes = MAX_WEIGHTS_BYTES
        self._waits: Weights | None = None
        self._wake: Callable[[], None] | None = None
        self._changed = threading.Condition()

    @property
    def has_room(self) -> bool:
        """Whether another version may be asked for: none waits to be loaded, or a small one."""
        with self._changed:
            return self._waits is None or len(self._waits.payload) <= SPARE_BYTES

    def offer(self, weights: Weights) -> bool:
        """Take `weights` if they are newer; return whether they were."""
        with self._changed:
            if self.newest is not None and not _is_newer(weights, self.newest):
                return False
            self.newest = self._waits = weights
            self._changed.notify_all()
            return True

    def loaded(self, weights: Weights) -> None:
        """Note that `weights` were taken over; their payload cannot be read any more."""
        with self._changed:
            if self._waits is weights:
                self._waits = None
            weights.release()
            wake = self._wake
        if wake is not None:
            wake()

    def set_wake(self, wake: Callable[[], None] | None) -> None:
        """Have `wake` called when weights were loaded; None: nobody waits for that any more."""
        with self._changed:
            self._wake = wake

    def wait(self, seconds: float, *, than: Weights | None = None) -> bool:
        """Wait until there are weights newer than `than`; return whether there are.

        Args:
            seconds: The longest to wait.
            than: None: any weights will do.

        """
        with self._changed:
            return self._changed.wait_for(
                lambda: self.newest is not None and (than is None or _is_newer(self.newest, than)),
                timeout=seconds,
            )


def _is_newer(weights: Weights, than: Weights) -> bool:
    return (weights.incarnation, weights.version) > (than.incarnation, than.version)
