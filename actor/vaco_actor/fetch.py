"""Weights from a file: read shard by shard, each compared with its digest."""

import threading
from collections.abc import Callable
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
    name = arriving.header.file
    if not volume.is_name(name):
        raise MalformedWeights("file", f"{name[:80]!r} is no version's file")
    with volume.reading(name) as read:
        damages = 0
        while not arriving.whole and not given_up.is_set():
            try:
                _next_shard(read, arriving)
            except MalformedWeights:
                damages += 1
                if damages > MAX_DAMAGES:
                    raise


def _next_shard(read: Callable[[int, int], bytes], arriving: Arriving) -> None:
    begin = arriving.received
    end = min(begin + arriving.header.shard_bytes, arriving.header.size)
    data = read(begin, end)
    if len(data) != end - begin:
        raise MalformedWeights("file", f"ends before byte {end}")
    arriving.write(data)
