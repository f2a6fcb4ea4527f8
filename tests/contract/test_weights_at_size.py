"""A large model's weights over real gRPC: the learner's end and the actor's, and what goes wrong.

The learner's end is its publisher, its snapshots and its servicer; the actor's is its watch and its
mailbox. Between them is TCP, which a test can cut.
"""

import asyncio
import contextlib
import itertools
import random
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from grpc import aio
from torch import nn
from vaco.channels import bind, server_options
from vaco.v1 import weights_pb2 as pb
from vaco.weights import (
    FRAME_BYTES,
    SHARD_BYTES,
    SPARE_BYTES,
    Weights,
    add_weight_servicer,
    new_buffer,
)
from vaco.weights_volume import WeightsVolume
from vaco_actor.backoff import Backoff, BackoffSettings
from vaco_actor.ending import Outcome
from vaco_actor.mailbox import Mailbox
from vaco_actor.stream import Learner
from vaco_actor.watch import WeightsWatch
from vaco_learner.claims import Claims
from vaco_learner.credits import Capacity
from vaco_learner.hub import Hub
from vaco_learner.publisher import Published, Publisher
from vaco_learner.snapshots import Snapshots
from vaco_learner.watch import WeightServicer
from vaco_policy.parameters import PayloadWriter, load_payload, payload_bound

JOB = "job"
SECONDS = 30.0
LARGE = SPARE_BYTES + SHARD_BYTES + 1
SHARDS = LARGE // SHARD_BYTES + 1
QUICK = BackoffSettings(first=0.01, longest=0.05, patience=60.0)
SPACES = "the spaces"


class Numbers:
    """Weights that are `size` random bytes of their seed."""

    def __init__(self, seed: int, size: int = LARGE) -> None:
        self.size = size
        self.seed = seed

    def write(self, buffer: memoryview) -> None:
        buffer[:] = self.bytes()

    def bytes(self) -> memoryview:
        return np.random.default_rng(self.seed).integers(0, 256, self.size, np.uint8).data


class Loop:
    """An event loop in a thread, as link and server have one."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(SECONDS)

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(SECONDS)
        self.loop.close()


class Meddling(WeightServicer):
    """Keeps the requests; can flip a bit of a frame, and can hold frames back."""

    def __init__(self, hub: Hub, snapshots: Snapshots) -> None:
        super().__init__(JOB, hub, snapshots)
        self.requests: list[pb.WatchWeightsRequest] = []
        self.headers: list[pb.WeightsHeader] = []
        self.ended: list[pb.WatchWeightsRequest] = []
        self.flip = -1
        self.hold_at = -1
        self.held = threading.Event()
        self.go_on = asyncio.Event()
        self.frames = 0

    async def WatchWeights(  # noqa: N802
        self, request: pb.WatchWeightsRequest, context: Any
    ) -> AsyncIterator[bytes]:
        self.requests.append(request)
        context.add_done_callback(lambda _: self.ended.append(request))
        async for frame in super().WatchWeights(request, context):
            number, self.frames = self.frames, self.frames + 1
            if len(frame) < FRAME_BYTES:
                self.headers.append(pb.WatchWeightsResponse.FromString(frame).header)
            if number == self.hold_at:
                self.held.set()
                await self.go_on.wait()
            if number == self.flip:
                frame = frame[:-1] + bytes([frame[-1] ^ 1])
            yield frame


class LearnerEnd:
    def __init__(self, directory: Path, volume: WeightsVolume | None = None) -> None:
        self.loop = Loop()
        self.now = 100.0
        self.snapshots = Snapshots(lambda: self.now)
        self.crashes: list[BaseException] = []
        self.loop.run(self._start())
        claim = Claims(directory, JOB).stake(1)
        self.publisher = Publisher(
            claim, SPACES, self._announce, self.crashes.append, self.snapshots, volume
        )
        self.publisher.start()

    async def _start(self) -> None:
        self.hub = Hub(Capacity(8, 16, 6, 64), lambda _: None)
        self.servicer = Meddling(self.hub, self.snapshots)
        self.server = aio.server(options=server_options())
        add_weight_servicer(self.servicer, self.server)
        self.port = bind(self.server, "127.0.0.1:0")
        await self.server.start()

    def _announce(self, published: Published) -> None:
        self.loop.loop.call_soon_threadsafe(self.hub.announce, published)

    def publish(self, version: int, source: Any) -> None:
        self.publisher.publish(version, source)
        eventually(lambda: self.publisher.version == version)

    def stop(self) -> None:
        self.publisher.stop()
        self.loop.run(self.server.stop(None))
        self.loop.stop()
        assert not self.crashes


class ActorEnd:
    def __init__(
        self, port: int, volume: WeightsVolume | None = None, backoff: Backoff | None = None
    ) -> None:
        self.loop = Loop()
        self._backoff = backoff
        self.mailbox = Mailbox()
        self.mailbox.max_bytes = LARGE
        self.loop.run(self._start(port, volume))

    async def _start(self, port: int, volume: WeightsVolume | None) -> None:
        backoff = self._backoff or Backoff(QUICK, time.monotonic, random.Random(0))
        learner = Learner(f"127.0.0.1:{port}")
        self.watch = WeightsWatch(learner, JOB, "a", SPACES, self.mailbox, backoff, volume)
        loop = self.loop.loop
        self.mailbox.set_wake(lambda: loop.call_soon_threadsafe(self.watch.wake))
        self.task = asyncio.create_task(self.watch.run())

    def next(self, than: Weights | None = None) -> Weights:
        assert self.mailbox.wait(SECONDS, than=than)
        assert self.mailbox.newest is not None
        return self.mailbox.newest

    def stop(self) -> None:
        self.mailbox.set_wake(None)
        self.loop.run(self._end())
        self.loop.stop()

    async def _end(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


class Wire:
    """TCP between the two, cut once after so many bytes from the learner."""

    def __init__(self, port: int, cut_after: int) -> None:
        self._target = port
        self._left = cut_after
        self._loop = Loop()
        self.cuts = 0
        self._server = self._loop.run(asyncio.start_server(self._connect, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        upwards = asyncio.create_task(self._pump(reader, far_writer, counted=False))
        try:
            await self._pump(far_reader, writer, counted=True)
        finally:
            upwards.cancel()
            for end in (writer, far_writer):
                end.transport.abort()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, counted: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(1 << 16):
                if counted and not self.cuts:
                    self._left -= len(data)
                    if self._left < 0:
                        self.cuts += 1
                        return
                sink.write(data)
                await sink.drain()

    def close(self) -> None:
        self._loop.run(self._end())
        self._loop.stop()

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < deadline
        pause.wait(0.005)


@pytest.fixture
def learner(tmp_path: Path) -> Iterator[LearnerEnd]:
    end = LearnerEnd(tmp_path)
    yield end
    end.stop()


@pytest.fixture
def connect() -> Iterator[Callable[..., ActorEnd]]:
    ends: list[ActorEnd] = []

    def begin(
        port: int, volume: WeightsVolume | None = None, backoff: Backoff | None = None
    ) -> ActorEnd:
        ends.append(ActorEnd(port, volume, backoff))
        return ends[-1]

    yield begin
    for end in ends:
        end.stop()


@pytest.fixture
def wire(learner: LearnerEnd) -> Iterator[Wire]:
    """Cut in the fifth shard, or soon after it."""
    cable = Wire(learner.port, cut_after=5 * SHARD_BYTES)
    yield cable
    cable.close()


Connect = Callable[..., ActorEnd]


def test_a_cut_stream_goes_on_behind_the_last_whole_shard(
    learner: LearnerEnd, wire: Wire, connect: Connect
) -> None:
    learner.publish(1, Numbers(1))
    weights = connect(wire.port).next()
    assert weights.payload == Numbers(1).bytes()
    assert wire.cuts == 1
    first, second = learner.servicer.requests[:2]
    assert first.held_shards == 0
    assert (second.held_incarnation, second.held_version) == (1, 1)
    assert 2 <= second.held_shards <= 4
    assert learner.servicer.headers[1].first_shard == second.held_shards


def test_a_flipped_bit_is_found_and_its_shard_alone_is_sent_again(
    learner: LearnerEnd, connect: Connect
) -> None:
    frames = SHARD_BYTES >> 20
    learner.servicer.flip = 1 + 3 * frames + 2
    learner.publish(1, Numbers(1))
    weights = connect(learner.port).next()
    assert weights.payload == Numbers(1).bytes()
    assert [request.held_shards for request in learner.servicer.requests[:2]] == [0, 3]


def test_a_newer_version_takes_the_place_of_half_an_older_one(
    learner: LearnerEnd, wire: Wire, connect: Connect
) -> None:
    learner.servicer.hold_at = 40
    learner.publish(1, Numbers(1))
    actor = connect(wire.port)
    assert learner.servicer.held.wait(SECONDS)
    learner.publish(2, Numbers(2))
    learner.loop.loop.call_soon_threadsafe(learner.servicer.go_on.set)
    weights = actor.next()
    assert (weights.version, weights.payload) == (2, Numbers(2).bytes())
    assert learner.servicer.requests[1].held_version == 1


def test_what_was_begun_is_finished_though_there_is_a_newer_one(
    learner: LearnerEnd, connect: Connect
) -> None:
    learner.servicer.hold_at = 40
    learner.publish(1, Numbers(1))
    actor = connect(learner.port)
    assert learner.servicer.held.wait(SECONDS)
    learner.publish(2, Numbers(2))
    learner.loop.loop.call_soon_threadsafe(learner.servicer.go_on.set)
    first = actor.next()
    assert (first.version, first.payload) == (1, Numbers(1).bytes())
    actor.mailbox.loaded(first)
    second = actor.next(than=first)
    assert (second.version, second.payload) == (2, Numbers(2).bytes())


def test_memory_is_one_buffer_on_each_side(
    learner: LearnerEnd, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same memory for version after version; a large one is asked for when there is room."""
    taken: list[tuple[str, int]] = []

    def counted(side: str) -> Callable[[int], memoryview]:
        def allocate(size: int) -> memoryview:
            taken.append((side, size))
            return new_buffer(size)

        return allocate

    monkeypatch.setattr("vaco_learner.snapshots.new_buffer", counted("learner"))
    monkeypatch.setattr("vaco_actor.watch.new_buffer", counted("actor"))
    learner.publish(1, Numbers(1))
    actor = connect(learner.port)
    weights = actor.next()
    for version in (2, 3, 4):
        requests = len(learner.servicer.requests)
        assert not actor.mailbox.has_room
        # Its stream has ended and the version is out for a while, so its buffer is used again.
        eventually(lambda begun=requests: len(learner.servicer.ended) == begun)  # type: ignore[misc]
        eventually(lambda: not any(s.leases for s in learner.snapshots._buffers))
        learner.now += 1.5
        learner.publish(version, Numbers(version))
        assert len(learner.servicer.requests) == requests, "asked for before there is room"
        actor.mailbox.loaded(weights)
        weights = actor.next(than=weights)
        assert (weights.version, weights.payload) == (version, Numbers(version).bytes())
    assert len(learner.snapshots) == 1
    assert sorted(taken) == [("actor", LARGE), ("learner", LARGE)]


def test_the_old_version_acts_while_the_new_one_arrives(
    learner: LearnerEnd, connect: Connect
) -> None:
    source, policy = nn.Linear(4096, 4200), nn.Linear(4096, 4200)
    writer = PayloadWriter(source, "float32")
    assert writer.size > SPARE_BYTES
    learner.publish(1, writer)
    actor = connect(learner.port)
    actor.mailbox.max_bytes = payload_bound(policy)
    old = actor.next()
    load_payload(policy, old.payload)
    actor.mailbox.loaded(old)
    seen = torch.linspace(-1, 1, 4096)
    with torch.no_grad():
        before = source(seen)
        assert torch.equal(policy(seen), before)
        learner.servicer.hold_at = learner.servicer.frames + 40
        source.weight.mul_(2.0)
        learner.publish(2, writer)
        assert learner.servicer.held.wait(SECONDS)
        assert actor.mailbox.newest is old
        assert torch.equal(policy(seen), before)
        learner.loop.loop.call_soon_threadsafe(learner.servicer.go_on.set)
        load_payload(policy, actor.next(than=old).payload)
        assert torch.equal(policy(seen), source(seen))
    assert not torch.equal(policy(seen), before)


def test_publication_that_is_put_off_is_owed(learner: LearnerEnd, connect: Connect) -> None:
    learner.servicer.hold_at = 20
    learner.publish(1, Numbers(1))
    connect(learner.port)
    assert learner.servicer.held.wait(SECONDS)
    leases = [learner.snapshots.lease(s, s.publication) for s in learner.snapshots._buffers]
    learner.publish(2, Numbers(2))
    eventually(lambda: learner.hub.newest is not None and learner.hub.newest.version == 2)
    newest = learner.hub.newest
    assert newest is not None
    assert newest.snapshot is not None
    leases.append(learner.snapshots.lease(newest.snapshot, newest.publication))
    learner.publisher.publish(3, Numbers(3))
    assert learner.publisher.owes
    assert len(learner.snapshots) == 2
    learner.loop.loop.call_soon_threadsafe(learner.servicer.go_on.set)
    for lease in leases:
        if lease is not None:
            learner.snapshots.end(lease)

    def published() -> bool:
        learner.publisher.publish(3, Numbers(3))
        return not learner.publisher.owes

    eventually(published)
    eventually(lambda: learner.publisher.version == 3)


def test_a_stream_that_loses_its_buffer_goes_on_with_the_newest_and_mixes_nothing(
    learner: LearnerEnd, connect: Connect
) -> None:
    learner.servicer.hold_at = 40
    learner.publish(1, Numbers(1))
    actor = connect(learner.port)
    assert learner.servicer.held.wait(SECONDS)
    learner.now += 10.0
    learner.publish(2, Numbers(2))
    assert len(learner.snapshots) == 1, "the buffer was taken from a stream that stood still"
    learner.loop.loop.call_soon_threadsafe(learner.servicer.go_on.set)
    weights = actor.next()
    assert (weights.version, weights.payload) == (2, Numbers(2).bytes())
    assert len(learner.servicer.requests) == 1, "no frame of the one was taken for the other's"


def test_a_payload_beyond_the_policys_size_is_never_given_memory(
    learner: LearnerEnd, connect: Connect
) -> None:
    learner.publish(1, Numbers(1, LARGE + 1))
    actor = connect(learner.port)
    eventually(lambda: len(learner.servicer.requests) > 2)
    assert actor.mailbox.newest is None
    assert actor.watch._assembler.arriving is None


@pytest.mark.parametrize("size", [1000, LARGE])
def test_versions_go_by_files(tmp_path: Path, connect: Connect, size: int) -> None:
    (tmp_path / "claims").mkdir()
    volume = WeightsVolume(str(tmp_path / "volume"), JOB)
    end = LearnerEnd(tmp_path / "claims", volume)
    actor = connect(end.port, WeightsVolume(str(tmp_path / "volume"), JOB))
    known: Weights | None = None
    for version in (1, 2, 3, 4, 5):
        end.publish(version, Numbers(version, size))
        weights = actor.next(than=known)
        assert (weights.version, weights.payload) == (version, Numbers(version, size).bytes())
        actor.mailbox.loaded(weights)
        known = weights
    assert len(end.snapshots) == 1, "a file takes the buffer's place"
    assert end.servicer.frames <= 5, "only headers go by the stream"
    assert len(list((tmp_path / "volume" / JOB).iterdir())) == 4
    end.stop()
    assert not (tmp_path / "volume" / JOB).exists()


def test_a_full_volume_is_tried_again_until_a_newer_version_comes(
    tmp_path: Path, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = WeightsVolume(str(tmp_path / "volume"), JOB)
    sound, tried = volume.write, threading.Event()

    def write(name: str, payload: memoryview) -> None:
        if name == volume.name(1, 1):
            tried.set()
            raise OSError(28, "No space left on device")
        sound(name, payload)

    monkeypatch.setattr(volume, "write", write)
    end = LearnerEnd(tmp_path, volume)
    actor = connect(end.port, WeightsVolume(str(tmp_path / "volume"), JOB))
    end.publisher.publish(1, Numbers(1, 1000))
    assert tried.wait(SECONDS)
    end.publish(2, Numbers(2, 1000))
    assert actor.next().version == 2
    end.stop()


class Failing(WeightsVolume):
    """Fails so many times, `shards` behind where it was gone on; `then` is done before it does."""

    def __init__(
        self, path: Path, times: int, shards: Iterator[int], then: Callable[[], None]
    ) -> None:
        super().__init__(str(path), JOB)
        self.left = times
        self._shards = shards
        self._then = then

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Callable[[int, int], bytes]]:
        shards = next(self._shards)
        with super().reading(name) as sound:

            def read(begin: int, end: int) -> bytes:
                nonlocal shards
                if self.left and not shards:
                    self.left -= 1
                    self._then()
                    raise OSError(116, "Stale file handle")
                shards -= 1
                return sound(begin, end)

            yield read


def backoff_of_failures(failures: int) -> Backoff:
    """Ends after so many in a row: its clock is how often it was read."""
    return Backoff(
        BackoffSettings(first=0.001, longest=0.002, patience=float(failures)),
        itertools.count().__next__,
        random.Random(0),
    )


def test_shards_of_a_version_that_is_lost_are_no_success(tmp_path: Path, connect: Connect) -> None:
    """Or an actor that is too slow for its store would hammer it for ever."""
    end = LearnerEnd(tmp_path, WeightsVolume(str(tmp_path / "volume"), JOB))
    size = 2 * SHARD_BYTES + 1

    def replace() -> None:
        version = end.publisher.version + 1
        end.publish(version, Numbers(version, size))
        eventually(lambda: end.hub.newest is not None and end.hub.newest.version == version)

    end.publish(1, Numbers(1, size))
    volume = Failing(tmp_path / "volume", 12, itertools.cycle((1, 2)), replace)
    actor = connect(end.port, volume, backoff_of_failures(6))
    eventually(lambda: actor.task.done() or actor.mailbox.newest is not None)
    assert actor.mailbox.newest is None
    assert actor.task.result().outcome is Outcome.LOST
    assert volume.left
    end.stop()


def test_shards_that_are_gone_on_behind_are_a_success(tmp_path: Path, connect: Connect) -> None:
    end = LearnerEnd(tmp_path, WeightsVolume(str(tmp_path / "volume"), JOB))
    size = 9 * SHARD_BYTES
    end.publish(1, Numbers(1, size))
    volume = Failing(tmp_path / "volume", 8, itertools.repeat(1), lambda: None)
    actor = connect(end.port, volume, backoff_of_failures(4))
    assert actor.next().payload == Numbers(1, size).bytes()
    assert volume.left == 0
    end.stop()
