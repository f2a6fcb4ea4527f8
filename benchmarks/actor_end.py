"""The actor's end of the trajectory path, and beside it that of a bare stream.

The path is the product's: fragments are handed to the outbox in the main thread, as a rollout does,
and its stream carries them in the link's. The bare stream has all its messages made beforehand; for
the codec alone each is made right before it is written.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import threading
import time
from collections.abc import Iterable, Iterator
from itertools import count
from multiprocessing.connection import Connection
from typing import Any, Final

from grpc import aio
from vaco.allocator import keep_freed_memory
from vaco.channels import aio_channel
from vaco.trajectory import Fragment, to_requests
from vaco.v1 import trajectory_pb2 as pb
from vaco_actor.backoff import Backoff, BackoffSettings
from vaco_actor.mailbox import Mailbox
from vaco_actor.outbox import Fate, Outbox
from vaco_actor.stream import Learner, TrajectoryStream

from benchmarks.fragments import ACTOR, JOB, Case, make_fragment
from benchmarks.learner_end import BATCH_FRAGMENTS, CODEC_METHOD, PER_ANSWER, RAW_METHOD

RAW: Final = "raw"
CODEC: Final = "codec"
PATH: Final = "path"
BYTES_PER_ROUND: Final = 64 << 20
# Enough for the messages of a round not to stay in a core's own cache, as a rollout's would not.
FRAGMENTS: Final = 8
_LEAST_PER_ROUND: Final = 4 * BATCH_FRAGMENTS
_STUCK_SECONDS: Final = 60.0


def act(case: Case, port: int, rounds: int, results: Connection) -> None:
    """Send the MB/s of every round of either, in a process of its own."""
    keep_freed_memory()
    target = f"127.0.0.1:{port}"
    fragments = [make_fragment(case, seed) for seed in range(FRAGMENTS)]
    messages = [to_requests(fragment) for fragment in fragments]
    size = sum(map(len, messages[0]))
    number = max(BYTES_PER_ROUND // size, _LEAST_PER_ROUND) // BATCH_FRAGMENTS * BATCH_FRAGMENTS
    path = _Path(target, case, fragments)
    seconds: dict[str, list[float]] = {RAW: [], CODEC: [], PATH: []}
    with asyncio.Runner() as runner:
        channel = runner.run(_ready(target))
        # The first round warms everything up.
        for _ in range(rounds + 1):
            raw = _Bare(channel, RAW_METHOD, len(messages[0]))
            made = (messages[n % FRAGMENTS] for n in range(number))
            seconds[RAW].append(runner.run(raw.time(made, number)))
            codec = _Bare(channel, CODEC_METHOD, len(messages[0]))
            made = (to_requests(fragments[n % FRAGMENTS]) for n in range(number))
            seconds[CODEC].append(runner.run(codec.time(made, number)))
            seconds[PATH].append(path.time(number))
        runner.run(channel.close())
    path.close()
    megabytes = size * number / 1e6
    results.send({name: [megabytes / s for s in taken[1:]] for name, taken in seconds.items()})


async def _ready(target: str) -> aio.Channel:
    channel = aio_channel(target)
    await channel.channel_ready()
    return channel


class _Bare:
    """A stream with nothing around it."""

    def __init__(self, channel: aio.Channel, method: str, per_answer: int) -> None:
        self._stream: Any = channel.stream_stream(method)
        self._metadata = ((PER_ANSWER, str(per_answer)),)

    async def time(self, fragments: Iterable[list[bytes]], number: int) -> float:
        """Return the seconds until `number` fragments' messages are all sent and answered."""
        started = time.perf_counter()
        call = self._stream(metadata=self._metadata)
        answers = asyncio.create_task(_count(call))
        for messages in fragments:
            for message in messages:
                await call.write(message)
        await call.done_writing()
        answered = await answers
        seconds = time.perf_counter() - started
        assert answered == number
        return seconds


async def _count(call: Any) -> int:
    answered = 0
    while await call.read() is not aio.EOF:
        answered += 1
    return answered


class _Path:
    """An actor's outbox and stream, fed by whoever calls `time`."""

    def __init__(self, target: str, case: Case, fragments: list[Fragment]) -> None:
        self._fragments = fragments
        self._sequences: Iterator[int] = count(1)
        self._settled = threading.Semaphore(0)
        self._refused: list[Fate] = []
        self._outbox = Outbox(self._decided)
        hello = pb.Hello(
            job_uid=JOB, actor_id=ACTOR, actor_incarnation=1, spaces_json=case.spaces.to_json()
        )
        link = (Learner(target), hello)
        self._thread = threading.Thread(target=self._link, args=link, daemon=True)
        self._thread.start()

    def time(self, number: int) -> float:
        """Return the seconds until `number` fragments are made messages, sent and acknowledged."""
        started = time.perf_counter()
        for n in range(number):
            fragment = self._fragments[n % len(self._fragments)]
            identity = dataclasses.replace(fragment.id, sequence=next(self._sequences))
            assert self._outbox.wait_for_credit(_STUCK_SECONDS)
            self._outbox.submit(dataclasses.replace(fragment, id=identity))
        for _ in range(number):
            assert self._settled.acquire(timeout=_STUCK_SECONDS)
        seconds = time.perf_counter() - started
        assert not self._refused
        return seconds

    def close(self) -> None:
        """Say goodbye."""
        self._outbox.leave()
        self._thread.join(_STUCK_SECONDS)

    def _decided(self, fate: Fate) -> None:
        if fate.fate != pb.FATE_TRAINED:
            self._refused.append(fate)
        self._settled.release()

    def _link(self, learner: Learner, hello: pb.Hello) -> None:
        asyncio.run(self._stream(learner, hello))

    async def _stream(self, learner: Learner, hello: pb.Hello) -> None:
        loop = asyncio.get_running_loop()
        jitter = random.Random(0)  # noqa: S311
        backoff = Backoff(BackoffSettings(), time.monotonic, jitter)
        stream = TrajectoryStream(
            learner, hello, self._outbox, Mailbox(), backoff, lambda _request: None
        )
        self._outbox.set_wake(lambda: loop.call_soon_threadsafe(stream.wake))
        await stream.run()
