"""The learner's end of the trajectory path, and beside it that of a bare stream.

The path is the product's: its servicer, its admission, its buffer, and a thread that takes batches
from it, collates them and has every fragment acknowledged, as the training thread does. Only the
training is left out. For the codec alone, fragments are parsed, checked, copied into a batch and
answered in the loop of the server, without credits, ledger, buffer and a second thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from multiprocessing.connection import Connection
from typing import Any, Final

import grpc
from grpc import aio
from vaco.allocator import keep_freed_memory
from vaco.channels import bind, server_options
from vaco.trajectory import (
    Fragment,
    FragmentSpec,
    IncomingFragment,
    RequestReader,
    add_trajectory_servicer,
)
from vaco.v1 import trajectory_pb2 as pb
from vaco_learner.admission import Admission
from vaco_learner.batch import collate
from vaco_learner.buffer import FragmentBuffer
from vaco_learner.contract_gate import ContractGate
from vaco_learner.control import Control
from vaco_learner.credits import Capacity
from vaco_learner.evaluation_desk import EvaluationOutcome
from vaco_learner.hub import Hub, Intake
from vaco_learner.ingest import TrajectoryServicer
from vaco_learner.ledger import Ledger
from vaco_learner.lineage import Incarnation, Lineage
from vaco_learner.progress import Progress
from vaco_learner.roster import Roster

from benchmarks.fragments import JOB, Case

RAW_METHOD: Final = "/vaco.benchmark.Raw/Stream"
CODEC_METHOD: Final = "/vaco.benchmark.Codec/Stream"
# How many of a bare stream's messages are answered together: `per-answer` in its metadata.
PER_ANSWER: Final = "per-answer"
BATCH_FRAGMENTS: Final = 4
BUFFER_BATCHES: Final = 2
_NEWEST_VERSION: Final = 100


def serve(case: Case, control: Connection) -> None:
    """Serve one case, in a process of its own, until the other end of `control` says something."""
    keep_freed_memory()
    asyncio.run(_serve(case, control))


async def _serve(case: Case, control: Connection) -> None:
    loop = asyncio.get_running_loop()
    batch = BATCH_FRAGMENTS * case.samples
    in_flight = (BUFFER_BATCHES + 1) * BATCH_FRAGMENTS + 1
    hub = Hub(Capacity(batch, BUFFER_BATCHES * batch, in_flight, 2 * in_flight), _ignore)
    buffer = FragmentBuffer(
        BUFFER_BATCHES * batch,
        2 * in_flight,
        in_flight * case.spec().max_bytes,
        lambda: _soon(loop, hub.room_made),
    )
    lineage = Lineage((Incarnation(1, 0, 0),))
    admission = Admission(
        JOB, case.spec(), lineage, lambda: _NEWEST_VERSION, Ledger(), Roster(), buffer
    )
    servicer = TrajectoryServicer(
        JOB, ContractGate(case.spaces.to_json()), hub, Progress(), Control()
    )
    server = aio.server(options=server_options())
    add_trajectory_servicer(servicer, server)
    _add(server, RAW_METHOD, _raw)
    _add(server, CODEC_METHOD, _Codec(case.spec()).stream)
    port = bind(server, "127.0.0.1:0")
    hub.open(Intake(admission, 1, _NEWEST_VERSION))
    ended = threading.Event()
    trainer = threading.Thread(target=_train, args=(buffer, admission, hub, loop, batch, ended))
    trainer.start()
    await server.start()
    control.send(port)
    await loop.run_in_executor(None, control.recv)
    await server.stop(1)
    ended.set()
    trainer.join()


def _ignore(_outcome: EvaluationOutcome) -> None:
    """No evaluation is asked for."""


def _soon(loop: asyncio.AbstractEventLoop, function: Any, *arguments: object) -> None:
    loop.call_soon_threadsafe(function, *arguments)


def _train(
    buffer: FragmentBuffer,
    admission: Admission,
    hub: Hub,
    loop: asyncio.AbstractEventLoop,
    batch: int,
    ended: threading.Event,
) -> None:
    while not ended.is_set():
        fragments = buffer.take(batch, 0.1)
        if fragments:
            collate(fragments)
            settlements = admission.trained(fragments, [0.0] * len(fragments), filtered=0)
            _soon(loop, hub.acknowledge, settlements)


def _add(server: aio.Server, path: str, behaviour: Any) -> None:
    service, method = path.strip("/").split("/")
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(behaviour)
    generic = grpc.method_handlers_generic_handler(service, {method: handler})
    server.add_generic_rpc_handlers((generic,))


async def _raw(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
    """Answer as often, and as much, as the learner does; look at nothing."""
    per_answer = int(dict(context.invocation_metadata())[PER_ANSWER])
    received = 0
    async for _request in requests:
        received += 1
        if received % per_answer == 0:
            yield _answer(received)


class _Codec:
    """Takes fragments in and answers each, a batch at a time."""

    def __init__(self, spec: FragmentSpec) -> None:
        self._spec = spec

    async def stream(self, requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
        reader = RequestReader()
        fragments: list[Fragment] = []
        async for request in requests:
            incoming = reader.read(request)
            if not isinstance(incoming, IncomingFragment):
                continue
            fragment = Fragment.decode(incoming)
            self._spec.check(fragment)
            fragments.append(fragment)
            if len(fragments) == BATCH_FRAGMENTS:
                collate(fragments)
                for settled in fragments:
                    yield _answer(settled.id.sequence)
                fragments.clear()


def _answer(sequence: int) -> bytes:
    ack = pb.Ack(sequence=sequence, fate=pb.FATE_TRAINED)
    return pb.StreamTrajectoriesResponse(ack=ack).SerializeToString()
