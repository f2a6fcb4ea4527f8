"""One version of the policy's weights, and its way from learner to actor.

    learner:  weights_header, weights_frames -> bytes ... -> add_weight_servicer
    actor:    weights_stream(channel) -> bytes ... -> WeightsAssembler -> Weights

The payload is one buffer at either end. Frames are made from it one at a time, and are copied into
the other one as they arrive. Every shard of it has its digest, so a broken stream, or damage on the
way, costs one shard. The messages are those of weights.proto; only who serialises the data is ours,
because the generated code copies them several times.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import grpc
import numpy as np
from grpc import aio

from vaco.v1 import weights_pb2 as pb
from vaco.wire import field_key, varint

FRAME_BYTES: Final = 1 << 20
SHARD_BYTES: Final = 8 << 20
MAX_WEIGHTS_BYTES: Final = 64 << 30
SAFETENSORS: Final = "safetensors"
SPARE_BYTES: Final = 64 << 20
"""Of versions up to this size, either side may hold several; of larger ones there is one buffer."""

DIGEST_BYTES: Final = hashlib.sha256().digest_size
_SERVICE: Final = pb.DESCRIPTOR.services_by_name["WeightService"].full_name
_METHOD: Final = "WatchWeights"
_DATA_KEY: Final = field_key(pb.WatchWeightsResponse, "data")

Payload: TypeAlias = bytes | bytearray | memoryview


class MalformedWeights(ValueError):  # noqa: N818 - named like MalformedFragment
    """Weights that must not be used.

    Attributes:
        field: the message's field that is wrong, e.g. `digests`.
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
        payload: the weights, serialised as safetensors.
        spaces_json: what the policy was built for; an actor refuses another's.

    """

    incarnation: int
    version: int
    payload: Payload
    spaces_json: str

    def release(self) -> None:
        """Let go of the payload, whose buffer may be written again; nobody can read it any more."""
        if isinstance(self.payload, memoryview):
            self.payload.release()


def new_buffer(size: int) -> memoryview:
    """Return `size` bytes to write to; memory is taken as they are written."""
    return np.empty(size, np.uint8).data


def weights_header(
    weights: Weights, file: str = "", shard_bytes: int = SHARD_BYTES
) -> pb.WeightsHeader:
    """Return what announces a version, with the digest of every shard.

    Args:
        weights: what is announced.
        file: that holds the payload; empty: it follows in the stream.
        shard_bytes: size of a shard.

    """
    payload = memoryview(weights.payload)
    starts = range(0, len(payload), shard_bytes)
    digests = (hashlib.sha256(payload[at : at + shard_bytes]).digest() for at in starts)
    return pb.WeightsHeader(
        incarnation=weights.incarnation,
        version=weights.version,
        size=len(payload),
        shard_bytes=shard_bytes,
        digests=b"".join(digests),
        format=SAFETENSORS,
        spaces_json=weights.spaces_json,
        file=file,
    )


def behind_what_is_held(
    header: pb.WeightsHeader, request: pb.WatchWeightsRequest
) -> pb.WeightsHeader:
    """Return the header that answers `request`: it begins behind the shards that are held."""
    begun = pb.WeightsHeader()
    begun.CopyFrom(header)
    held = (request.held_incarnation, request.held_version)
    shards = len(header.digests) // DIGEST_BYTES
    if held == (header.incarnation, header.version) and request.held_shards < shards:
        begun.first_shard = request.held_shards
    return begun


def weights_frames(header: pb.WeightsHeader, payload: Payload) -> Iterator[bytes]:
    """Yield the messages that carry a version: the header, then the data unless a file has them.

    Each is made when it is asked for.
    """
    yield pb.WatchWeightsResponse(header=header).SerializeToString()
    if header.file:
        return
    view = memoryview(payload)
    for start in range(header.first_shard * header.shard_bytes, header.size, FRAME_BYTES):
        piece = view[start : start + FRAME_BYTES]
        yield b"".join((_DATA_KEY, varint(len(piece)), piece))


def weights_stream(channel: aio.Channel | grpc.Channel) -> Any:
    """Return the stub of WatchWeights whose responses arrive as bytes, for a `WeightsAssembler`."""
    return channel.unary_stream(
        f"/{_SERVICE}/{_METHOD}",
        request_serializer=pb.WatchWeightsRequest.SerializeToString,
    )


def add_weight_servicer(servicer: Any, server: aio.Server | grpc.Server) -> None:
    """Register a WeightService whose responses are bytes, as `weights_frames` makes them."""
    handler: grpc.RpcMethodHandler[pb.WatchWeightsRequest, bytes]
    handler = grpc.unary_stream_rpc_method_handler(
        servicer.WatchWeights, request_deserializer=pb.WatchWeightsRequest.FromString
    )
    generic = grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler})
    server.add_generic_rpc_handlers((generic,))
