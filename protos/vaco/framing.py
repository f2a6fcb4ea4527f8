"""Fragments as messages of a size the stream carries well.

What is small goes as one message. What is larger is serialised once and cut into frames, so
that one actor's 14 MiB of images does not hold up the stream's flow control as one block.
"""

from collections.abc import Iterator
from typing import Final

from google.protobuf.message import DecodeError

from vaco.tensors import MalformedFragment
from vaco.v1 import trajectory_pb2 as pb

MAX_MESSAGE_BYTES: Final = 2 << 20
FRAME_BYTES: Final = 1 << 20
MAX_FRAGMENT_BYTES: Final = 256 << 20


def frames(message: pb.Trajectory) -> Iterator[pb.StreamTrajectoriesRequest]:
    """Yield the requests that carry `message`, in order.

    Raises:
        ValueError: the message is over `MAX_FRAGMENT_BYTES`, which no learner accepts.
    """
    size = message.ByteSize()
    if size <= MAX_MESSAGE_BYTES:
        yield pb.StreamTrajectoriesRequest(trajectory=message)
        return
    if size > MAX_FRAGMENT_BYTES:
        raise ValueError(f"a fragment of {size} bytes is over the wire's {MAX_FRAGMENT_BYTES}")
    data = message.SerializeToString()
    count = -(-size // FRAME_BYTES)
    for index in range(count):
        piece = data[index * FRAME_BYTES : (index + 1) * FRAME_BYTES]
        frame = pb.TrajectoryFrame(index=index, count=count, total_bytes=size, data=piece)
        yield pb.StreamTrajectoriesRequest(frame=frame)


class FrameAssembler:
    """Puts the frames of one stream together again.

    Holds at most `max_bytes` of one fragment, and never more than has arrived. An error
    leaves the assembler empty; the stream is then out of step and should be closed.
    """

    def __init__(self, max_bytes: int = MAX_FRAGMENT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._received = 0
        self._count = 0
        self._total_bytes = 0

    @property
    def open(self) -> bool:
        """Whether a fragment has begun and not ended: only its frames may follow."""
        return bool(self._pieces)

    def add(self, frame: pb.TrajectoryFrame) -> pb.Trajectory | None:
        """Take the next frame; return the message when it was the last one.

        Raises:
            MalformedFragment: out of order, inconsistent, over the bound, or not a message.
        """
        try:
            self._check(frame)
        except MalformedFragment:
            self._clear()
            raise
        self._pieces.append(frame.data)
        self._received += len(frame.data)
        if len(self._pieces) < self._count:
            return None
        data = b"".join(self._pieces)
        total_bytes = self._total_bytes
        self._clear()
        if len(data) != total_bytes:
            raise MalformedFragment("frame.total_bytes", f"{total_bytes}, received {len(data)}")
        try:
            return pb.Trajectory.FromString(data)
        except DecodeError as error:
            raise MalformedFragment("frame.data", f"not a Trajectory: {error}") from error

    def _check(self, frame: pb.TrajectoryFrame) -> None:
        if frame.index != len(self._pieces):
            raise MalformedFragment("frame.index", f"{frame.index} after {len(self._pieces)}")
        if not self._pieces:
            self._begin(frame)
        if frame.count != self._count:
            raise MalformedFragment("frame.count", f"{frame.count}, was {self._count}")
        if frame.total_bytes != self._total_bytes:
            problem = f"{frame.total_bytes}, was {self._total_bytes}"
            raise MalformedFragment("frame.total_bytes", problem)
        if not frame.data:
            raise MalformedFragment("frame.data", "empty")
        if self._received + len(frame.data) > self._total_bytes:
            raise MalformedFragment("frame.data", f"more than the {self._total_bytes} bytes stated")

    def _begin(self, frame: pb.TrajectoryFrame) -> None:
        if not 0 < frame.total_bytes <= self._max_bytes:
            problem = f"{frame.total_bytes} is not in 1..{self._max_bytes}"
            raise MalformedFragment("frame.total_bytes", problem)
        if not 0 < frame.count <= frame.total_bytes:
            raise MalformedFragment("frame.count", f"{frame.count} for {frame.total_bytes} bytes")
        self._count = frame.count
        self._total_bytes = frame.total_bytes

    def _clear(self) -> None:
        self._pieces = []
        self._received = 0
        self._count = 0
        self._total_bytes = 0
