"""The trajectory path against a bare gRPC stream: what our codec costs beyond the transport.

An actor-like process sends fragments to a server process, which parses and checks each one and
copies it into a preallocated batch, as the learner does, and acknowledges it. The bare stream
carries messages of the same size, made once, with identity serialisers, between the same two
processes, same kind of client and server, same channel options, one round of each in turn.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import queue
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median

import grpc
import numpy as np
from grpc import aio
from vaco.channels import bind, server_options, sync_channel
from vaco.trajectory import (
    ArraySpec,
    Fragment,
    FragmentId,
    FragmentSpec,
    IncomingFragment,
    RequestReader,
    add_trajectory_servicer,
    to_requests,
    trajectory_stream,
)
from vaco.v1 import trajectory_pb2 as pb

RAW_METHOD = "/vaco.benchmark.Raw/Stream"
ROUNDS = 9
BYTES_PER_ROUND = 192 << 20
CREDITS = 16
MIB = 1 << 20


@dataclass(frozen=True)
class Case:
    """What one fragment holds."""

    name: str
    length: int
    environments: int
    observation: ArraySpec
    action: ArraySpec

    def spec(self) -> FragmentSpec:
        """Return what the learner would check."""
        observations = {"observation": self.observation}
        return FragmentSpec(observations, self.action, {}, self.length, self.environments, 1e6)


_STATE = ArraySpec((17,), "float32")
_TORQUES = ArraySpec((6,), "float32")
# HalfCheetah-like up to 2 MiB; Pong-like (four stacked greyscale frames) for what has to be framed.
CASES = (
    Case("0.25MiB", 39, 64, _STATE, _TORQUES),
    Case("1MiB", 157, 64, _STATE, _TORQUES),
    Case("2MiB", 157, 128, _STATE, _TORQUES),
    Case("14MiB", 128, 4, ArraySpec((84, 84, 4), "uint8"), ArraySpec((), "int64", (6,))),
)


def measure() -> dict[str, object]:
    """Return MB/s of both paths and their ratio for every case; medians over the rounds."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=_serve, args=(theirs,), daemon=True)
    server.start()
    port = ours.recv()
    results_ours, results_theirs = context.Pipe()
    client = context.Process(target=_client, args=(port, results_theirs), daemon=True)
    client.start()
    try:
        figures: dict[str, object] = {}
        for case in CASES:
            raw, path = results_ours.recv()
            ratio = median(p / r for p, r in zip(path, raw, strict=True))
            figures[f"trajectory.overRawGrpc.{case.name}"] = round(ratio, 3)
            figures[f"trajectory.megabytesPerSecond.{case.name}"] = round(median(path))
            figures[f"trajectory.rawMegabytesPerSecond.{case.name}"] = round(median(raw))
        figures["trajectory.overRawGrpc"] = figures["trajectory.overRawGrpc.1MiB"]
    finally:
        ours.send(None)
        client.join(10)
        server.join(10)
    return figures


def make_fragment(case: Case, sequence: int) -> Fragment:
    """Return a fragment of random numbers, as the actor's rollout buffers would hold them."""
    rng = np.random.default_rng(sequence)
    steps = (case.length, case.environments)
    more = (case.length + 1, case.environments)
    done = rng.random(steps) < 0.01
    start = np.zeros(more, np.bool_)
    if case.observation.dtype == "uint8":
        observations = rng.integers(0, 256, more + case.observation.shape, np.uint8)
        actions = rng.integers(0, 6, steps)
    else:
        observations = rng.standard_normal(more + case.observation.shape, np.float32)
        actions = rng.standard_normal(steps + case.action.shape, np.float32)
    return Fragment(
        id=FragmentId("job", "actor-0", 1, sequence),
        weights_incarnation=1,
        observations={"observation": observations},
        actions=actions,
        rewards=rng.standard_normal(steps, np.float32),
        terminated=done,
        truncated=np.zeros(steps, np.bool_),
        valid=np.ones(steps, np.bool_),
        behaviour_logp=rng.standard_normal(steps, np.float32),
        versions=np.full(case.length, 3, np.int64),
        episode_start=start,
        final_observations={},
        final_steps=np.zeros(0, np.int32),
        core_state={},
        return_carry=np.zeros(case.environments, np.float32),
        episode_returns=np.zeros(0, np.float32),
        episode_lengths=np.zeros(0, np.int32),
        rollout_seconds=0.1,
    )


class _Batch:
    """Preallocated room for one fragment, as `collate` has it for a whole batch."""

    def __init__(self, case: Case) -> None:
        fragment = make_fragment(case, 1)
        self.arrays = [np.empty_like(array) for array in _arrays(fragment)]

    def put(self, fragment: Fragment) -> None:
        for target, source in zip(self.arrays, _arrays(fragment), strict=True):
            np.copyto(target, source)


def _arrays(fragment: Fragment) -> list[np.ndarray]:
    return [
        *fragment.observations.values(),
        fragment.actions,
        fragment.rewards,
        fragment.terminated,
        fragment.truncated,
        fragment.valid,
        fragment.behaviour_logp,
        fragment.episode_start,
    ]


class _Learner:
    """Takes fragments in as the learner does, without training on them."""

    def __init__(self) -> None:
        self._batches = {(c.length, c.environments): (c.spec(), _Batch(c)) for c in CASES}

    async def StreamTrajectories(  # noqa: N802 - gRPC's name
        self, requests: AsyncIterator[bytes], _context: object
    ) -> AsyncIterator[pb.StreamTrajectoriesResponse]:
        reader = RequestReader()
        async for request in requests:
            incoming = reader.read(request)
            if not isinstance(incoming, IncomingFragment):
                continue
            fragment = Fragment.decode(incoming)
            spec, batch = self._batches[fragment.length, fragment.environments]
            spec.check(fragment)
            batch.put(fragment)
            ack = pb.Ack(sequence=fragment.id.sequence, fate=pb.FATE_TRAINED)
            yield pb.StreamTrajectoriesResponse(ack=ack)


async def _raw(request_iterator: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
    received = 0
    async for request in request_iterator:
        received += len(request)
    yield str(received).encode()


def _serve(connection: Connection) -> None:
    asyncio.run(_serve_async(connection))


async def _serve_async(connection: Connection) -> None:
    server = aio.server(options=server_options())
    add_trajectory_servicer(_Learner(), server)
    service, method = RAW_METHOD.strip("/").split("/")
    raw = grpc.stream_stream_rpc_method_handler(_raw)
    handler = grpc.method_handlers_generic_handler(service, {method: raw})
    server.add_generic_rpc_handlers((handler,))
    port = bind(server, "127.0.0.1:0")
    await server.start()
    connection.send(port)
    await asyncio.get_running_loop().run_in_executor(None, connection.recv)
    await server.stop(1)


def _client(port: int, results: Connection) -> None:
    with sync_channel(f"127.0.0.1:{port}") as channel:
        for case in CASES:
            fragments = [make_fragment(case, n) for n in range(1, 5)]
            messages = to_requests(fragments[0])
            size = sum(len(m) for m in messages)
            count = max(BYTES_PER_ROUND // size, 4)
            raw, path = [], []
            for _ in range(ROUNDS):
                raw.append(size * count / _time_raw(channel, messages, count) / 1e6)
                path.append(size * count / _time_path(channel, fragments, count) / 1e6)
            results.send((raw, path))


def _time_raw(channel: grpc.Channel, messages: list[bytes], count: int) -> float:
    call = channel.stream_stream(RAW_METHOD)
    started = time.perf_counter()
    responses = list(call(m for _ in range(count) for m in messages))
    assert int(responses[0]) == count * sum(len(m) for m in messages)
    return time.perf_counter() - started


def _time_path(channel: grpc.Channel, fragments: list[Fragment], count: int) -> float:
    granted: queue.Queue[None] = queue.Queue()
    for _ in range(CREDITS):
        granted.put(None)

    def requests() -> Iterator[bytes]:
        for n in range(count):
            granted.get()
            yield from to_requests(fragments[n % len(fragments)])

    started = time.perf_counter()
    acks = 0
    for _ in trajectory_stream(channel)(requests()):
        granted.put(None)
        acks += 1
    assert acks == count
    return time.perf_counter() - started


if __name__ == "__main__":
    for key, value in measure().items():
        print(f"{key:44} {value}")
