"""One actor's open stream, from the learner's side.

Lives in the ingest thread's event loop. What is sent is queued and written by one task; the stream
ends when the reader is through, the writer fails, or somebody calls `end`.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

import grpc
from vaco.v1 import trajectory_pb2 as pb

from vaco_learner.admission import Settlement
from vaco_learner.roster import Actor

MAX_OUTGOING: Final = 16_384
MAX_TOLD_AT_ONCE: Final = 64
"""Fates in one message; what a message costs is a system call at either end, and two wake-ups."""
_COMPLAINTS: Final = 10
_COMPLAINTS_THEN_EVERY: Final = 1000


@dataclass(frozen=True, slots=True)
class Ending:
    """How a stream ends.

    Attributes:
        code: OK, UNAVAILABLE or ABORTED if the actor may come back, anything else if it must not.
        details: why.

    """

    code: grpc.StatusCode
    details: str = ""


class StreamEndedError(Exception):
    """The stream has to end."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.ending = Ending(code, details)


class Session:
    """The stream of one actor incarnation.

    A fragment may come if the actor can have believed that it had a credit for it. It learns of
    fewer credits no later than of the fates that are told after them; so what it may send, counted
    from the stream's beginning, is the most that answers and credits ever added up to.

    Attributes:
        actor: its account.
        incarnation: the one that opened this stream.
        credits: fragments that it may have in flight.
        ended: resolves when somebody ended the stream.

    """

    def __init__(self, actor: Actor, credits_granted: int) -> None:
        self.actor = actor
        self.incarnation = actor.incarnation
        self.credits = credits_granted
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()
        self._outgoing: deque[pb.StreamTrajectoriesResponse] = deque()
        self._wake = asyncio.Event()
        self._finished = False
        self._refused = 0
        self._received = 0
        self._answered = 0
        self._allowed = credits_granted
        self._unanswered: set[int] = set()

    @property
    def in_flight(self) -> int:
        """Fragments that came on this stream and were not answered."""
        return self._received - self._answered

    def received(self, sequence: int) -> None:
        """Count a fragment.

        Raises:
            StreamEndedError: the actor cannot have had a credit for it.

        """
        self._received += 1
        self._unanswered.add(sequence)
        if self._received > self._allowed:
            raise StreamEndedError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"fragment {sequence}: {self.in_flight} are in flight, of {self.credits} granted",
            )

    def complaint_is_due(self) -> bool:
        """Count a fragment that was not taken; return whether to log it: not each of thousands."""
        self._refused += 1
        return self._refused <= _COMPLAINTS or self._refused % _COMPLAINTS_THEN_EVERY == 0

    def end(self, code: grpc.StatusCode, details: str = "") -> None:
        """End the stream; what was not written is dropped. The first call counts."""
        if not self.ended.done():
            self.ended.set_result(Ending(code, details))
        self._outgoing.clear()
        self.finish()

    def finish(self) -> None:
        """Let the stream end, as soon as everything queued is written."""
        self._finished = True
        self._wake.set()

    def welcome(self, learner_incarnation: int, version: int) -> None:
        """Queue the answer to Hello."""
        self._send(
            pb.StreamTrajectoriesResponse(
                welcome=pb.Welcome(
                    learner_incarnation=learner_incarnation,
                    version=version,
                    credits=self.credits,
                )
            )
        )

    def grant(self, granted: int) -> None:
        """Queue a change of the credits, if it is one."""
        if granted != self.credits:
            self.credits = granted
            self._allowed = max(self._allowed, self._answered + granted)
            grant = pb.CreditGrant(credits=granted)
            self._send(pb.StreamTrajectoriesResponse(credit_grant=grant))

    def acknowledge(self, settlements: Sequence[Settlement]) -> None:
        """Queue fragments' fates, to be told in as few messages as may be."""
        acks = [self._ack(settlement) for settlement in settlements]
        for first in range(0, len(acks), MAX_TOLD_AT_ONCE):
            told = acks[first : first + MAX_TOLD_AT_ONCE]
            if len(told) == 1:
                self._send(pb.StreamTrajectoriesResponse(ack=told[0]))
            else:
                self._send(pb.StreamTrajectoriesResponse(acks=pb.Acks(acks=told)))

    def _ack(self, settlement: Settlement) -> pb.Ack:
        if settlement.sequence in self._unanswered:
            self._unanswered.remove(settlement.sequence)
            self._answered += 1
            self._allowed = max(self._allowed, self._answered + self.credits)
        return pb.Ack(
            sequence=settlement.sequence,
            fate=settlement.fate.value,
            reason=settlement.reason,
        )

    def request_evaluation(self, request: pb.EvaluationRequest) -> None:
        """Queue the wish for an evaluation."""
        self._send(pb.StreamTrajectoriesResponse(evaluation_request=request))

    def farewell(self) -> None:
        """Queue the farewell, after which the stream ends."""
        self._send(pb.StreamTrajectoriesResponse(farewell=pb.Farewell()))
        self.finish()

    async def outgoing(self) -> AsyncIterator[pb.StreamTrajectoriesResponse]:
        """Yield what is to be written, until `finish` and all of it."""
        while True:
            while self._outgoing:
                yield self._outgoing.popleft()
            if self._finished:
                return
            self._wake.clear()
            await self._wake.wait()

    def _send(self, response: pb.StreamTrajectoriesResponse) -> None:
        if self._finished:
            return
        if len(self._outgoing) >= MAX_OUTGOING:
            self.end(grpc.StatusCode.RESOURCE_EXHAUSTED, "the actor does not read its stream")
            return
        self._outgoing.append(response)
        self._wake.set()
