"""Lock-step: nothing new is made before the last batch's update is there (`spec.synchronous`).

The learner trains when it has a batch of samples, so the actor makes exactly one batch with one
version, then waits for the fate of all of it and for newer weights. What was not trained does not
count: the actor makes up for it.
"""

import threading

from vaco.v1 import trajectory_pb2 as pb

from vaco_actor.outbox import Fate


class LockStep:
    """Decides when the one actor of a synchronous job may go on; safe to use from two threads.

    Args:
        batch_size: Samples of one update, at least.

    """

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._changed = threading.Condition()
        self._samples = 0
        self._outstanding = 0
        self._trained = False

    def sent(self, samples: int) -> None:
        """Count a fragment that was handed over."""
        with self._changed:
            self._samples += samples
            self._outstanding += 1

    def decided(self, fate: Fate) -> None:
        """Count a fragment's fate."""
        with self._changed:
            self._outstanding -= 1
            if fate.fate == pb.FATE_TRAINED:
                self._trained = True
            else:
                self._samples -= fate.samples
            self._changed.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait until the batch is incomplete, or trained with nothing outstanding.

        Returns:
            Whether it is.

        """
        with self._changed:
            return self._changed.wait_for(lambda: self._incomplete or self.trained, seconds)

    @property
    def trained(self) -> bool:
        """Whether the batch was trained: newer weights come, and `begin` is next."""
        return self._trained and self._outstanding == 0

    def begin(self) -> None:
        """Begin the next batch."""
        with self._changed:
            self._samples = 0
            self._trained = False

    @property
    def _incomplete(self) -> bool:
        return not self._trained and self._samples < self._batch_size
