"""Fragments as messages of a size the stream carries well, and back.

What is small goes as one message. What is larger is cut into frames, so that one actor's 14 MiB
of images does not hold up the stream's flow control as one block.

    actor:    request_parts(fragment) -> trajectory_stream(channel) -> bytes ...
    learner:  add_trajectory_servicer(...) -> bytes ... -> RequestReader -> IncomingFragment

The messages are those of trajectory.proto; only who serialises them is ours, because the
generated code copies an array four times on the way out and twice on the way in.
"""

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from vaco.completions import CompletionGroup, IncomingCompletions
from vaco.experience import Experience
from vaco.incoming import IncomingFragment
from vaco.tensors import MalformedFragment, Part
from vaco.v1 import trajectory_pb2 as pb
from vaco.wire import Span, WireError, field_key, field_number, split, varint

MAX_WHOLE_BYTES: Final = 2 << 20
"""A larger fragment is sent in frames; what a channel takes at most is in `vaco.channels`."""
FRAME_BYTES: Final = 1 << 20
MAX_FRAGMENT_BYTES: Final = 256 << 20

Request: TypeAlias = pb.StreamTrajectoriesRequest | bytes | list[Part]
"""What an actor sends: a message, the same serialised, or that in parts."""

_SERVICE: Final = pb.DESCRIPTOR.services_by_name["TrajectoryService"].full_name
_METHOD: Final = "StreamTrajectories"
_TRAJECTORY_KEY: Final = field_key(pb.StreamTrajectoriesRequest, "trajectory")
_COMPLETIONS_KEY: Final = field_key(pb.StreamTrajectoriesRequest, "completions")
_FRAME_KEY: Final = field_key(pb.StreamTrajectoriesRequest, "frame")
_DATA_KEY: Final = field_key(pb.TrajectoryFrame, "data")
_TRAJECTORY: Final = field_number(pb.StreamTrajectoriesRequest, "trajectory")
_COMPLETIONS: Final = field_number(pb.StreamTrajectoriesRequest, "completions")
_FRAME: Final = field_number(pb.StreamTrajectoriesRequest, "frame")
_FRAGMENTS: Final = frozenset((_TRAJECTORY, _COMPLETIONS, _FRAME))
_DATA: Final = frozenset((field_number(pb.TrajectoryFrame, "data"),))
# Key and length of a fragment between 16 KiB and 2 MiB: what its arrays' alignment goes by.
_USUAL_PREFIX_BYTES: Final = 4


def request_parts(fragment: Experience) -> list[list[Part]]:
    """Return the serialised requests that carry `fragment`, in order, each in parts.

    The arrays' memory is referred to, not copied; it must not be written any more. What is
    returned can be sent, and sent again, over `trajectory_stream`, which puts the parts of a
    request together when gRPC takes it: that memory is used for the next request again, and is
    still in a core's cache.

    Raises:
        TypeError: an array's dtype has no place on the wire.
        ValueError: over `MAX_FRAGMENT_BYTES`, which no learner accepts.

    """
    completions = isinstance(fragment, CompletionGroup)
    key = _COMPLETIONS_KEY if completions else _TRAJECTORY_KEY
    parts, size = fragment.to_parts(_USUAL_PREFIX_BYTES)
    prefix_bytes = len(_prefix(key, size)) if size <= MAX_WHOLE_BYTES else 0
    if prefix_bytes != _USUAL_PREFIX_BYTES:
        parts, size = fragment.to_parts(prefix_bytes)
    if size <= MAX_WHOLE_BYTES:
        return [[_prefix(key, size), *parts]]
    return _frames(parts, size, completions=completions)


def to_requests(fragment: Experience) -> list[bytes]:
    """Return the requests of `request_parts`, each in one piece: a copy of the arrays."""
    return [b"".join(parts) for parts in request_parts(fragment)]


def trajectory_stream(channel: aio.Channel | grpc.Channel) -> Any:
    """Return the stub of StreamTrajectories that also takes serialised requests, whole or in parts.

    See `Request`.
    """
    return channel.stream_stream(
        f"/{_SERVICE}/{_METHOD}",
        request_serializer=_serialise,
        response_deserializer=pb.StreamTrajectoriesResponse.FromString,
    )


def add_trajectory_servicer(servicer: Any, server: aio.Server) -> None:
    """Register a TrajectoryService whose requests arrive as bytes, for a `RequestReader`."""
    handler: grpc.RpcMethodHandler[bytes, pb.StreamTrajectoriesResponse]
    handler = grpc.stream_stream_rpc_method_handler(
        servicer.StreamTrajectories,
        response_serializer=pb.StreamTrajectoriesResponse.SerializeToString,
    )
    generic = grpc.method_handlers_generic_handler(_SERVICE, {_METHOD: handler})
    server.add_generic_rpc_handlers((generic,))


class RequestReader:
    """Reads the requests of one stream.

    An error means that the stream is out of step; it should be closed.

    Args:
        max_bytes: bound of one fragment.

    """

    def __init__(self, max_bytes: int = MAX_FRAGMENT_BYTES) -> None:
        self._assembler = _FrameAssembler(max_bytes)

    def read(
        self, data: bytes
    ) -> pb.StreamTrajectoriesRequest | IncomingFragment | IncomingCompletions | None:
        """Take the next serialised request.

        Returns:
            The fragment that it holds or completes, None if it is a piece of one that is not
            complete yet, or any other request.

        Raises:
            MalformedFragment: not a request, or not one that may follow the last.

        """
        try:
            rest, found = split(data, (0, len(data)), _FRAGMENTS)
            if not found:
                self._assembler.check_closed()
                return pb.StreamTrajectoriesRequest.FromString(rest)
        except (WireError, DecodeError) as error:
            raise MalformedFragment("request", f"not a message: {error}") from error
        if rest or len(found) > 1:
            raise MalformedFragment("request", "more than one message")
        number, span = found[0]
        if number == _FRAME:
            return self._assembler.take(data, span)
        self._assembler.check_closed()
        if number == _COMPLETIONS:
            return IncomingCompletions.parse(data, span)
        return IncomingFragment.parse(data, span)


class _FrameAssembler:
    """Puts the frames of one stream together again.

    Holds at most `max_bytes` of one fragment, and never more than has arrived. An error
    leaves the assembler empty; the stream is then out of step and should be closed.

    Args:
        max_bytes: bound of one fragment.

    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._pieces: list[Part] = []
        self._received = 0
        self._count = 0
        self._total_bytes = 0
        self._completions = False

    def check_closed(self) -> None:
        """Refuse what is no frame, while a fragment has begun and not ended.

        Raises:
            MalformedFragment: it has.

        """
        if self._pieces:
            self._clear()
            raise MalformedFragment("frame", "something else follows before the last frame")

    def take(self, data: bytes, span: Span) -> IncomingFragment | IncomingCompletions | None:
        """Take the next frame, serialised; return the fragment when it was the last one.

        Raises:
            MalformedFragment: out of order, inconsistent, over the bound, or not a message.

        """
        try:
            rest, found = split(data, span, _DATA)
            frame = pb.TrajectoryFrame.FromString(rest)
        except (WireError, DecodeError) as error:
            self._clear()
            raise MalformedFragment("frame", f"not a message: {error}") from error
        piece = memoryview(data)[slice(*found[-1][1])] if found else memoryview(b"")
        completions = self._completions if self._pieces else frame.completions
        whole = self._add(frame, piece)
        if whole is None:
            return None
        return IncomingCompletions.parse(whole) if completions else IncomingFragment.parse(whole)

    def _add(self, frame: pb.TrajectoryFrame, piece: Part) -> bytes | None:
        try:
            self._check(frame, len(piece))
        except MalformedFragment:
            self._clear()
            raise
        self._pieces.append(piece)
        self._received += len(piece)
        if len(self._pieces) < self._count:
            return None
        received, total_bytes = self._received, self._total_bytes
        whole = b"".join(self._pieces)
        self._clear()
        if received != total_bytes:
            raise MalformedFragment("frame.total_bytes", f"{total_bytes}, received {received}")
        return whole

    def _check(self, frame: pb.TrajectoryFrame, size: int) -> None:
        if frame.index != len(self._pieces):
            raise MalformedFragment("frame.index", f"{frame.index} after {len(self._pieces)}")
        if not self._pieces:
            self._begin(frame)
        if frame.count != self._count:
            raise MalformedFragment("frame.count", f"{frame.count}, was {self._count}")
        if frame.total_bytes != self._total_bytes:
            problem = f"{frame.total_bytes}, was {self._total_bytes}"
            raise MalformedFragment("frame.total_bytes", problem)
        if frame.completions != self._completions:
            raise MalformedFragment("frame.completions", "not as in the first frame")
        if size == 0:
            raise MalformedFragment("frame.data", "empty")
        if self._received + size > self._total_bytes:
            raise MalformedFragment("frame.data", f"more than the {self._total_bytes} bytes stated")

    def _begin(self, frame: pb.TrajectoryFrame) -> None:
        if not 0 < frame.total_bytes <= self._max_bytes:
            problem = f"{frame.total_bytes} is not in 1..{self._max_bytes}"
            raise MalformedFragment("frame.total_bytes", problem)
        if not 0 < frame.count <= frame.total_bytes:
            raise MalformedFragment("frame.count", f"{frame.count} for {frame.total_bytes} bytes")
        self._count = frame.count
        self._total_bytes = frame.total_bytes
        self._completions = frame.completions

    def _clear(self) -> None:
        self._pieces = []
        self._received = 0
        self._count = 0
        self._total_bytes = 0
        self._completions = False


def _serialise(request: Request) -> bytes:
    if isinstance(request, bytes):
        return request
    return b"".join(request) if isinstance(request, list) else request.SerializeToString()


def _frames(parts: list[Part], size: int, *, completions: bool) -> list[list[Part]]:
    if size > MAX_FRAGMENT_BYTES:
        raise ValueError(f"a fragment of {size} bytes is over the wire's {MAX_FRAGMENT_BYTES}")
    count = -(-size // FRAME_BYTES)
    stated = pb.TrajectoryFrame(count=count, total_bytes=size, completions=completions)
    return [_frame(i, stated, piece) for i, piece in enumerate(_pieces(parts))]


def _prefix(key: bytes, size: int) -> bytes:
    return key + varint(size)


def _frame(index: int, stated: pb.TrajectoryFrame, piece: list[Part]) -> list[Part]:
    size = sum(map(len, piece))
    frame = pb.TrajectoryFrame(index=index)
    frame.MergeFrom(stated)
    head = frame.SerializeToString() + _DATA_KEY + varint(size)
    return [_FRAME_KEY + varint(len(head) + size) + head, *piece]


def _pieces(parts: list[Part]) -> Iterator[list[Part]]:
    """Cut the concatenation of `parts` into pieces of FRAME_BYTES, without copying."""
    piece: list[Part] = []
    room = FRAME_BYTES
    for part in parts:
        rest = memoryview(part)
        if rest.nbytes == 0:
            continue  # cannot be cast
        rest = rest.cast("B")
        while len(rest) >= room:
            yield [*piece, rest[:room]]
            rest, piece, room = rest[room:], [], FRAME_BYTES
        piece.append(rest)
        room -= len(rest)
    if room < FRAME_BYTES:
        yield piece
