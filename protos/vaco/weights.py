"""One version of the policy's weights, and its way from learner to actor.

The learner serialises a version once and shares the frames among all streams. An actor puts
them together again and believes them only when size and digest are right.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Self

from vaco.v1 import weights_pb2 as pb

FRAME_BYTES: Final = 1 << 20
MAX_WEIGHTS_BYTES: Final = 4 << 30
MAX_SPACES_LENGTH: Final = 1 << 20
SAFETENSORS: Final = "safetensors"


class MalformedWeights(ValueError):  # noqa: N818 - named like MalformedFragment
    """Weights that must not be used.

    Attributes:
        field: the message's field that is wrong, e.g. `sha256`.
        problem: what is wrong with it.

    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Weights:
    """One published version.

    Attributes:
        incarnation: of the learner that published it, from 1.
        version: number of updates that made it.
        payload: the weights, serialised.
        sha256: digest of the payload, 32 bytes.
        spaces_json: what the policy was built for; an actor refuses another's.
        format: of the payload.

    """

    incarnation: int
    version: int
    payload: bytes
    sha256: bytes
    spaces_json: str
    format: str = SAFETENSORS

    @classmethod
    def of(cls, incarnation: int, version: int, payload: bytes, spaces_json: str) -> Self:
        """Return the version with the digest of its payload."""
        digest = hashlib.sha256(payload).digest()
        return cls(incarnation, version, payload, digest, spaces_json)


def weights_frames(weights: Weights) -> Iterator[pb.WatchWeightsResponse]:
    """Yield the header and then the payload in pieces of at most 1 MiB."""
    header = pb.WeightsHeader(
        incarnation=weights.incarnation,
        version=weights.version,
        size=len(weights.payload),
        sha256=weights.sha256,
        format=weights.format,
        spaces_json=weights.spaces_json,
    )
    yield pb.WatchWeightsResponse(header=header)
    for start in range(0, len(weights.payload), FRAME_BYTES):
        piece = weights.payload[start : start + FRAME_BYTES]
        yield pb.WatchWeightsResponse(data=pb.WeightsData(data=piece))


class WeightsAssembler:
    """Puts the frames of one stream together again.

    A header in the middle of a version starts over: the learner skipped to a newer one.
    Holds at most `max_bytes` of one version, and never more than has arrived. An error leaves
    the assembler waiting for the next header.
    """

    def __init__(self, max_bytes: int = MAX_WEIGHTS_BYTES) -> None:
        self._max_bytes = max_bytes
        self._header: pb.WeightsHeader | None = None
        self._pieces: list[bytes] = []
        self._received = 0

    def add(self, message: pb.WatchWeightsResponse) -> Weights | None:
        """Take the next message; return the version when it was the last of it.

        Raises:
            MalformedWeights: naming the field.

        """
        try:
            return self._add(message)
        except MalformedWeights:
            self._clear()
            raise

    def _add(self, message: pb.WatchWeightsResponse) -> Weights | None:
        match message.WhichOneof("frame"):
            case "header":
                self._clear()
                self._check_header(message.header)
                self._header = message.header
            case "data":
                self._add_data(message.data.data)
            case _:
                raise MalformedWeights("frame", "neither header nor data")
        if self._header is None or self._received < self._header.size:
            return None
        return self._finish(self._header)

    def _check_header(self, header: pb.WeightsHeader) -> None:
        if not 0 < header.size <= self._max_bytes:
            raise MalformedWeights("size", f"{header.size} is not in 1..{self._max_bytes}")
        if header.incarnation == 0:
            raise MalformedWeights("incarnation", "0, but incarnations start at 1")
        if len(header.sha256) != hashlib.sha256().digest_size:
            raise MalformedWeights("sha256", f"{len(header.sha256)} bytes")
        if header.format != SAFETENSORS:
            raise MalformedWeights("format", f"{header.format[:40]!r}, expected {SAFETENSORS!r}")
        if len(header.spaces_json) > MAX_SPACES_LENGTH:
            raise MalformedWeights("spaces_json", f"{len(header.spaces_json)} characters")

    def _add_data(self, data: bytes) -> None:
        if self._header is None:
            raise MalformedWeights("data", "without a header before it")
        if not data:
            raise MalformedWeights("data", "empty")
        if self._received + len(data) > self._header.size:
            raise MalformedWeights("data", f"more than the {self._header.size} bytes stated")
        self._pieces.append(data)
        self._received += len(data)

    def _finish(self, header: pb.WeightsHeader) -> Weights:
        weights = Weights.of(
            header.incarnation, header.version, b"".join(self._pieces), header.spaces_json
        )
        if weights.sha256 != header.sha256:
            raise MalformedWeights("sha256", "the digest of what arrived is another")
        self._clear()
        return weights

    def _clear(self) -> None:
        self._header = None
        self._pieces = []
        self._received = 0
