"""Weights on their way in: nothing of a version is used before all of it is here and sound."""

import hashlib
from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError

from vaco.v1 import weights_pb2 as pb
from vaco.weights import (
    DIGEST_BYTES,
    MAX_WEIGHTS_BYTES,
    SAFETENSORS,
    SHARD_BYTES,
    MalformedWeights,
    Payload,
    Weights,
    new_buffer,
)
from vaco.wire import WireError, field_number, split

MAX_SPACES_LENGTH: Final = 1 << 20
MAX_FILE_LENGTH: Final = 255

_DATA: Final = frozenset((field_number(pb.WatchWeightsResponse, "data"),))


class Arriving:
    """A version that is not whole yet, in the buffer it fills.

    Args:
        header: was checked.
        buffer: of the header's size.

    Attributes:
        received: bytes of the payload that are here; all whole shards among them are sound.

    """

    def __init__(self, header: pb.WeightsHeader, buffer: memoryview) -> None:
        self.header = header
        self.received = 0
        self._buffer = buffer
        self._hash = hashlib.sha256()

    @property
    def shards(self) -> int:
        """Whole shards that are here."""
        return self.received // self.header.shard_bytes

    @property
    def whole(self) -> bool:
        """Whether nothing is missing."""
        return self.received == self.header.size

    def go_back(self, shards: int) -> None:
        """Forget what is behind the first `shards` shards."""
        self.received = shards * self.header.shard_bytes
        self._hash = hashlib.sha256()

    def write(self, data: Payload) -> None:
        """Take the bytes that come next.

        Raises:
            MalformedWeights: more than the version has, or the end of a damaged shard: that shard
                is forgotten.

        """
        view = memoryview(data)
        if self.received + len(view) > self.header.size:
            raise MalformedWeights("data", f"more than the {self.header.size} bytes stated")
        while view:
            shard = self.shards
            end = min((shard + 1) * self.header.shard_bytes, self.header.size)
            piece = view[: end - self.received]
            self._buffer[self.received : self.received + len(piece)] = piece
            self._hash.update(piece)
            self.received += len(piece)
            view = view[len(piece) :]
            if self.received == end:
                self._check(shard)

    def weights(self) -> Weights:
        """Return the version, which is whole."""
        header = self.header
        return Weights(
            header.incarnation, header.version, memoryview(self._buffer), header.spaces_json
        )

    def _check(self, shard: int) -> None:
        digest, self._hash = self._hash.digest(), hashlib.sha256()
        stated = self.header.digests[shard * DIGEST_BYTES : (shard + 1) * DIGEST_BYTES]
        if digest != stated:
            self.go_back(shard)
            raise MalformedWeights("digests", f"shard {shard} has another digest than stated")


class WeightsAssembler:
    """Puts the frames of one stream after another together again.

    A header in the middle of a version starts over: the learner skipped to a newer one. An error
    leaves the assembler waiting for a header, and whole shards stay: a header of the same version
    can go on behind them.

    Args:
        max_bytes: bound of one version.
        allocate: gives a buffer of that many bytes; called once per version, after every check.

    """

    def __init__(
        self,
        max_bytes: int = MAX_WEIGHTS_BYTES,
        allocate: Callable[[int], memoryview] = new_buffer,
    ) -> None:
        self._max_bytes = max_bytes
        self._allocate = allocate
        self._arriving: Arriving | None = None
        self._begun = False

    @property
    def arriving(self) -> Arriving | None:
        """What has been announced and is not whole yet."""
        return self._arriving

    def restart(self) -> None:
        """Expect the header of a new stream; whole shards stay."""
        self._begun = False

    def add(self, message: bytes) -> Weights | None:
        """Take the next message; return the version when it was the last of it.

        Raises:
            MalformedWeights: naming the field.

        """
        try:
            header, data = _parse(message)
            if header is not None:
                self._begin(header)
                return None
            if self._arriving is None or not self._begun:
                raise MalformedWeights("data", "without a header before it")
            if self._arriving.header.file:
                raise MalformedWeights("data", "though a file has them")
            if not data:
                raise MalformedWeights("data", "empty")
            self._arriving.write(data)
        except MalformedWeights:
            self._begun = False
            raise
        return self.finish()

    def finish(self) -> Weights | None:
        """Return the version if it is whole."""
        if self._arriving is None or not self._arriving.whole:
            return None
        weights = self._arriving.weights()
        self._arriving, self._begun = None, False
        return weights

    def _begin(self, header: pb.WeightsHeader) -> None:
        self._check(header)
        if self._arriving is None or not _is_same(header, self._arriving.header):
            if header.first_shard != 0:
                raise MalformedWeights("first_shard", f"{header.first_shard}, but nothing is held")
            self._arriving = None  # its buffer may be the one that is given
            self._arriving = Arriving(header, self._allocate(header.size))
        elif header.first_shard > self._arriving.shards:
            held = self._arriving.shards
            raise MalformedWeights("first_shard", f"{header.first_shard}, but {held} are held")
        self._arriving.header = header
        self._arriving.go_back(header.first_shard)
        self._begun = True

    def _check(self, header: pb.WeightsHeader) -> None:
        if not 0 < header.size <= self._max_bytes:
            raise MalformedWeights("size", f"{header.size} is not in 1..{self._max_bytes}")
        if header.incarnation == 0:
            raise MalformedWeights("incarnation", "0, but incarnations start at 1")
        if not 0 < header.shard_bytes <= SHARD_BYTES:
            raise MalformedWeights("shard_bytes", f"{header.shard_bytes} not in 1..{SHARD_BYTES}")
        shards = -(-header.size // header.shard_bytes)
        if len(header.digests) != shards * DIGEST_BYTES:
            problem = f"{len(header.digests)} bytes for {shards} shards"
            raise MalformedWeights("digests", problem)
        if header.format != SAFETENSORS:
            raise MalformedWeights("format", f"{header.format[:40]!r}, expected {SAFETENSORS!r}")
        if len(header.spaces_json) > MAX_SPACES_LENGTH:
            raise MalformedWeights("spaces_json", f"{len(header.spaces_json)} characters")
        if len(header.file) > MAX_FILE_LENGTH:
            raise MalformedWeights("file", f"{len(header.file)} characters")


def _is_same(header: pb.WeightsHeader, other: pb.WeightsHeader) -> bool:
    """Tell whether both announce the same bytes."""
    one, two = (
        (h.incarnation, h.version, h.size, h.shard_bytes, h.digests, h.spaces_json)
        for h in (header, other)
    )
    return one == two


def _parse(message: bytes) -> tuple[pb.WeightsHeader | None, memoryview]:
    """Return the header, or the data where they lie."""
    try:
        rest, found = split(message, (0, len(message)), _DATA)
        response = pb.WatchWeightsResponse.FromString(rest)
    except (WireError, DecodeError) as error:
        raise MalformedWeights("frame", f"not a message: {error}") from error
    if response.HasField("header") == bool(found) or len(found) > 1:
        raise MalformedWeights("frame", "neither a header nor data, or both")
    if found:
        begin, end = found[0][1]
        return None, memoryview(message)[begin:end]
    return response.header, memoryview(b"")
