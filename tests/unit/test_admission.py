"""Admission: every fragment gets its place or its fate, and none is trained twice."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from vaco.trajectory import ArraySpec, Fragment, FragmentId, FragmentSpec, IncomingFragment
from vaco.v1 import trajectory_pb2 as pb
from vaco_learner.admission import Admission, Settlement, Snapshot
from vaco_learner.buffer import FragmentBuffer
from vaco_learner.deliveries import Delivery, DeliveryLog, DeliveryRecord
from vaco_learner.ledger import Fate, Ledger, LedgerCounts
from vaco_learner.lineage import Incarnation, Lineage
from vaco_learner.roster import Actor, ActorRecord, ActorRefusedError, Roster

JOB = "job-uid"
BYTES = 1 << 30
SPEC = FragmentSpec(
    observations={"observation": ArraySpec((2,), "float32")},
    action=ArraySpec((), "int64", (3,)),
    core_state={},
    max_length=8,
    max_environments=2,
    reward_bound=100.0,
)


def fragment(
    sequence: int,
    *,
    steps: int = 4,
    version: int = 0,
    actor_id: str = "actor-0",
    incarnation: int = 1,
    learner: int = 1,
    job_uid: str = JOB,
) -> Fragment:
    zeros = np.zeros((steps, 1), np.float32)
    return Fragment(
        id=FragmentId(job_uid, actor_id, incarnation, sequence),
        weights_incarnation=learner,
        observations={"observation": np.zeros((steps + 1, 1, 2), np.float32)},
        actions=np.zeros((steps, 1), np.int64),
        rewards=zeros,
        terminated=zeros.astype(np.bool_),
        truncated=zeros.astype(np.bool_),
        valid=np.ones((steps, 1), np.bool_),
        behaviour_logp=zeros,
        versions=np.full(steps, version, np.int64),
        episode_start=np.zeros((steps + 1, 1), np.bool_),
        final_observations={},
        final_steps=np.zeros(0, np.int32),
        core_state={},
        return_carry=np.zeros(1, np.float32),
        episode_returns=np.zeros(0, np.float32),
        episode_lengths=np.zeros(0, np.int32),
        rollout_seconds=0.5,
    )


def incoming(item: Fragment) -> IncomingFragment:
    return IncomingFragment.parse(b"".join(item.to_parts()[0]))


class Desk:
    """An admission with everything it stands on."""

    def __init__(
        self,
        counts: LedgerCounts | None = None,
        actors: tuple[ActorRecord, ...] = (),
        lineage: Lineage | None = None,
        published: int = 10,
    ) -> None:
        self.ledger = Ledger(counts)
        self.roster = Roster(actors)
        self.buffer = FragmentBuffer(10_000, 10_000, BYTES)
        self.published = published
        self.admission = Admission(
            JOB,
            SPEC,
            lineage or Lineage.first(),
            lambda: self.published,
            self.ledger,
            self.roster,
            self.buffer,
        )

    def offer(self, actor: Actor, item: Fragment) -> Settlement | None:
        return self.admission.offer(actor, incoming(item))

    def train(self, samples: int) -> list[Settlement]:
        batch = self.buffer.take(samples, timeout=0)
        return self.admission.trained(batch, [0.0] * len(batch), 0)


def test_a_good_fragment_waits() -> None:
    desk = Desk()
    actor = desk.admission.connect("actor-0", 1)
    assert desk.offer(actor, fragment(1, steps=4)) is None
    assert desk.ledger.counts() == LedgerCounts(received=4, queued=4)
    assert len(desk.buffer) == 1
    assert actor.supply() == pytest.approx(4 / 0.5)


def test_its_fate_is_told_when_it_was_trained() -> None:
    desk = Desk()
    actor = desk.admission.connect("actor-0", 1)
    desk.offer(actor, fragment(1))
    batch = desk.buffer.take(4, timeout=0)
    settled = desk.admission.trained(batch, [3.0], filtered=2)
    assert settled == [Settlement("actor-0", 1, 1, Fate.TRAINED)]
    assert desk.ledger.counts() == LedgerCounts(received=4, trained=4, filtered=2)
    assert (actor.trained, list(actor.lags)) == (4, [3.0])


def test_what_is_too_old_is_stale() -> None:
    desk = Desk()
    actor = desk.admission.connect("actor-0", 1)
    desk.offer(actor, fragment(1))
    settled = desk.admission.stale(desk.buffer.take(4, timeout=0), "too old")
    assert settled == [Settlement("actor-0", 1, 1, Fate.STALE, "too old")]
    assert desk.ledger.counts() == LedgerCounts(received=4, stale=4)
    assert actor.trained == 0


def change(**fields: object) -> Callable[[Fragment], Fragment]:
    return lambda item: replace(item, **fields)  # type: ignore[arg-type]


def nan_at_the_end(shape: tuple[int, ...]) -> np.ndarray:
    array = np.zeros(shape, np.float32)
    array.reshape(-1)[-1] = np.nan
    return array


@pytest.mark.parametrize(
    ("spoil", "field"),
    [
        (change(rewards=nan_at_the_end((4, 1))), "rewards"),
        (change(rewards=np.full((4, 1), 101, np.float32)), "rewards"),
        (change(behaviour_logp=nan_at_the_end((4, 1))), "behaviour_logp"),
        (change(observations={"observation": nan_at_the_end((5, 1, 2))}), "observations"),
        (change(observations={"observation": np.zeros((5, 1, 3), np.float32)}), "observations"),
        (change(observations={"observation": np.zeros((5, 1, 2))}), "observations"),
        (change(observations={"image": np.zeros((5, 1, 2), np.float32)}), "observations"),
        (change(actions=np.zeros((4, 1), np.int32)), "actions"),
        (change(actions=np.full((4, 1), 3, np.int64)), "actions"),
        (change(actions=np.zeros((3, 1), np.int64)), "actions"),
        (change(versions=np.full(4, 11, np.int64)), "max_version"),
        (change(weights_incarnation=2), "weights_incarnation"),
        (change(rollout_seconds=float("nan")), "rollout_seconds"),
    ],
)
def test_a_bad_fragment_is_rejected_once(spoil: Callable[[Fragment], Fragment], field: str) -> None:
    desk = Desk(published=10)
    actor = desk.admission.connect("actor-0", 1)
    told = desk.offer(actor, spoil(fragment(1)))
    assert told is not None
    assert (told.fate, told.sequence) == (Fate.REJECTED, 1)
    assert told.reason.startswith(field)
    assert desk.ledger.counts() == LedgerCounts(received=4, rejected=4)
    assert len(desk.buffer) == 0
    again = desk.offer(actor, fragment(1))
    assert again is not None
    assert again.fate is Fate.DUPLICATE


def test_a_fragment_without_a_sample_is_rejected() -> None:
    """Nothing bounds how many of them would wait for training."""
    desk = Desk()
    actor = desk.admission.connect("actor-0", 1)
    told = desk.offer(actor, replace(fragment(1), valid=np.zeros((4, 1), np.bool_)))
    assert told is not None
    assert (told.fate, told.reason) == (Fate.REJECTED, "valid: none of its steps is a sample")
    assert len(desk.buffer) == 0


@pytest.mark.parametrize(
    ("item", "field"),
    [
        (fragment(1, job_uid="another"), "id.job_uid"),
        (fragment(1, actor_id="actor-1"), "id.actor_id"),
        (fragment(1, incarnation=2), "id.actor_incarnation"),
        (fragment(1, incarnation=0), "id.actor_incarnation"),
    ],
)
def test_a_fragment_of_somebody_else_is_rejected(item: Fragment, field: str) -> None:
    """And it takes no sequence number away from the actor whose stream it came on."""
    desk = Desk()
    actor = desk.admission.connect("actor-0", 1)
    told = desk.offer(actor, item)
    assert told is not None
    assert told.fate is Fate.REJECTED
    assert told.reason.startswith(field)
    assert desk.offer(actor, fragment(1)) is None
    assert desk.ledger.counts() == LedgerCounts(received=8, rejected=4, queued=4)


def test_what_a_rejected_fragment_claims_is_bounded() -> None:
    desk = Desk()
    actor = desk.admission.connect("actor-0", 1)
    message = pb.Trajectory.FromString(b"".join(fragment(1).to_parts()[0]))
    message.length, message.environments = 4_000_000, 4_000_000
    told = desk.admission.offer(actor, IncomingFragment.parse(message.SerializeToString()))
    assert told is not None
    assert told.fate is Fate.REJECTED
    assert desk.ledger.counts().rejected <= SPEC.max_length * SPEC.max_environments


def test_a_resent_fragment_that_waits_gets_no_second_answer() -> None:
    desk = Desk()
    actor = desk.admission.connect("actor-0", 1)
    desk.offer(actor, fragment(1))
    assert desk.offer(actor, fragment(1)) is None
    assert desk.ledger.counts() == LedgerCounts(received=8, queued=4, duplicate=4)
    assert len(desk.train(4)) == 1
    assert len(desk.buffer) == 0


def test_a_resent_fragment_that_was_trained_is_a_duplicate() -> None:
    desk = Desk()
    actor = desk.admission.connect("actor-0", 1)
    desk.offer(actor, fragment(1))
    desk.train(4)
    told = desk.offer(actor, fragment(1))
    assert told is not None
    assert told.fate is Fate.DUPLICATE
    assert desk.ledger.counts() == LedgerCounts(received=8, trained=4, duplicate=4)


def test_once_admission_is_closed_the_ledger_takes_in_nothing() -> None:
    desk = Desk()
    actor = desk.admission.connect("actor-0", 1)
    desk.offer(actor, fragment(1))
    desk.admission.close()
    for late in (fragment(1), fragment(2), replace(fragment(3), rewards=nan_at_the_end((4, 1)))):
        assert desk.offer(actor, late) is None
    assert desk.ledger.counts() == LedgerCounts(received=4, queued=4)
    desk.admission.stale(desk.buffer.drain(), "training is complete")
    assert desk.ledger.counts() == LedgerCounts(received=4, stale=4)
    assert desk.buffer.samples == 0


RESTARTED = Lineage((Incarnation(1, 0, 0), Incarnation(2, 40, 58)))


@pytest.mark.parametrize(
    ("learner", "version", "admitted"),
    [(1, 40, True), (1, 41, False), (1, 57, False), (2, 58, True), (2, 60, True)],
)
def test_weights_that_the_crash_undid_are_fenced(
    learner: int, version: int, admitted: bool
) -> None:
    desk = Desk(lineage=RESTARTED, published=60)
    actor = desk.admission.connect("actor-0", 1)
    told = desk.offer(actor, fragment(1, learner=learner, version=version))
    assert (told is None) == admitted
    if told is not None:
        assert told.fate is Fate.STALE
        assert desk.ledger.counts() == LedgerCounts(received=4, stale=4)


@pytest.mark.parametrize(("version", "fate"), [(40, None), (57, Fate.STALE)])
def test_a_restarted_learner_judges_before_it_publishes(version: int, fate: Fate | None) -> None:
    """Actors that were waiting for it resend at once: nothing of theirs is from the future."""
    desk = Desk(lineage=RESTARTED, published=-1)
    actor = desk.admission.connect("actor-0", 1)
    told = desk.offer(actor, fragment(1, learner=1, version=version))
    assert (told.fate if told else None) is fate


def test_an_incarnation_nobody_knows_is_fenced() -> None:
    """The learner crashed before its first checkpoint: nothing it published exists any more."""
    lineage = Lineage((Incarnation(1, 0, 0), Incarnation(3, 40, 70)))
    desk = Desk(lineage=lineage, published=70)
    actor = desk.admission.connect("actor-0", 1)
    told = desk.offer(actor, fragment(1, learner=2, version=41))
    assert told is not None
    assert told.fate is Fate.STALE


def test_a_second_restart_fences_more() -> None:
    lineage = RESTARTED.restarted(3, 30, 71)
    assert lineage.reached(1, 30)
    assert not lineage.reached(1, 31)
    assert not lineage.reached(2, 58)
    assert lineage.reached(3, 71)


def test_the_jump_over_fenced_versions_is_no_lag() -> None:
    assert RESTARTED.jumped(1) == 18
    assert RESTARTED.jumped(2) == 0
    assert 59 - 38 - RESTARTED.jumped(1) == 3


def test_a_version_never_goes_back() -> None:
    with pytest.raises(ValueError, match="went back"):
        RESTARTED.restarted(3, 60, 59)


def test_a_newer_actor_incarnation_starts_anew() -> None:
    desk = Desk()
    desk.offer(desk.admission.connect("actor-0", 1), fragment(1))
    actor = desk.admission.connect("actor-0", 2)
    assert desk.offer(actor, fragment(1, incarnation=2)) is None
    settled = desk.train(8)
    assert [(s.incarnation, s.sequence) for s in settled] == [(1, 1), (2, 1)]
    assert desk.ledger.counts() == LedgerCounts(received=8, trained=8)
    assert actor.trained == 8


def test_an_older_actor_incarnation_is_refused() -> None:
    desk = Desk()
    desk.admission.connect("actor-0", 2)
    with pytest.raises(ActorRefusedError, match="fenced"):
        desk.admission.connect("actor-0", 1)


@pytest.mark.parametrize(
    ("actor_id", "incarnation"), [("", 1), ("a" * 254, 1), ("actor-0", 0), ("actor-0", 1 << 63)]
)
def test_an_impossible_actor_is_refused(actor_id: str, incarnation: int) -> None:
    with pytest.raises(ActorRefusedError):
        Desk().admission.connect(actor_id, incarnation)


def test_the_roster_forgets_the_longest_silent_of_those_who_left() -> None:
    now = [0.0]
    roster = Roster(max_actors=3, clock=lambda: now[0])
    for second, name in enumerate(("a", "b", "c")):
        now[0] = float(second)
        roster.connect(name, 1)
    with pytest.raises(ActorRefusedError, match="3 actors"):
        roster.connect("d", 1)
    for actor in roster:
        actor.connected = actor.actor_id == "b"
    waiting = roster.find("a")
    assert waiting is not None
    waiting.log.queue(1)
    roster.connect("d", 1)
    assert [actor.actor_id for actor in roster] == ["a", "b", "d"]


def test_what_waited_when_the_checkpoint_was_made_may_come_again() -> None:
    log = DeliveryLog()
    for number in (1, 2, 3, 4):
        log.queue(number)
    log.settle(1)
    log.settle(3)
    assert log.record() == DeliveryRecord(4, (2, 4))
    restored = DeliveryLog(4, (2, 4))
    states = [restored.state_of(number) for number in (1, 2, 3, 4, 5)]
    decided, new = Delivery.DECIDED, Delivery.NEW
    assert states == [decided, new, decided, new, new]


def test_what_comes_in_order_closes_the_holes_behind_it() -> None:
    """Else they would add up over the restarts of the learner."""
    log = DeliveryLog(9, (3, 5, 7))
    log.queue(5)
    assert log.record() == DeliveryRecord(9, (5, 7))
    assert log.state_of(3) is Delivery.DECIDED


def test_a_log_does_not_grow_with_its_actor() -> None:
    log = DeliveryLog()
    for number in range(1, 5_000):
        log.queue(number)
        if number > 3:
            log.settle(number - 3)
    assert log.record() == DeliveryRecord(4_999, (4_997, 4_998, 4_999))


class Sender:
    """An actor as the protocol wants it: in order, and again what was not acknowledged."""

    def __init__(self, actor_id: str) -> None:
        self.actor_id = actor_id
        self.incarnation = 1
        self.sequence = 0
        self.unacknowledged: dict[int, Fragment] = {}
        self.all: list[Fragment] = []

    def make(self, steps: int, learner: int, version: int, bad: bool) -> Fragment:
        self.sequence += 1
        item = fragment(
            self.sequence,
            steps=steps,
            version=version,
            actor_id=self.actor_id,
            incarnation=self.incarnation,
            learner=learner,
        )
        if bad:
            item = replace(item, rewards=nan_at_the_end((steps, 1)))
        self.unacknowledged[self.sequence] = item
        self.all.append(item)
        return item

    def restart(self) -> None:
        self.incarnation += 1
        self.sequence = 0
        self.unacknowledged = {}


class Deliveries(RuleBasedStateMachine):
    """Any order of sending, resending, training, checkpoints and crashes.

    `trained` is what the present line of checkpoints has trained: after a crash it is what the
    checkpoint had trained.
    """

    ACTORS = st.integers(0, 1)

    @initialize()
    def begin(self) -> None:
        self.desk = Desk(published=0)
        self.lineage = Lineage.first()
        self.version = 0
        self.high_water = 0
        self.trained: dict[FragmentId, int] = {}
        self.ever_decided: set[FragmentId] = set()
        self.orderly = True
        self.saved: tuple[Snapshot, Lineage, int, dict[FragmentId, int]] = (
            self.desk.admission.snapshot(),
            self.lineage,
            0,
            {},
        )
        self.senders = [Sender("actor-0"), Sender("actor-1")]
        self.actors = [self.desk.admission.connect(s.actor_id, 1) for s in self.senders]

    def deliver(self, index: int, item: Fragment) -> None:
        told = self.desk.offer(self.actors[index], item)
        if told is not None:
            self.acknowledge([told])

    def acknowledge(self, settled: list[Settlement]) -> None:
        for told in settled:
            sender = next(s for s in self.senders if s.actor_id == told.actor_id)
            if sender.incarnation != told.incarnation:
                continue
            identity = FragmentId(JOB, told.actor_id, told.incarnation, told.sequence)
            if told.fate is not Fate.DUPLICATE:
                self.ever_decided.add(identity)
            elif self.orderly:
                assert identity in self.ever_decided, "lost: never decided, and now a duplicate"
            sender.unacknowledged.pop(told.sequence, None)

    @rule(index=ACTORS, steps=st.integers(1, 4), bad=st.booleans(), lag=st.integers(0, 2))
    def send(self, index: int, steps: int, bad: bool, lag: int) -> None:
        life = self.lineage.current
        version = max(self.version - lag, life.first_version)
        self.deliver(index, self.senders[index].make(steps, life.number, version, bad))

    @rule(index=ACTORS, steps=st.integers(1, 4))
    def lose(self, index: int, steps: int) -> None:
        """The fragment is made, but the connection breaks before it arrives."""
        life = self.lineage.current
        self.senders[index].make(steps, life.number, self.version, bad=False)
        self.reconnect(index)

    @rule(index=ACTORS)
    def reconnect(self, index: int) -> None:
        sender = self.senders[index]
        self.actors[index] = self.desk.admission.connect(sender.actor_id, sender.incarnation)
        for item in list(sender.unacknowledged.values()):
            self.deliver(index, item)

    @rule(index=ACTORS, which=st.integers(0, 10**6))
    def repeat_anything(self, index: int, which: int) -> None:
        """What no actor should do: send an old fragment again, whatever became of it."""
        self.orderly = False
        everything = self.senders[index].all
        if everything:
            self.deliver(index, everything[which % len(everything)])

    @rule(index=ACTORS)
    def restart_actor(self, index: int) -> None:
        self.senders[index].restart()
        self.reconnect(index)

    @rule(wanted=st.integers(1, 12), lost_acks=st.booleans())
    def train(self, wanted: int, lost_acks: bool) -> None:
        batch = self.desk.buffer.take(wanted, timeout=0)
        for item in batch:
            assert item.id not in self.trained, "trained twice"
            self.trained[item.id] = item.samples
        settled = self.desk.admission.trained(batch, [0.0] * len(batch), 0)
        self.ever_decided.update(item.id for item in batch)
        if batch:
            self.version += 1
            self.desk.published = self.high_water = self.version
        if not lost_acks:
            self.acknowledge(settled)

    @rule(wanted=st.integers(1, 6))
    def find_stale(self, wanted: int) -> None:
        batch = self.desk.buffer.take(wanted, timeout=0)
        self.acknowledge(self.desk.admission.stale(batch, "stale"))

    @rule()
    def checkpoint(self) -> None:
        snapshot = self.desk.admission.snapshot()
        self.saved = (snapshot, self.lineage, self.version, dict(self.trained))

    @rule()
    def crash(self) -> None:
        snapshot, lineage, version, trained = self.saved
        number = self.lineage.current.number + 1
        self.version = version if self.high_water == version else self.high_water + 1
        self.high_water = self.version
        self.lineage = lineage.restarted(number, version, self.version)
        self.trained = dict(trained)
        self.desk = Desk(snapshot.counts, snapshot.actors, self.lineage, self.version)
        for index in (0, 1):
            self.reconnect(index)

    @rule()
    def settle_everything(self) -> None:
        """In the end every fragment of a living actor has a fate: nothing is lost or forgotten."""
        for index in (0, 1):
            self.reconnect(index)
        while self.desk.buffer.samples:
            self.train(min(4, self.desk.buffer.samples), lost_acks=False)
        for sender in self.senders:
            assert not sender.unacknowledged

    @invariant()
    def the_ledger_tells_the_truth(self) -> None:
        counts = self.desk.ledger.counts()
        assert counts.trained == sum(self.trained.values())
        assert counts.queued == self.desk.buffer.samples


Deliveries.TestCase.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
TestDeliveries = Deliveries.TestCase
