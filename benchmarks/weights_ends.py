"""The two ends of the weights' way at size, each a process that does what it is told."""

from __future__ import annotations

import asyncio
import random
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import Future
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, cast

import grpc
import torch
from grpc import aio
from torch import nn
from vaco.allocator import keep_freed_memory
from vaco.channels import aio_channel, bind, server_options
from vaco.weights import FRAME_BYTES, Weights, add_weight_servicer
from vaco.weights_volume import WeightsVolume
from vaco_actor.backoff import Backoff, BackoffSettings
from vaco_actor.mailbox import Mailbox
from vaco_actor.stream import Learner
from vaco_actor.watch import WeightsWatch
from vaco_learner.claims import Claims
from vaco_learner.credits import Capacity
from vaco_learner.hub import Hub
from vaco_learner.publisher import Published, Publisher
from vaco_learner.snapshots import Snapshots
from vaco_learner.watch import WeightServicer
from vaco_policy.parameters import PayloadWriter, WeightsDtype, load_payload, payload_bound

PAYLOAD_BYTES: Final = 512 << 20
RAW_METHOD: Final = "/vaco.benchmark.Raw/Weights"
JOB: Final = "benchmark"
_SPACES: Final = "{}"
_LAYERS: Final = 32
# Enough for the frames of a bare stream not to stay in a core's own cache.
_RAW_FRAMES: Final = 64
_STUCK_SECONDS: Final = 120.0


class Model(nn.Module):
    """Float32 numbers, as many as make the payload."""

    def __init__(self, dtype: str, seed: int) -> None:
        super().__init__()
        numbers = PAYLOAD_BYTES // (2 if dtype == "bfloat16" else 4) // _LAYERS
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ParameterList(
            torch.randn(numbers // 1024, 1024, generator=generator) for _ in range(_LAYERS)
        )


class _Loop:
    """An event loop in a thread, as link and ingest have one."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.task: asyncio.Task[Any] | None = None
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        return future.result(_STUCK_SECONDS)


class _Peak:
    """The peak of this process's resident set, in payloads above its baseline."""

    def __init__(self) -> None:
        self._baseline = _status("VmRSS")
        self.reset()

    def take(self) -> float:
        above = (_status("VmHWM") - self._baseline) / PAYLOAD_BYTES
        self.reset()
        return round(above, 2)

    @staticmethod
    def reset() -> None:
        Path("/proc/self/clear_refs").write_text("5")


def _status(field: str) -> int:
    """Return a size from /proc/self/status, bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


def serve(dtype: str, directory: str | None, control: Connection) -> None:
    """Be the learner: publish when told to."""
    keep_freed_memory()
    torch.set_num_threads(1)
    loop, snapshots = _Loop(), Snapshots()
    hub = loop.run(_hub())
    server, port = loop.run(_server(hub, snapshots))
    announced: list[tuple[int, float]] = []

    def announce(published: Published) -> None:
        loop.loop.call_soon_threadsafe(hub.announce, published)
        announced.append((published.version, time.monotonic()))

    with tempfile.TemporaryDirectory(prefix="vaco-bench-") as claims:
        claim = Claims(Path(claims), JOB).stake(1)
        volume = WeightsVolume(directory, JOB) if directory else None
        publisher = Publisher(claim, _SPACES, announce, _crashed, snapshots, volume)
        publisher.start()
        writer = PayloadWriter(Model(dtype, seed=1), cast(WeightsDtype, dtype))
        peak, version = _Peak(), 0
        control.send(port)
        while (order := control.recv()) != "stop":
            if order == "publish":
                version += 1
                control.send(_publish(publisher, writer, version, announced))
            elif order == "newest":
                control.send(version)
            else:
                control.send(peak.take())
        publisher.stop()
        loop.run(server.stop(1))


def _publish(
    publisher: Publisher, writer: PayloadWriter, version: int, announced: list[tuple[int, float]]
) -> dict[str, float]:
    """Publish and wait for the announcement; put off for as long as the product would."""
    begun = time.monotonic()
    publisher.publish(version, writer)
    while publisher.owes:
        time.sleep(0.01)
        publisher.publish(version, writer)
    copied = time.monotonic()
    while not announced or announced[-1][0] != version:
        time.sleep(0.001)
    return {"begun": begun, "copied": copied, "announced": announced[-1][1]}


def _crashed(error: BaseException) -> None:
    raise error


async def _hub() -> Hub:
    return Hub(Capacity(8, 16, 6, 64), lambda _outcome: None)


async def _server(hub: Hub, snapshots: Snapshots) -> tuple[aio.Server, int]:
    server = aio.server(options=server_options())
    add_weight_servicer(WeightServicer(JOB, hub, snapshots), server)
    numbers = random.Random(0)  # noqa: S311
    frames = [numbers.randbytes(FRAME_BYTES) for _ in range(_RAW_FRAMES)]

    async def raw(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        for n in range(PAYLOAD_BYTES // FRAME_BYTES):
            yield frames[n % _RAW_FRAMES]

    service, method = RAW_METHOD.strip("/").split("/")
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_stream_rpc_method_handler(raw)
    generic = grpc.method_handlers_generic_handler(service, {method: handler})
    server.add_generic_rpc_handlers((generic,))
    port = bind(server, "127.0.0.1:0")
    await server.start()
    return server, port


def receive(dtype: str, directory: str | None, port: int, control: Connection) -> None:
    """Be the actor: take over versions when told to."""
    keep_freed_memory()
    torch.set_num_threads(1)
    loop, mailbox, policy = _Loop(), Mailbox(), Model(dtype, seed=2)
    target = f"127.0.0.1:{port}"
    mailbox.max_bytes = payload_bound(policy)
    volume = WeightsVolume(directory, JOB) if directory else None
    channel = loop.run(_ready(target))
    peak, loaded = _Peak(), None
    loop.run(_watch(target, mailbox, volume, loop))
    control.send("ready")
    while (order := control.recv()) != "stop":
        if order == "next":
            loaded, times = _load(policy, mailbox, loaded)
            control.send(times)
        elif order == "until settled":
            loaded = _load_until_told(policy, mailbox, loaded, control)
            control.send("settled")
        elif order == "raw":
            control.send(loop.run(_time_raw(channel)))
        else:
            control.send(peak.take())


async def _ready(target: str) -> aio.Channel:
    channel = aio_channel(target)
    await channel.channel_ready()
    return channel


async def _watch(target: str, mailbox: Mailbox, volume: WeightsVolume | None, loop: _Loop) -> None:
    jitter = random.Random(0)  # noqa: S311
    backoff = Backoff(BackoffSettings(), time.monotonic, jitter)
    watch = WeightsWatch(Learner(target), JOB, "a", _SPACES, mailbox, backoff, volume)

    def wake() -> None:
        loop.loop.call_soon_threadsafe(watch.wake)

    mailbox.set_wake(wake)
    loop.task = asyncio.create_task(watch.run())


def _load(
    policy: nn.Module, mailbox: Mailbox, loaded: Weights | None
) -> tuple[Weights, dict[str, float]]:
    assert mailbox.wait(_STUCK_SECONDS, than=loaded)
    whole = time.monotonic()
    newest = mailbox.newest
    assert newest is not None
    load_payload(policy, newest.payload)
    mailbox.loaded(newest)
    return newest, {"whole": whole, "loaded": time.monotonic()}


def _load_until_told(
    policy: nn.Module, mailbox: Mailbox, loaded: Weights | None, control: Connection
) -> Weights | None:
    """Load what comes, up to the version that `control` names."""
    last: int | None = None
    while loaded is None or last is None or loaded.version < last:
        if last is None and control.poll():
            last = control.recv()
        elif mailbox.wait(0.05, than=loaded):
            loaded = _load(policy, mailbox, loaded)[0]
    return loaded


async def _time_raw(channel: aio.Channel) -> float:
    """Return the seconds of a payload's frames, not looked into."""
    stream: Any = channel.unary_stream(RAW_METHOD)
    began, received = time.perf_counter(), 0
    call = stream(b"")
    while (frame := await call.read()) is not aio.EOF:
        received += len(frame)
    assert received == PAYLOAD_BYTES
    return time.perf_counter() - began
