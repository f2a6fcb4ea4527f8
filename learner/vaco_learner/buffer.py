"""The buffer between ingest and training: first in, first out, and bounded.

Its life: open, then closed for good. The ingest thread puts; when there is no room it stops
reading from the streams until the training thread takes. The training thread takes a batch's
worth of whole fragments or, if that does not come in time, nothing. Closing wakes it.

Sizes are in samples, the valid steps of a fragment. Fragments may hold few or none, so their number
is bounded as well.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

from vaco.trajectory import Fragment


class BufferFullError(RuntimeError):
    """A fragment was put without room for it."""


class BufferClosedError(RuntimeError):
    """A closed buffer takes and gives nothing."""


class FragmentBuffer:
    """Fragments that wait for training.

    There is room until `capacity` samples or `max_fragments` fragments are queued, so what is held
    is at most that and one fragment more.

    Args:
        capacity: in samples.
        max_fragments: however few samples they hold.
        on_room: called, outside the lock and on the taking thread, when a take made room in a
            buffer that had none.

    """

    def __init__(
        self, capacity: int, max_fragments: int, on_room: Callable[[], None] = lambda: None
    ) -> None:
        if capacity < 1 or max_fragments < 1:
            raise ValueError(f"a buffer of {capacity} samples in {max_fragments} fragments")
        self._capacity = capacity
        self._max_fragments = max_fragments
        self._on_room = on_room
        self._fragments: deque[Fragment] = deque()
        self._samples = 0
        self._closed = False
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
        return self._samples < self._capacity and len(self._fragments) < self._max_fragments

    @property
    def closed(self) -> bool:
        """Whether the buffer's life is over."""
        return self._closed

    def put(self, fragment: Fragment) -> None:
        """Append a fragment.

        Raises:
            BufferFullError: there is no room; the caller must wait for it first.
            BufferClosedError: the buffer is closed.

        """
        with self._changed:
            if self._closed:
                raise BufferClosedError("put")
            if not self.has_room:
                raise BufferFullError(f"{len(self._fragments)} fragments, {self._samples} samples")
            self._fragments.append(fragment)
            self._samples += fragment.samples
            self._changed.notify_all()

    def take(self, wanted: int, timeout: float) -> list[Fragment]:
        """Take the oldest fragments, as few as hold `wanted` samples together.

        Waits up to `timeout` seconds until so many are queued; returns nothing if they are not.
        A buffer that is full of fragments gives all it has, however few their samples.

        Raises:
            ValueError: `wanted` is more than ever fits.
            BufferClosedError: the buffer is closed, or was while this waited.

        """
        if not 0 < wanted <= self._capacity:
            raise ValueError(f"{wanted} samples wanted of a buffer of {self._capacity}")
        deadline = time.monotonic() + timeout
        with self._changed:
            while self._samples < wanted and self.has_room and not self._closed:
                remaining = deadline - time.monotonic()
                if remaining <= 0 or not self._changed.wait(remaining):
                    break
            if self._closed:
                raise BufferClosedError("take")
            was_full = not self.has_room
            if self._samples < wanted and not was_full:
                return []
            taken = self._pop(wanted)
        if was_full:
            self._on_room()
        return taken

    def close(self) -> list[Fragment]:
        """End the buffer's life, wake who waits, and return what was queued."""
        with self._changed:
            self._closed = True
            rest = list(self._fragments)
            self._fragments.clear()
            self._samples = 0
            self._changed.notify_all()
        return rest

    def _pop(self, wanted: int) -> list[Fragment]:
        taken: list[Fragment] = []
        held = 0
        while held < wanted and self._fragments:
            fragment = self._fragments.popleft()
            held += fragment.samples
            taken.append(fragment)
        self._samples -= held
        return taken
