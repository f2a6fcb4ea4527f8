"""Fragments over a real stream: our fast path and the generated code, in every combination."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import pytest
from grpc import aio
from vaco.channels import aio_channel, sync_channel
from vaco.trajectory import (
    Fragment,
    IncomingFragment,
    MalformedFragment,
    RequestReader,
    add_trajectory_servicer,
    to_requests,
    trajectory_stream,
)
from vaco.v1 import trajectory_pb2 as pb
from vaco.v1 import trajectory_pb2_grpc

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    Serve = Callable[..., AbstractAsyncContextManager[str]]

HELLO = pb.StreamTrajectoriesRequest(hello=pb.Hello(job_uid="job"))
GOODBYE = pb.StreamTrajectoriesRequest(goodbye=pb.Goodbye())
TIMEOUT = 30.0


class FastServicer:
    """Reads bytes, as the learner does."""

    def __init__(self) -> None:
        self.fragments: list[Fragment] = []

    async def StreamTrajectories(  # noqa: N802 - gRPC's name
        self, requests: AsyncIterator[bytes], context: Any
    ) -> AsyncIterator[pb.StreamTrajectoriesResponse]:
        reader = RequestReader()
        async for data in requests:
            try:
                request = reader.read(data)
                if isinstance(request, IncomingFragment):
                    self.fragments.append(Fragment.decode(request))
            except MalformedFragment as error:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
            if isinstance(request, IncomingFragment):
                yield pb.StreamTrajectoriesResponse(ack=pb.Ack(sequence=request.head.id.sequence))
            elif request is not None:
                kind = request.WhichOneof("message")
                yield WELCOME if kind == "hello" else FAREWELL

    def add(self, server: aio.Server) -> None:
        add_trajectory_servicer(self, server)


class PlainServicer(trajectory_pb2_grpc.TrajectoryServiceServicer):
    """Reads messages by the generated code, and joins frames by itself."""

    def __init__(self) -> None:
        self.fragments: list[Fragment] = []

    async def StreamTrajectories(  # type: ignore[override]  # noqa: N802 - the blocking API's
        self, requests: AsyncIterator[pb.StreamTrajectoriesRequest], _context: object
    ) -> AsyncIterator[pb.StreamTrajectoriesResponse]:
        data = b""
        async for request in requests:
            match request.WhichOneof("message"):
                case "hello":
                    yield WELCOME
                case "goodbye":
                    yield FAREWELL
                case "frame":
                    data += request.frame.data
                    if len(data) == request.frame.total_bytes:
                        yield self._take(pb.Trajectory.FromString(data))
                        data = b""
                case "trajectory":
                    yield self._take(request.trajectory)

    def _take(self, message: pb.Trajectory) -> pb.StreamTrajectoriesResponse:
        incoming = IncomingFragment.parse(message.SerializeToString())
        self.fragments.append(Fragment.decode(incoming))
        return pb.StreamTrajectoriesResponse(ack=pb.Ack(sequence=message.id.sequence))

    def add(self, server: aio.Server) -> None:
        trajectory_pb2_grpc.add_TrajectoryServiceServicer_to_server(self, server)


WELCOME = pb.StreamTrajectoriesResponse(welcome=pb.Welcome(credits=4))
FAREWELL = pb.StreamTrajectoriesResponse(farewell=pb.Farewell())
ACK = pb.StreamTrajectoriesResponse(ack=pb.Ack(sequence=7))


def send_fast(channel: grpc.Channel, fragments: list[Fragment]) -> list[Any]:
    def requests() -> Iterator[pb.StreamTrajectoriesRequest | bytes]:
        yield HELLO
        for fragment in fragments:
            yield from to_requests(fragment)
        yield GOODBYE

    return list(trajectory_stream(channel)(requests(), timeout=TIMEOUT))


def send_plain(channel: grpc.Channel, fragments: list[Fragment]) -> list[Any]:
    def requests() -> Iterator[pb.StreamTrajectoriesRequest]:
        yield HELLO
        for fragment in fragments:
            for request in to_requests(fragment):
                yield pb.StreamTrajectoriesRequest.FromString(request)
        yield GOODBYE

    stub = trajectory_pb2_grpc.TrajectoryServiceStub(channel)
    return list(stub.StreamTrajectories(requests(), timeout=TIMEOUT))


@pytest.mark.parametrize("send", [send_fast, send_plain])
@pytest.mark.parametrize("make_servicer", [FastServicer, PlainServicer])
def test_fragments_of_every_size_arrive(
    serve: Serve,
    wire_fragment: Callable[..., Fragment],
    make_servicer: Callable[[], Any],
    send: Callable[[grpc.Channel, list[Fragment]], list[Any]],
) -> None:
    rng = np.random.default_rng(2)
    large = rng.standard_normal((61, 64, 200), np.float32)
    sent = [
        wire_fragment(),
        wire_fragment(length=60, environments=64, observations={"observation": large}),
        wire_fragment(length=5),
    ]
    servicer = make_servicer()

    def act(address: str) -> list[Any]:
        with sync_channel(address) as channel:
            return send(channel, sent)

    async def run() -> list[Any]:
        async with serve(None, servicer.add) as address:
            return await asyncio.to_thread(act, address)

    assert asyncio.run(run()) == [WELCOME, ACK, ACK, ACK, FAREWELL]
    for received, original in zip(servicer.fragments, sent, strict=True):
        np.testing.assert_array_equal(
            received.observations["observation"], original.observations["observation"]
        )
        np.testing.assert_array_equal(received.actions, original.actions)
        np.testing.assert_array_equal(received.truncated, original.truncated)


def test_an_asyncio_client_sends_the_same(
    serve: Serve, wire_fragment: Callable[..., Fragment]
) -> None:
    servicer = FastServicer()

    async def run() -> list[Any]:
        async with serve(None, servicer.add) as address, aio_channel(address) as channel:
            call = trajectory_stream(channel)(timeout=TIMEOUT)
            await call.write(HELLO)
            for request in to_requests(wire_fragment()):
                await call.write(request)
            await call.done_writing()
            return [response async for response in call]

    assert asyncio.run(run()) == [WELCOME, ACK]
    assert servicer.fragments[0].samples == wire_fragment().samples


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (b"\x12\x05\x01", "request"),
        (b"\xff" * 20, "request"),
        (pb.StreamTrajectoriesRequest(trajectory={}).SerializeToString(), "length"),
        (
            pb.StreamTrajectoriesRequest(frame=pb.TrajectoryFrame(index=3)).SerializeToString(),
            "frame.index",
        ),
    ],
)
def test_what_is_malformed_ends_the_stream_and_not_the_server(
    serve: Serve, wire_fragment: Callable[..., Fragment], request_: bytes, field: str
) -> None:
    servicer = FastServicer()

    async def run() -> str:
        async with serve(None, servicer.add) as address, aio_channel(address) as channel:
            call = trajectory_stream(channel)(timeout=TIMEOUT)
            await call.write(request_)
            assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
            again = trajectory_stream(channel)(timeout=TIMEOUT)
            await again.write(to_requests(wire_fragment())[0])
            await again.done_writing()
            assert [response async for response in again] == [ACK]
            return str(await call.details())

    assert asyncio.run(run()).startswith(f"{field}: ")
