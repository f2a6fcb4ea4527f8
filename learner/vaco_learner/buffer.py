"""The buffer between ingest and training: first in, first out, and bounded.

The ingest thread puts; when there is no room it stops reading from the streams until the training
thread takes. The training thread takes a batch's worth of whole fragments or, if that does not come
in time, nothing.

Sizes are in samples, the valid steps of a fragment. Fragments may hold few, so their number and
their bytes are bounded as well.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

from vaco.experience import Experience


class BufferFullError(RuntimeError):
    """A fragment was put without room for it."""


class FragmentBuffer:
    """Fragments that wait for training. Any thread may put, one takes.

    There is room until `capacity` samples, `max_fragments` fragments or `max_bytes` bytes are
    queued, so what is held is at most that and one fragment more.

    Args:
        capacity: in samples.
        max_fragments: however few samples they hold.
        max_bytes: of their arrays.
        on_room: called, outside the lock and on the taking thread, when a take made room in a
            buffer that had none.

    """

    def __init__(
        self,
        capacity: int,
        max_fragments: int,
        max_bytes: int,
        on_room: Callable[[], None] = lambda: None,
    ) -> None:
        if min(capacity, max_fragments, max_bytes) < 1:
            bounds = f"{capacity} samples, {max_fragments} fragments and {max_bytes} bytes"
            raise ValueError(f"a buffer of {bounds}")
        self._capacity = capacity
        self._max_fragments = max_fragments
        self._max_bytes = max_bytes
        self._on_room = on_room
        self._fragments: deque[Experience] = deque()
        self._samples = 0
        self._bytes = 0
        self._wanted = 0
        self._changed = threading.Condition()

    def __len__(self) -> int:
        return len(self._fragments)

    @property
    def samples(self) -> int:
        """Samples queued."""
        return self._samples

    @property
    def has_room(self) -> bool:
        """Whether a fragment may be put."""
        return (
            self._samples < self._capacity
            and len(self._fragments) < self._max_fragments
            and self._bytes < self._max_bytes
        )

    def put(self, fragment: Experience) -> None:
        """Append a fragment.

        Raises:
            BufferFullError: there is no room; the caller must wait for it first.

        """
        with self._changed:
            if not self.has_room:
                raise BufferFullError(f"{len(self._fragments)} fragments, {self._samples} samples")
            self._fragments.append(fragment)
            self._samples += fragment.samples
            self._bytes += fragment.nbytes
            # Whoever waits is woken once for a batch, not for each of its fragments.
            if self._samples >= self._wanted or not self.has_room:
                self._changed.notify_all()

    def take(self, wanted: int, timeout: float) -> list[Experience]:
        """Take the oldest fragments, as few as hold `wanted` samples together.

        Waits up to `timeout` seconds until so many are queued; returns nothing if they are not.
        A buffer that is full gives all it has, however few its samples.

        Raises:
            ValueError: `wanted` is more than ever fits.

        """
        if not 0 < wanted <= self._capacity:
            raise ValueError(f"{wanted} samples wanted of a buffer of {self._capacity}")
        deadline = time.monotonic() + timeout
        with self._changed:
            self._wanted = wanted
            while self._samples < wanted and self.has_room:
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not self._changed.wait(remaining):
                    break
            was_full = not self.has_room
            if self._samples < wanted and not was_full:
                return []
            taken = self._pop(wanted)
        if was_full:
            self._on_room()
        return taken

    def drain(self) -> list[Experience]:
        """Take all that is queued."""
        with self._changed:
            rest = list(self._fragments)
            self._fragments.clear()
            self._samples = self._bytes = 0
        return rest

    def _pop(self, wanted: int) -> list[Experience]:
        taken: list[Experience] = []
        held = 0
        while held < wanted and self._fragments:
            fragment = self._fragments.popleft()
            held += fragment.samples
            self._bytes -= fragment.nbytes
            taken.append(fragment)
        self._samples -= held
        return taken
