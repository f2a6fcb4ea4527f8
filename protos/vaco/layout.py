"""What the arrays of a fragment looked like last time: most likely what they look like this time.

A job's fragments differ in their values and in how many episodes ended, hardly in anything else.
So senders put the arrays whose shapes do not change first. Once such a message was read field by
field, the bytes between those arrays are remembered; a message that has the same bytes at the same
places must be read in the same way, and that is seen by one comparison.
"""

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np

from vaco.tensors import ALIGNMENT, Array, Envelope
from vaco.wire import Span

_REMEMBERED: Final = 8


class Placed(NamedTuple):
    """One array of a message that was read field by field.

    Attributes:
        field: of the message.
        begin: where the field begins, with its key.
        span: where the tensor in it is.
        envelope: what it looks like.

    """

    field: str
    begin: int
    span: Span
    envelope: Envelope


class Layout:
    """A run of arrays at the beginning of a message, and the bytes between them.

    Args:
        data: holds the message that it is learnt from.
        start: where the message begins.
        run: its first fields, without gaps, each with its array's bytes last and aligned.

    Attributes:
        size: bytes of all of them.
        keys: what each is called in the record, by field and name.

    """

    def __init__(self, data: bytes, start: int, run: list[Placed]) -> None:
        places = [placed.envelope.place(placed.span) for placed in run]
        heads = zip((p.begin for p in run), (first for first, _ in places), strict=True)
        self.size = run[-1].span[1] - start
        self._heads = tuple(data[begin:first] for begin, first in heads)
        self._head = self._heads[0]
        gaps = zip(self._heads, (last - first for first, last in places), strict=True)
        self._pattern = struct.Struct("=" + "".join(f"{len(head)}s{size}x" for head, size in gaps))
        keys = [str(index) for index in range(len(run))]
        self._record = np.dtype(
            {
                "names": keys,
                "formats": [(p.envelope.dtype, p.envelope.shape) for p in run],
                "offsets": [first - start for first, _ in places],
                "itemsize": self.size,
            }
        )
        self._widest = max(keys, key=lambda key: self._record[key].base.itemsize)
        self.keys: dict[str, dict[str, str]] = {}
        for key, placed in zip(keys, run, strict=True):
            self.keys.setdefault(placed.field, {})[placed.envelope.name] = key

    def view(self, data: bytes, span: Span) -> Array | None:
        """Return a message's first arrays as one record, if they are laid out so.

        Returns:
            A structured array without dimensions, whose fields are named in `keys`; None if the
            message is laid out in another way, or not aligned.

        """
        start, end = span
        if self.size > end - start or not data.startswith(self._head, start):
            return None
        if self._pattern.unpack_from(data, start) != self._heads:
            return None
        record: Array = np.ndarray((), self._record, data, start)
        return record if record[self._widest].flags.aligned else None


class Layouts:
    """The last few layouts seen."""

    def __init__(self) -> None:
        self._known: tuple[Layout, ...] = ()

    def find(self, data: bytes, span: Span) -> tuple[Layout, Array] | None:
        """Return the layout of a message and the record of its first arrays, if one fits."""
        for layout in self._known:
            record = layout.view(data, span)
            if record is not None:
                return layout, record
        return None

    def learn(self, data: bytes, start: int, placed: Iterable[Placed]) -> None:
        """Remember the layout of a message whose arrays were `placed`, in order."""
        run: list[Placed] = []
        position = start
        phases: set[int] = set()
        names: set[tuple[str, str]] = set()
        for p in placed:
            first, last = p.envelope.place(p.span)
            phases.add(first % ALIGNMENT)
            names.add((p.field, p.envelope.name))
            ends_with_array = first < last == p.span[1]
            if (
                p.begin != position
                or not ends_with_array
                or len(phases) > 1
                or len(names) == len(run)
            ):
                break
            run.append(p)
            position = last
        if run:
            self._known = (Layout(data, start, run), *self._known[: _REMEMBERED - 1])
