"""Objects as few bytes: compressed JSON that refers to an object like it.

The objects of one resource were nearly all made by the same code for different jobs. So each is
compressed against one that was seen before, the pattern, and takes a few hundred bytes where by
itself it would take 1.5 KB.
"""

import json
import zlib
from typing import Final, NamedTuple

from vaco_operator.cluster.resources import Document

MAX_PATTERN_BYTES: Final = 1 << 15
"""What zlib looks back at most."""
GROWTH: Final = 1.25
"""A pattern makes way for an object that has so much more to refer to; that ends at the maximum."""
_LEVEL: Final = 1
"""With a pattern higher ones take longer and save nothing worth it."""


class Packed(NamedTuple):
    """An object, and what it was compressed against."""

    pattern: bytes
    compressed: bytes


class Packer:
    """Packs objects of one resource."""

    def __init__(self) -> None:
        self._pattern = b""

    def pack(self, document: Document) -> Packed:
        """Compress an object against the largest that was seen so far, or nearly so."""
        text = json.dumps(document, separators=(",", ":")).encode()
        if GROWTH * len(self._pattern) < len(text) <= MAX_PATTERN_BYTES:
            self._pattern = text
        deflate = zlib.compressobj(_LEVEL, zdict=self._pattern)
        return Packed(self._pattern, deflate.compress(text) + deflate.flush())


def unpack(packed: Packed) -> Document:
    """Return the object, a new copy each time."""
    document: Document = json.loads(text_of(packed))
    return document


def text_of(packed: Packed) -> bytes:
    """Return the object's JSON."""
    return zlib.decompressobj(zdict=packed.pattern).decompress(packed.compressed)
