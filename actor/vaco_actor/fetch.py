"""Weights from a file: read shard by shard, each compared with its digest."""

import threading
from typing import Final

from vaco.incoming_weights import Arriving
from vaco.weights import MalformedWeights
from vaco.weights_volume import WeightsVolume

MAX_DAMAGES: Final = 3
"""Shards that are read again before the file is given up."""


def fetch(volume: WeightsVolume, arriving: Arriving, given_up: threading.Event) -> None:
    """Read what is missing of a version; blocks. A damaged shard is read again.

    Args:
        volume: Where the file is.
        arriving: What is to become whole.
        given_up: Ends the reading before the next shard.

    Raises:
        MalformedWeights: The name is none of a version's file, or shards stay damaged.
        OSError: The file is gone, or cannot be read.

    """
    header, damages = arriving.header, 0
    if not volume.is_name(header.file):
        raise MalformedWeights("file", f"{header.file[:80]!r} is no version's file")
    while not arriving.whole and not given_up.is_set():
        begin = arriving.received
        end = min(begin + header.shard_bytes, header.size)
        try:
            data = volume.read(header.file, begin, end)
            if len(data) != end - begin:
                raise MalformedWeights("file", f"ends before byte {end}")
            arriving.write(data)
        except MalformedWeights:
            damages += 1
            if damages > MAX_DAMAGES:
                raise
