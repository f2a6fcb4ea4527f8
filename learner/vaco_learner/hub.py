"""What the services share: who is connected, and what the training thread has let in.

Everything here lives in the ingest thread's event loop and needs no lock. The training thread
reaches it through `server.py`, in few calls per phase, each carrying many acknowledgements.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc

from vaco_learner.admission import Admission, Settlement
from vaco_learner.credits import Capacity, credits_due
from vaco_learner.evaluation_desk import EvaluationDesk, EvaluationOutcome
from vaco_learner.publisher import Published
from vaco_learner.roster import Actor
from vaco_learner.session import Ending, Session, StreamEndedError


@dataclass(frozen=True, slots=True)
class Intake:
    """What ingest needs of a learner whose policy exists.

    Attributes:
        admission: where fragments go.
        incarnation: of the learner.
        version: that it begins with.

    """

    admission: Admission
    incarnation: int
    version: int


class Hub:
    """Sessions, credits, and the newest weights.

    Args:
        capacity: how much may be in flight.
        on_evaluation: called with the outcome of every evaluation.

    """

    def __init__(
        self, capacity: Capacity, on_evaluation: Callable[[EvaluationOutcome], None]
    ) -> None:
        self.desk = EvaluationDesk(on_evaluation, lambda: self.sessions)
        self.newest: Published | None = None
        self.complete = False
        self._capacity = capacity
        self._sessions: dict[str, Session] = {}
        self._intake: asyncio.Future[Intake] = asyncio.get_running_loop().create_future()
        self._published = asyncio.Event()
        self._room = asyncio.Event()
        self._closing: Ending | None = None

    @property
    def sessions(self) -> Sequence[Session]:
        """The open streams, the oldest first."""
        return tuple(self._sessions.values())

    async def intake(self) -> Intake:
        """Wait until the policy exists.

        Raises:
            StreamEndedError: the learner ended before.

        """
        intake = await asyncio.shield(self._intake)
        if self._closing is not None:
            raise StreamEndedError(self._closing.code, self._closing.details)
        return intake

    async def room(self, admission: Admission) -> None:
        """Wait until the buffer has room. The stream is not read meanwhile: back-pressure."""
        while not admission.has_room:
            self._room.clear()
            if not admission.has_room:
                await self._room.wait()

    async def newer_than(self, incarnation: int, version: int) -> Published | None:
        """Wait for weights other than those and return the newest; None: no more will come."""
        while True:
            if self.complete or self._closing is not None:
                return None
            newest = self.newest
            known = (incarnation, version)
            if newest is not None and (newest.incarnation, newest.version) != known:
                return newest
            await self._published.wait()

    def open(self, intake: Intake) -> None:
        """Let actors in."""
        if not self._intake.done():
            self._intake.set_result(intake)

    def announce(self, published: Published) -> None:
        """Wake everyone who waits for newer weights."""
        self.newest = published
        self._wake_watchers()

    def withdraw(self, published: Published) -> None:
        """Forget a version whose buffer is being written again; a newer one will be announced."""
        if self.newest is published:
            self.newest = None

    def room_made(self) -> None:
        """Wake the streams that wait for room."""
        self._room.set()

    def connect(self, actor: Actor) -> Session:
        """Register a stream; an older one of the same actor ends."""
        superseded = self._sessions.pop(actor.actor_id, None)
        if superseded is not None:
            superseded.end(grpc.StatusCode.ABORTED, "superseded by a newer stream of this actor")
        session = Session(actor, self._capacity.share(len(self._sessions) + 1))
        self._sessions[actor.actor_id] = session
        return session

    def connected(self) -> None:
        """Follow up on a stream that was welcomed: credits change, evaluations find an actor."""
        self._share_credits()
        self.desk.assign()

    def disconnect(self, session: Session) -> bool:
        """Forget a stream; return whether its actor has no other one."""
        last = self._sessions.get(session.actor.actor_id) is session
        if last:
            del self._sessions[session.actor.actor_id]
            self._share_credits()
        self.desk.left(session)
        return last

    def taken(self, session: Session) -> None:
        """Note that a fragment of this stream was admitted."""
        self._adjust_credits(session)

    def acknowledge(self, settlements: Sequence[Settlement]) -> None:
        """Tell the actors their fragments' fates; one who is not connected will ask again."""
        of_actor: dict[tuple[str, int], list[Settlement]] = {}
        for settlement in settlements:
            key = settlement.actor_id, settlement.incarnation
            of_actor.setdefault(key, []).append(settlement)
        for session in self._sessions.values():
            told = of_actor.get((session.actor.actor_id, session.incarnation))
            if told:
                session.acknowledge(told)
            self._adjust_credits(session)

    def farewell(self) -> None:
        """Send everyone home: the job is complete."""
        self.complete = True
        for session in self.sessions:
            session.farewell()
        self._wake_watchers()

    def close(self, ending: Ending) -> None:
        """End all streams."""
        self._closing = ending
        self.desk.close()
        for session in self.sessions:
            session.end(ending.code, ending.details)
        if not self._intake.done():
            self._intake.set_exception(StreamEndedError(ending.code, ending.details))
            self._intake.exception()
        self._wake_watchers()

    def _share_credits(self) -> None:
        share = self._capacity.share(len(self._sessions))
        for session in self._sessions.values():
            session.grant(share)
            self._adjust_credits(session)

    def _adjust_credits(self, session: Session) -> None:
        share = self._capacity.share(len(self._sessions))
        starving = self._starving
        session.grant(credits_due(session.credits, session.in_flight, share, starving=starving))

    @property
    def _starving(self) -> bool:
        if not self._intake.done() or self._closing is not None:
            return False
        admission = self._intake.result().admission
        return admission.queued < self._capacity.batch and admission.has_room

    def _wake_watchers(self) -> None:
        published, self._published = self._published, asyncio.Event()
        published.set()
