"""The way of the fragments: one long-lived stream to the learner, made anew whenever it breaks.

    actor:    Hello            fragments, evaluation results ...              Goodbye
    learner:         Welcome   acks, credit grants, evaluation requests ...            Farewell

A writer and a reader share the stream. The writer sends what the outbox has, in its order, and
sleeps otherwise. The reader decides when it is over: the stream's status says whether to come back.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from grpc import aio
from vaco.channels import Security, aio_channel
from vaco.errors import UserError
from vaco.trajectory import Request, trajectory_stream
from vaco.v1 import trajectory_pb2 as pb

from vaco_actor.backoff import Backoff
from vaco_actor.ending import FENCED, PERMANENT, Ending, Outcome
from vaco_actor.mailbox import Mailbox
from vaco_actor.outbox import Outbox

_LOG = logging.getLogger(__name__)

# The learner answers Hello once its policy exists, for which it may have to read a checkpoint.
WELCOME_SECONDS: Final = 60.0
# How long the learner has to end the stream after it was told that we cannot go on.
REPORTED_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Learner:
    """Where the learner is.

    Attributes:
        target: host:port.
        security: What to prove ourselves with; None: plain text.

    """

    target: str
    security: Security | None = None


class TrajectoryStream:
    """Carries an outbox to the learner. Lives in the link's event loop.

    Args:
        learner: Where it is.
        hello: What we introduce ourselves with.
        outbox: What to send.
        mailbox: The weights that we have.
        backoff: How long to wait between two streams.
        asked: Called with every evaluation the learner asks for.

    Attributes:
        connected: Whether the learner has let us in and the stream is open.

    """

    def __init__(
        self,
        learner: Learner,
        hello: pb.Hello,
        outbox: Outbox,
        mailbox: Mailbox,
        backoff: Backoff,
        asked: Callable[[pb.EvaluationRequest], None],
    ) -> None:
        self._learner = learner
        self._hello = hello
        self._outbox = outbox
        self._mailbox = mailbox
        self.connected = False
        self._backoff = backoff
        self._asked = asked
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Have the writer look into the outbox; to be called in the event loop."""
        self._changed.set()

    async def run(self) -> Ending:
        """Keep a stream open until there is a reason not to."""
        while not self._outbox.nothing_to_keep:
            ending = await self._attempt()
            if ending is not None:
                return ending
            delay = self._backoff.delay()
            if delay is None:
                return Ending(Outcome.LOST, f"no learner at {self._learner.target} any more")
            await asyncio.sleep(delay)
        return Ending(Outcome.DRAINED)

    async def _attempt(self) -> Ending | None:
        """Hold one stream to its end; None: another one is to follow."""
        try:
            opened = aio_channel(self._learner.target, self._learner.security)
        except UserError as error:
            # Read well when we started; somebody is renewing it.
            _LOG.warning("credentials cannot be used: %s", error)
            return None
        async with opened as channel:
            call = trajectory_stream(channel)()
            try:
                return await self._converse(call)
            except TimeoutError:
                _LOG.warning("the learner did not answer Hello within %g s", WELCOME_SECONDS)
            except aio.AioRpcError as error:
                if error.code() is FENCED:
                    return Ending(Outcome.FENCED, error.details() or error.code().name)
                if error.code() in PERMANENT:
                    return Ending(Outcome.REFUSED, error.details() or error.code().name)
                _LOG.warning("the stream broke: %s: %s", error.code().name, error.details())
            finally:
                call.cancel()
        return None

    async def _converse(self, call: Any) -> Ending | None:
        async with asyncio.timeout(WELCOME_SECONDS):
            await _write(call, pb.StreamTrajectoriesRequest(hello=self._hello))
            first = await call.read()
        if first is aio.EOF:
            return None
        if first.WhichOneof("message") == "farewell":
            return Ending(Outcome.COMPLETE)
        if first.WhichOneof("message") != "welcome":
            return Ending(Outcome.REFUSED, "the learner's first message was no Welcome")
        if self._is_replaced(first.welcome.learner_incarnation):
            return None
        _LOG.info("the learner grants %d credits", first.welcome.credits)
        self._outbox.connected(first.welcome.credits)
        self.connected = True
        try:
            return await self._exchange(call)
        finally:
            self.connected = False

    def _is_replaced(self, incarnation: int) -> bool:
        """Tell whether a newer learner than this one has been seen: it is to be found instead."""
        newest = self._mailbox.newest
        if newest is None or incarnation >= newest.incarnation:
            return False
        _LOG.warning(
            "passed over the learner's incarnation %d: our weights are those of %d",
            incarnation,
            newest.incarnation,
        )
        return True

    async def _exchange(self, call: Any) -> Ending | None:
        reader = asyncio.create_task(self._read(call))
        writer = asyncio.create_task(self._send(call))
        try:
            await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
            if not reader.done():
                writer.result()
                limit = REPORTED_SECONDS if self._outbox.failed else None
                await asyncio.wait({reader}, timeout=limit)
            if reader.done() and not self._outbox.reported:
                return reader.result()
            return Ending(Outcome.REPORTED)
        finally:
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)

    async def _send(self, call: Any) -> None:
        """Write until the last message, or until the stream is broken, which the reader sees."""
        while True:
            self._changed.clear()
            while (message := self._outbox.next_message()) is not None:
                for request in message.requests:
                    if not await _write(call, request):
                        return
                self._outbox.sent(message)
                if message.last:
                    return
            await self._changed.wait()

    async def _read(self, call: Any) -> Ending | None:
        """Read until the learner ends the stream; None: it may be back."""
        while (response := await call.read()) is not aio.EOF:
            match response.WhichOneof("message"):
                case "ack":
                    self._acknowledged([response.ack])
                case "acks":
                    self._acknowledged(response.acks.acks)
                case "credit_grant":
                    self._outbox.granted(response.credit_grant.credits)
                case "evaluation_request":
                    self._asked(response.evaluation_request)
                case "farewell":
                    leaving = self._outbox.leaving
                    return Ending(Outcome.DRAINED if leaving else Outcome.COMPLETE)
                case kind:
                    return Ending(Outcome.REFUSED, f"the learner sent {kind} within the stream")
            self._changed.set()
        return None

    def _acknowledged(self, acks: Sequence[pb.Ack]) -> None:
        for ack in acks:
            if ack.fate in (pb.FATE_REJECTED, pb.FATE_STALE):
                level = logging.WARNING if ack.fate == pb.FATE_REJECTED else logging.INFO
                fate = pb.Fate.Name(ack.fate)
                _LOG.log(level, "fragment %d: %s: %s", ack.sequence, fate, ack.reason)
        self._outbox.acknowledged(acks)
        self._backoff.succeeded()


async def _write(call: Any, request: Request) -> bool:
    """Write a request; return False when the stream is over, of which its status tells more."""
    try:
        await call.write(request)
    except (aio.AioRpcError, asyncio.InvalidStateError):
        return False
    return True
