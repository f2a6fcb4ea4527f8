"""A session tells fates in few messages, each of a bounded size, and in order."""

import asyncio

from vaco.v1 import trajectory_pb2 as pb
from vaco_learner.admission import Settlement
from vaco_learner.deliveries import DeliveryLog
from vaco_learner.ledger import Fate
from vaco_learner.roster import Actor
from vaco_learner.session import MAX_TOLD_AT_ONCE, Session


def told(number: int) -> list[pb.StreamTrajectoriesResponse]:
    """Return what a session sends when so many fates are settled at once."""

    async def play() -> list[pb.StreamTrajectoriesResponse]:
        session = Session(Actor("actor-0", 1, DeliveryLog()), number)
        for sequence in range(number):
            session.received(sequence)
        settlements = [Settlement("actor-0", 1, n, Fate.STALE, "late") for n in range(number)]
        session.acknowledge(settlements)
        assert session.in_flight == 0
        session.finish()
        return [response async for response in session.outgoing()]

    return asyncio.run(play())


def test_one_fate_is_a_message_of_its_own() -> None:
    (response,) = told(1)
    assert response.ack == pb.Ack(sequence=0, fate=pb.FATE_STALE, reason="late")


def test_fates_told_together_keep_their_order_and_a_bound() -> None:
    first, second, last = told(2 * MAX_TOLD_AT_ONCE + 1)
    assert len(first.acks.acks) == len(second.acks.acks) == MAX_TOLD_AT_ONCE
    sequences = [ack.sequence for part in (first, second) for ack in part.acks.acks]
    assert [*sequences, last.ack.sequence] == list(range(2 * MAX_TOLD_AT_ONCE + 1))
