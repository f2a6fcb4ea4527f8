"""Where the newest weights lie: put there by whoever watches the learner, read between two steps.

A slot, not a queue: what was not fetched before something newer came is of no use any more. It
never goes back: not to an older version, and not to an older incarnation of the learner, whose
last versions a restarted learner may have given up.
"""

import threading

from vaco.weights import Weights


class Mailbox:
    """Holds the newest weights; safe to use from several threads.

    Attributes:
        newest: None until the first weights come. Reading it needs no lock.

    """

    def __init__(self) -> None:
        self.newest: Weights | None = None
        self._changed = threading.Condition()

    def offer(self, weights: Weights) -> bool:
        """Take `weights` if they are newer; return whether they were."""
        with self._changed:
            if self.newest is not None and not _is_newer(weights, self.newest):
                return False
            self.newest = weights
            self._changed.notify_all()
            return True

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
