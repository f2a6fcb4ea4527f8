"""Lag that is imposed: a ring of the last K versions, from which each fragment draws one.

The mechanism is ours, not the paper's: real lag comes from real actors, and is neither uniform nor
bounded by a ring.
"""

from collections import deque

import numpy as np
from vaco.weights import Weights
from vaco_actor.mailbox import Mailbox


class VersionRing(Mailbox):
    """A mailbox whose `newest` is, after `draw`, any of the last `versions` that were offered.

    Args:
        versions: K; with 1 it is a mailbox like any other.
        seed: Of the draws.

    """

    def __init__(self, versions: int, seed: int) -> None:
        super().__init__()
        self._ring: deque[Weights] = deque(maxlen=versions)
        self._generator = np.random.default_rng(seed)

    def offer(self, weights: Weights) -> bool:
        """Take `weights` as the newest version; the oldest leaves a ring that is full."""
        self._ring.append(weights)
        return True

    def draw(self) -> int:
        """Decide what the next fragment is made with; return its version.

        Raises:
            LookupError: Nothing was offered yet.

        """
        if not self._ring:
            raise LookupError("the ring is empty")
        self.newest = self._ring[int(self._generator.integers(len(self._ring)))]
        return self.newest.version
