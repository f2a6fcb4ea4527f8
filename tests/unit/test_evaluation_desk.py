"""Evaluations find an actor that answers, although others are silent or slow."""

import asyncio
from collections.abc import Callable

from vaco.v1 import trajectory_pb2 as pb
from vaco_learner.deliveries import DeliveryLog
from vaco_learner.evaluation_desk import EvaluationDesk, EvaluationOutcome
from vaco_learner.roster import Actor
from vaco_learner.session import Session

SECONDS = 10.0


class Room:
    """A desk, and the sessions that it may ask."""

    def __init__(self, patience: float) -> None:
        self.outcomes: list[EvaluationOutcome] = []
        self.sessions: list[Session] = []
        self.desk = EvaluationDesk(self.outcomes.append, lambda: self.sessions, patience)

    def enter(self, name: str) -> Session:
        session = Session(Actor(name, 1, DeliveryLog()), 1)
        self.sessions.append(session)
        self.desk.assign()
        return session

    def leave(self, session: Session) -> None:
        self.sessions.remove(session)
        self.desk.left(session)


def answer(request_id: int, value: float) -> pb.EvaluationResult:
    return pb.EvaluationResult(request_id=request_id, version=3, returns=[value], lengths=[9])


def requests(session: Session) -> list[int]:
    """What the session was asked for."""
    return [response.evaluation_request.request_id for response in session._outgoing]


async def eventually(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(SECONDS):
        while not holds():  # noqa: ASYNC110 - nothing says when a timer has fired
            await asyncio.sleep(0.005)


def test_when_one_is_silent_another_is_asked() -> None:
    async def play() -> None:
        room = Room(patience=0.02)
        silent, other = room.enter("silent"), room.enter("other")
        room.desk.request(1, 7, 500)
        assert (requests(silent), requests(other)) == ([1], [])
        await eventually(lambda: requests(other))
        room.desk.result(other, answer(1, 5.0))
        assert [(o.env_steps, o.return_mean) for o in room.outcomes] == [(500, 5.0)]
        room.desk.request(1, 7, 900)
        assert requests(silent) == [1, 2]
        room.desk.close()

    asyncio.run(play())


def test_one_that_was_only_slow_is_believed_and_asked_once() -> None:
    async def play() -> None:
        room = Room(patience=0.02)
        slow, other = room.enter("slow"), room.enter("other")
        room.desk.request(1, 7, 500)
        await eventually(lambda: requests(other))
        room.desk.result(slow, answer(1, 4.0))
        room.desk.result(other, answer(1, 5.0))
        assert [o.return_mean for o in room.outcomes] == [4.0], "and the other is too late"
        assert (requests(slow), requests(other)) == ([1], [1])

    asyncio.run(play())


def test_who_comes_while_all_are_silent_is_asked_in_the_end() -> None:
    async def play() -> None:
        room = Room(patience=0.02)
        silent = room.enter("silent")
        room.desk.request(1, 7, 500)
        late = room.enter("late")
        assert requests(late) == []
        await eventually(lambda: requests(late))
        room.leave(silent)
        room.desk.result(silent, answer(1, 4.0))
        assert room.outcomes == []
        room.leave(late)
        newest = room.enter("newest")
        assert requests(newest) == [1], "nobody works on it, so it does not wait"
        room.desk.close()

    asyncio.run(play())
