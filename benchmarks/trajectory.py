"""The trajectory path against a bare gRPC stream: what our codec costs beyond the transport.

An actor-like process makes messages of fragments and streams them to a learner-like process, which
takes each message apart, checks the fragment and copies it into a preallocated batch. The bare
stream carries the same messages, made beforehand, with identity serialisers and nobody who looks
into them; between the same two processes, by the same kind of client and server, with the same
options. A round of one follows a round of the other; a figure is the median over all rounds.

`overRawGrpc` is the ratio of MB/s, path over raw, of 1 MiB messages; with `.acknowledged` each
fragment is also answered, as the learner does, which the bare stream is not.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median
from typing import Any

import grpc
import numpy as np
from grpc import aio
from vaco.allocator import keep_freed_memory
from vaco.channels import aio_channel, bind, server_options
from vaco.tensors import Array
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
RAW = "raw"
SILENT = "silent"
ACKNOWLEDGED = "acknowledged"
ROUNDS = 15
BYTES_PER_ROUND = 64 << 20
# Enough for the messages of a round not to stay in a core's own cache, as a rollout's would not.
FRAGMENTS = 8
CREDITS = 16


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
    Case("1MiB", 156, 64, _STATE, _TORQUES),
    Case("2MiB", 156, 128, _STATE, _TORQUES),
    Case("14MiB", 128, 4, ArraySpec((84, 84, 4), "uint8"), ArraySpec((), "int64", (6,))),
)


def measure() -> dict[str, object]:
    """Return the ratio and the MB/s of path and bare stream for every size of message."""
    context = multiprocessing.get_context("spawn")
    control, server_end = context.Pipe()
    server = context.Process(target=_serve, args=(server_end,), daemon=True)
    server.start()
    results, client_end = context.Pipe(duplex=False)
    client = context.Process(target=_act, args=(control.recv(), client_end), daemon=True)
    client.start()
    client_end.close()
    figures: dict[str, object] = {}
    try:
        for case in CASES:
            figures |= _figures(case.name, results.recv())
    finally:
        control.send(None)
        client.join(10)
        server.join(10)
    ours = figures["trajectory.overRawGrpc.1MiB"]
    return {"trajectory.overRawGrpc": ours, **figures}


def _figures(name: str, rounds: dict[str, list[float]]) -> dict[str, object]:
    raw, path, acknowledged = rounds[RAW], rounds[SILENT], rounds[ACKNOWLEDGED]
    return {
        f"trajectory.overRawGrpc.{name}": _median_ratio(path, raw),
        f"trajectory.overRawGrpc.{name}.acknowledged": _median_ratio(acknowledged, raw),
        f"trajectory.megabytesPerSecond.{name}": round(median(path)),
        f"trajectory.rawMegabytesPerSecond.{name}": round(median(raw)),
    }


def _median_ratio(ours: list[float], theirs: list[float]) -> float:
    return round(median(a / b for a, b in zip(ours, theirs, strict=True)), 3)


def make_fragment(case: Case, sequence: int) -> Fragment:
    """Return a fragment of random numbers, as the actor's rollout buffers would hold them."""
    rng = np.random.default_rng(sequence)
    steps = (case.length, case.environments)
    more = (case.length + 1, case.environments)
    done = rng.random(steps) < 0.01
    start = np.zeros(more, np.bool_)
    observations: Array
    actions: Array
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


def _arrays(fragment: Fragment) -> list[Array]:
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
        acknowledged = False
        taken = 0
        async for data in requests:
            request = reader.read(data)
            if isinstance(request, IncomingFragment):
                self._take(request)
                taken += 1
                if acknowledged:
                    yield _ack(taken)
            elif request is not None:
                acknowledged = request.hello.spaces_json == ACKNOWLEDGED
        if not acknowledged:
            yield _ack(taken)

    def _take(self, incoming: IncomingFragment) -> None:
        fragment = Fragment.decode(incoming)
        spec, batch = self._batches[fragment.length, fragment.environments]
        spec.check(fragment)
        batch.put(fragment)


def _ack(sequence: int) -> pb.StreamTrajectoriesResponse:
    return pb.StreamTrajectoriesResponse(ack=pb.Ack(sequence=sequence, fate=pb.FATE_TRAINED))


async def _raw(requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
    received = 0
    async for request in requests:
        received += len(request)
    yield str(received).encode()


def _serve(control: Connection) -> None:
    keep_freed_memory()
    asyncio.run(_serve_until_told(control))


async def _serve_until_told(control: Connection) -> None:
    server = aio.server(options=server_options())
    add_trajectory_servicer(_Learner(), server)
    service, method = RAW_METHOD.strip("/").split("/")
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(_raw)
    generic = grpc.method_handlers_generic_handler(service, {method: handler})
    server.add_generic_rpc_handlers((generic,))
    port = bind(server, "127.0.0.1:0")
    await server.start()
    control.send(port)
    await asyncio.get_running_loop().run_in_executor(None, control.recv)
    await server.stop(1)


def _act(port: int, results: Connection) -> None:
    keep_freed_memory()
    asyncio.run(_measure_cases(f"127.0.0.1:{port}", results))


async def _measure_cases(target: str, results: Connection) -> None:
    async with aio_channel(target) as channel:
        for case in CASES:
            results.send(await _measure_case(channel, case))


async def _measure_case(channel: aio.Channel, case: Case) -> dict[str, list[float]]:
    """Return MB/s of every round of everything that is compared."""
    fragments = [make_fragment(case, sequence) for sequence in range(1, FRAGMENTS + 1)]
    messages = [to_requests(fragment) for fragment in fragments]
    size = sum(map(len, messages[0]))
    count = max(BYTES_PER_ROUND // size, 4)
    rounds: dict[str, list[float]] = {RAW: [], SILENT: [], ACKNOWLEDGED: []}
    for _ in range(ROUNDS):
        seconds = await _time_raw(channel, messages, count)
        rounds[RAW].append(size * count / seconds / 1e6)
        for mode in (SILENT, ACKNOWLEDGED):
            seconds = await _time_path(channel, fragments, count, mode)
            rounds[mode].append(size * count / seconds / 1e6)
    # The first round warms everything up.
    return {name: speeds[1:] for name, speeds in rounds.items()}


async def _time_raw(channel: aio.Channel, messages: list[list[bytes]], count: int) -> float:
    sent = [piece for n in range(count) for piece in messages[n % len(messages)]]
    stream: Any = channel.stream_stream(RAW_METHOD)
    started = time.perf_counter()
    call = stream()
    for message in sent:
        await call.write(message)
    await call.done_writing()
    received = await call.read()
    seconds = time.perf_counter() - started
    assert int(received) == sum(map(len, sent))
    return seconds


async def _time_path(
    channel: aio.Channel, fragments: list[Fragment], count: int, mode: str
) -> float:
    granted = asyncio.Semaphore(CREDITS if mode == ACKNOWLEDGED else count)
    started = time.perf_counter()
    call = trajectory_stream(channel)()
    answers = asyncio.create_task(_last_answer(call, granted))
    await call.write(pb.StreamTrajectoriesRequest(hello=pb.Hello(spaces_json=mode)))
    for n in range(count):
        await granted.acquire()
        for request in to_requests(fragments[n % len(fragments)]):
            await call.write(request)
    await call.done_writing()
    last = await answers
    seconds = time.perf_counter() - started
    assert last == count
    return seconds


async def _last_answer(call: Any, granted: asyncio.Semaphore) -> int:
    last = 0
    while (response := await call.read()) is not aio.EOF:
        last = response.ack.sequence
        granted.release()
    return last


if __name__ == "__main__":
    for key, value in measure().items():
        print(f"{key:48} {value}")
