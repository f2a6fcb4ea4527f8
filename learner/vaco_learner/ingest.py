"""Ingest: the learner's end of the actors' streams.

    Hello --> known job? same contract? --> [policy exists] --> newest incarnation? --> Welcome
    Trajectory, frames --> [buffer has room] --> Admission --> Ack, now or when it is trained
    Goodbye --> everything before it is in our hands --> Farewell

Runs in the ingest thread's event loop. Where a bracket waits, the stream is not read, and gRPC's
flow control makes the actor wait too.
"""

import asyncio
import logging
from typing import Final, TypeAlias

import grpc
from grpc import aio
from vaco.errors import UserError
from vaco.trajectory import IncomingExperience, MalformedFragment, RequestReader
from vaco.v1 import trajectory_pb2 as pb

from vaco_learner.admission import Admission
from vaco_learner.contract_gate import ContractGate, ContractRefusedError
from vaco_learner.control import Control
from vaco_learner.hub import Hub
from vaco_learner.ledger import Fate
from vaco_learner.progress import Progress
from vaco_learner.roster import ActorFencedError, ActorRefusedError
from vaco_learner.session import Session, StreamEndedError

_LOG = logging.getLogger(__name__)

HELLO_SECONDS: Final = 30.0
# How long the end of a stream waits for the message that is being written.
LAST_WRITE_SECONDS: Final = 5.0
MAX_REJECTIONS: Final = 20
"""Fragments of one actor that are rejected in a row; then the job fails rather than go nowhere."""
_MAX_FAILURE_CHARACTERS: Final = 4096

Context: TypeAlias = aio.ServicerContext[bytes, pb.StreamTrajectoriesResponse]


class TrajectoryServicer:
    """Serves the streams.

    Args:
        job_uid: actors of another job are refused.
        gate: where the contract is agreed on.
        hub: what the services share.
        progress: is told of the first fragment.
        control: is told when the job cannot succeed: an actor says so, or makes nothing of use.

    """

    def __init__(
        self, job_uid: str, gate: ContractGate, hub: Hub, progress: Progress, control: Control
    ) -> None:
        self._job_uid = job_uid
        self._gate = gate
        self._hub = hub
        self._progress = progress
        self._control = control

    async def StreamTrajectories(  # noqa: N802 - as the service is defined
        self, _requests: object, context: Context
    ) -> None:
        """Serve one actor until it leaves, is superseded, or the learner ends."""
        try:
            hello = await self._hello(context)
            intake = await self._hub.intake()
            # The learner may have settled it meanwhile.
            self._gate.agree(hello.actor_id, hello.spaces_json)
            actor = intake.admission.connect(hello.actor_id, hello.actor_incarnation)
        except StreamEndedError as error:
            await context.abort(error.ending.code, error.ending.details)
        except ActorFencedError as error:
            _LOG.warning("an actor is refused: %s", error)
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, str(error))
        except (ActorRefusedError, ContractRefusedError, UserError) as error:
            _LOG.warning("an actor is refused: %s", error)
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        session = self._hub.connect(actor)
        newest = self._hub.newest
        session.welcome(intake.incarnation, intake.version if newest is None else newest.version)
        self._hub.connected()
        if self._hub.complete:
            session.farewell()
        _LOG.info("%s (incarnation %d) is connected", actor.actor_id, session.incarnation)
        try:
            await self._serve(session, intake.admission, context)
        finally:
            if self._hub.disconnect(session):
                intake.admission.disconnect(actor)
            _LOG.info("%s (incarnation %d) is gone", actor.actor_id, session.incarnation)

    async def _hello(self, context: Context) -> pb.Hello:
        """Read the first message; what is returned is of this job and brings a contract."""
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                request = await _next(context)
        except TimeoutError:
            raise StreamEndedError(
                grpc.StatusCode.DEADLINE_EXCEEDED, f"no Hello within {HELLO_SECONDS:g} s"
            ) from None
        message = None if request is None else _parse(RequestReader(), request)
        if not isinstance(message, pb.StreamTrajectoriesRequest) or not message.HasField("hello"):
            raise _invalid("a stream begins with Hello")
        hello = message.hello
        if hello.job_uid != self._job_uid:
            raise StreamEndedError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"this is the learner of job {self._job_uid}, not of {hello.job_uid[:253]}",
            )
        self._gate.agree(hello.actor_id[:253], hello.spaces_json)
        return hello

    async def _serve(self, session: Session, admission: Admission, context: Context) -> None:
        reader = asyncio.create_task(self._read(session, admission, context))
        writer = asyncio.create_task(_write(session, context))
        tasks = {reader, writer}
        try:
            waiting: set[asyncio.Future[object]] = {*tasks, session.ended}  # type: ignore[arg-type]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if reader.done() and not session.ended.done():
                reader.result()
                session.finish()
                await asyncio.wait({writer, session.ended}, return_when=asyncio.FIRST_COMPLETED)  # type: ignore[type-var]
            if session.ended.done():
                ending = session.ended.result()
                raise StreamEndedError(ending.code, ending.details)
        except StreamEndedError as error:
            session.end(error.ending.code, error.ending.details)
            # gRPC takes no status while a message is being written.
            await asyncio.wait({writer}, timeout=LAST_WRITE_SECONDS)
            await context.abort(error.ending.code, error.ending.details)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, session: Session, admission: Admission, context: Context) -> None:
        """Read until Goodbye, a failure, or the end of the stream."""
        reader = RequestReader()
        while (request := await _next(context)) is not None:
            message = _parse(reader, request)
            if message is None:
                continue
            if not isinstance(message, pb.StreamTrajectoriesRequest):
                await self._take(session, admission, message)
            elif message.HasField("evaluation_result"):
                self._hub.desk.result(session, message.evaluation_result)
            elif message.HasField("failure"):
                self._fail(session, message.failure)
                return
            elif message.HasField("goodbye"):
                session.farewell()
                return
            else:
                raise _invalid(f"{message.WhichOneof('message')} is not expected here")

    async def _take(
        self, session: Session, admission: Admission, message: IncomingExperience
    ) -> None:
        session.received(message.head.id.sequence)
        await self._hub.room(admission)
        if session.ended.done():
            return
        settlement = admission.offer(session.actor, message)
        if settlement is None:
            self._progress.fragment_admitted()
            self._hub.taken(session)
            return
        if settlement.fate is not Fate.DUPLICATE and session.complaint_is_due():
            _LOG.warning(
                "%s: fragment %d is %s: %s",
                settlement.actor_id,
                settlement.sequence,
                settlement.fate.name.lower(),
                settlement.reason,
            )
        session.acknowledge([settlement])
        if session.actor.rejections >= MAX_REJECTIONS:
            self._control.fail(
                f"{settlement.actor_id}: {session.actor.rejections} fragments in a row were"
                f" rejected, the last one because of {settlement.reason}. Give all actors the"
                " learner's version of vaco, and the job's own environment."
            )

    def _fail(self, session: Session, failure: pb.ActorFailure) -> None:
        told = f"{session.actor.actor_id}: {failure.message[:_MAX_FAILURE_CHARACTERS]}"
        if failure.permanent:
            self._control.fail(told)
        else:
            _LOG.warning("an actor gives up, another may do better: %s", told)


async def _next(context: Context) -> bytes | None:
    """Read a request; None: the actor closed its side."""
    request: object = await context.read()
    return request if isinstance(request, bytes) else None


def _parse(
    reader: RequestReader, request: bytes
) -> pb.StreamTrajectoriesRequest | IncomingExperience | None:
    try:
        return reader.read(request)
    except MalformedFragment as error:
        raise _invalid(str(error)) from error


async def _write(session: Session, context: Context) -> None:
    async for response in session.outgoing():
        await context.write(response)


def _invalid(details: str) -> StreamEndedError:
    return StreamEndedError(grpc.StatusCode.INVALID_ARGUMENT, details)
