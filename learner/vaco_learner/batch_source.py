"""What the training thread takes from the buffer: whole fragments that are not stale."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from vaco.experience import Experience

from vaco_learner.admission import Admission, Settlement
from vaco_learner.buffer import FragmentBuffer
from vaco_learner.lineage import Lineage

POLL_SECONDS: Final = 0.1
"""How long a wait lasts before the training thread looks whether it shall stop."""


class BatchSource:
    """Brings batches together.

    A fragment is stale if its oldest weights are more than `max_lag` versions behind the weights it
    would train. That is decided here, the last moment before training.

    Args:
        buffer: where fragments wait.
        admission: books the stale ones.
        lineage: of the weights being trained.
        batch: samples per batch, at least.
        max_lag: in versions.
        acknowledge: is given what was found stale.

    """

    def __init__(
        self,
        buffer: FragmentBuffer,
        admission: Admission,
        lineage: Lineage,
        batch: int,
        max_lag: int,
        acknowledge: Callable[[Sequence[Settlement]], None],
    ) -> None:
        self._buffer = buffer
        self._admission = admission
        self._lineage = lineage
        self._batch = batch
        self._max_lag = max_lag
        self._acknowledge = acknowledge
        self._held: list[Experience] = []

    def next(self, version: int) -> list[Experience] | None:
        """Return a batch to train weights `version` on; None if it did not come together soon."""
        missing = self._batch - sum(fragment.samples for fragment in self._held)
        taken = self._buffer.take(missing, POLL_SECONDS)
        if not taken:
            return None
        fresh: list[Experience] = []
        stale: list[Experience] = []
        for fragment in taken:
            (stale if self.lag(fragment, version) > self._max_lag else fresh).append(fragment)
        if stale:
            reason = f"over {self._max_lag} versions behind version {version}"
            self._acknowledge(self._admission.stale(stale, reason))
        self._held += fresh
        if stale and sum(fragment.samples for fragment in self._held) < self._batch:
            return None
        batch, self._held = self._held, []
        return batch

    def rest(self) -> list[Experience]:
        """Return what is held and queued, for which no batch will come together any more."""
        held, self._held = self._held, []
        return [*held, *self._buffer.drain()]

    def lag(self, fragment: Experience, version: int) -> int:
        """Return how many versions the fragment's oldest weights are behind `version`."""
        return int(self.step_lags(fragment, version).max(initial=0))

    def step_lags(self, fragment: Experience, version: int) -> NDArray[np.int64]:
        """Return the lag of each entry of `versions`."""
        ahead = version - self._lineage.jumped(fragment.weights_incarnation)
        lags: NDArray[np.int64] = ahead - fragment.versions
        return lags
