"""Credits: whoever produces fills a batch, however many others are silent, and bounds hold.

The hub, its sessions, admission and buffer are the learner's own. The test is the actors, which
obey their credits, and the training thread.
"""

import asyncio

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from vaco.trajectory import ArraySpec, Fragment, FragmentId, FragmentSpec, IncomingFragment
from vaco_learner.admission import Admission
from vaco_learner.buffer import FragmentBuffer
from vaco_learner.credits import Capacity
from vaco_learner.hub import Hub, Intake
from vaco_learner.ledger import Ledger
from vaco_learner.lineage import Lineage
from vaco_learner.roster import Roster
from vaco_learner.session import Session

T = 4
SPEC = FragmentSpec(
    {"observation": ArraySpec((2,), "float32")}, ArraySpec((), "int64"), {}, T, 1, 100.0
)


def fragment(actor: str, sequence: int, samples: int) -> bytes:
    zeros = np.zeros((T, 1), np.float32)
    valid = np.zeros((T, 1), np.bool_)
    valid[:samples] = True
    item = Fragment(
        id=FragmentId("job", actor, 1, sequence),
        weights_incarnation=1,
        observations={"observation": np.zeros((T + 1, 1, 2), np.float32)},
        actions=np.zeros((T, 1), np.int64),
        rewards=zeros,
        terminated=zeros.astype(np.bool_),
        truncated=zeros.astype(np.bool_),
        valid=valid,
        behaviour_logp=zeros,
        versions=np.zeros(T, np.int64),
        episode_start=np.zeros((T + 1, 1), np.bool_),
        final_observations={},
        final_steps=np.zeros(0, np.int32),
        core_state={},
        return_carry=np.zeros(1, np.float32),
        episode_returns=np.zeros(0, np.float32),
        episode_lengths=np.zeros(0, np.int32),
        rollout_seconds=0.1,
    )
    return b"".join(item.to_parts()[0])


class Stage:
    """A learner without its threads, and actors that obey their credits."""

    def __init__(self, batch: int, batches: int) -> None:
        in_flight = -(-(batches + 1) * batch // T) + 1
        self.capacity = Capacity(batch, batches * batch, in_flight, in_flight + 64)
        self.buffer = FragmentBuffer(
            self.capacity.queue, self.capacity.max_fragments, in_flight * SPEC.max_bytes
        )
        self.admission = Admission(
            "job", SPEC, Lineage.first(), lambda: 0, Ledger(), Roster(), self.buffer
        )
        self.hub = Hub(self.capacity, lambda _: None)
        self.hub.open(Intake(self.admission, 1, 0))
        self._sequences: dict[str, int] = {}

    def connect(self, name: str) -> Session:
        session = self.hub.connect(self.admission.connect(name, 1))
        self.hub.connected()
        return session

    def produce(self, session: Session, samples: int) -> bool:
        """Send one fragment, if there is a credit and room for it."""
        if session.in_flight >= session.credits or not self.admission.has_room:
            return False
        name = session.actor.actor_id
        sequence = self._sequences[name] = self._sequences.get(name, 0) + 1
        session.received(sequence)
        incoming = IncomingFragment.parse(fragment(name, sequence, samples))
        assert self.admission.offer(session.actor, incoming) is None
        self.hub.taken(session)
        return True

    def train(self) -> bool:
        taken = self.buffer.take(self.capacity.batch, 0)
        self.hub.acknowledge(self.admission.trained(taken, [0.0] * len(taken), 0))
        return bool(taken)


@settings(deadline=None)
@given(
    batch=st.integers(1, 40),
    batches=st.integers(1, 3),
    silent=st.integers(0, 12),
    late=st.integers(0, 12),
    samples=st.lists(st.integers(1, T), min_size=1, max_size=8),
)
def test_one_actor_that_produces_fills_every_batch(
    batch: int, batches: int, silent: int, late: int, samples: list[int]
) -> None:
    """Also when steps are hardly ever samples, and silent actors come when it is at its limit."""

    async def play() -> None:
        stage = Stage(batch, batches)
        others = [stage.connect(f"silent-{number}") for number in range(silent)]
        session = stage.connect("producer")
        for _ in range(4):
            number = 0
            while stage.produce(session, samples[number % len(samples)]):
                number += 1
            others += [stage.connect(f"late-{len(others)}-{n}") for n in range(late)]
            while stage.produce(session, samples[number % len(samples)]):
                number += 1
            assert len(stage.buffer) <= stage.capacity.max_fragments
            assert stage.train(), "nothing can come any more, and training waits"

    asyncio.run(play())


@settings(deadline=None)
@given(
    batch=st.integers(4, 40),
    actors=st.integers(1, 8),
    order=st.lists(st.integers(0, 7), min_size=50, max_size=200),
)
def test_what_is_in_flight_stays_bounded_and_shares_come_back(
    batch: int, actors: int, order: list[int]
) -> None:
    async def play() -> None:
        stage = Stage(batch, 2)
        sessions = [stage.connect(f"actor-{number}") for number in range(actors)]
        fair = stage.capacity.share(actors)
        for turn in order:
            session = sessions[turn % actors]
            before = session.credits
            stage.produce(session, T)
            if stage.buffer.samples >= batch:
                assert session.credits <= max(before, fair), "training does not wait"
            in_flight = sum(session.in_flight for session in sessions)
            # Rounding up gives each actor less than one fragment more than its share.
            assert in_flight <= stage.capacity.in_flight + actors
            if stage.buffer.samples >= stage.capacity.queue:
                stage.train()
        while stage.train():
            continue
        for session in sessions:
            assert session.credits in (fair, session.in_flight + 1)

    asyncio.run(play())
