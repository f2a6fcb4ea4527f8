"""The learner's services over real gRPC: a server on port 0, a client written by hand.

There is no policy here. The tests stand where the training thread stands: they take fragments from
the buffer, decide their fates, and publish weights.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from vaco.channels import Security, sync_channel
from vaco.incoming_weights import WeightsAssembler
from vaco.trajectory import (
    ArraySpec,
    Fragment,
    FragmentId,
    FragmentSpec,
    to_requests,
    trajectory_stream,
)
from vaco.v1 import learner_pb2, learner_pb2_grpc, weights_pb2
from vaco.v1 import trajectory_pb2 as pb
from vaco.vital import Pulse, Vitals, stuck_seconds
from vaco.weights import Weights, weights_stream
from vaco_learner.admission import Admission
from vaco_learner.buffer import FragmentBuffer
from vaco_learner.claims import Claims, FencedError
from vaco_learner.contract_gate import ContractGate
from vaco_learner.control import Control, JobFailedError
from vaco_learner.credits import Capacity
from vaco_learner.evaluation_desk import EvaluationOutcome
from vaco_learner.hub import Intake
from vaco_learner.ingest import MAX_REJECTIONS
from vaco_learner.ledger import Ledger, LedgerCounts
from vaco_learner.lineage import Incarnation, Lineage
from vaco_learner.progress import LearnerPhase, Progress, Standing
from vaco_learner.publisher import Publisher
from vaco_learner.roster import Roster
from vaco_learner.server import LearnerServer
from vaco_learner.session import Ending
from vaco_learner.status import StatusFile, StatusSource
from vaco_operator.local.learner_probe import LearnerProbe
from vaco_policy.spaces import Box, Discrete, Spaces

JOB = "job-uid"
SECONDS = 10.0
STUCK_SECONDS = 5.0
SPACES = Spaces({"observation": Box((2,))}, Discrete(3))
OTHER_SPACES = Spaces({"observation": Box((2,))}, Discrete(4))
SPEC = FragmentSpec(
    observations={"observation": ArraySpec((2,), "float32")},
    action=ArraySpec((), "int64", (3,)),
    core_state={},
    max_length=8,
    max_environments=2,
    reward_bound=100.0,
)
CAPACITY = Capacity(batch=8, queue=16, in_flight=6, max_fragments=64)
LINEAGE = Lineage((Incarnation(1, 0, 0), Incarnation(2, 40, 58)))


def fragment(sequence: int, *, version: int = 58, incarnation: int = 1, actor: int = 0) -> Fragment:
    zeros = np.zeros((4, 1), np.float32)
    return Fragment(
        id=FragmentId(JOB, f"actor-{actor}", incarnation, sequence),
        weights_incarnation=2,
        observations={"observation": np.zeros((5, 1, 2), np.float32)},
        actions=np.zeros((4, 1), np.int64),
        rewards=zeros,
        terminated=zeros.astype(np.bool_),
        truncated=zeros.astype(np.bool_),
        valid=np.ones((4, 1), np.bool_),
        behaviour_logp=zeros,
        versions=np.full(4, version, np.int64),
        episode_start=np.zeros((5, 1), np.bool_),
        final_observations={},
        final_steps=np.zeros(0, np.int32),
        core_state={},
        return_carry=np.zeros(1, np.float32),
        episode_returns=np.zeros(0, np.float32),
        episode_lengths=np.zeros(0, np.int32),
        rollout_seconds=0.5,
    )


@dataclass
class Bench:
    """A served learner without its training thread."""

    address: str
    server: LearnerServer
    admission: Admission
    buffer: FragmentBuffer
    gate: ContractGate
    ledger: Ledger
    progress: Progress
    control: Control
    publisher: Publisher
    outcomes: deque[EvaluationOutcome]
    status_path: Path
    let_in: Callable[[], None]
    training: Pulse
    channels: list[grpc.Channel] = field(default_factory=list)

    def channel(self, security: Security | None = None) -> grpc.Channel:
        channel = sync_channel(self.address, security)
        self.channels.append(channel)
        return channel

    def actor(self, number: int = 0, incarnation: int = 1) -> "Actor":
        actor = Actor(self.channel())
        actor.hello(f"actor-{number}", incarnation)
        return actor

    def train(self, samples: int = 4) -> None:
        batch = self.buffer.take(samples, SECONDS)
        assert batch
        lags = [0.0] * len(batch)
        self.server.acknowledge(self.admission.trained(batch, lags, filtered=0))

    def status(self) -> learner_pb2.GetStatusResponse:
        stub = learner_pb2_grpc.LearnerServiceStub(self.channel())
        return stub.GetStatus(learner_pb2.GetStatusRequest(), timeout=SECONDS)


class Actor:
    """The client's end of one stream, written by hand."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._requests: queue.Queue[pb.StreamTrajectoriesRequest | bytes | None] = queue.Queue()
        self._call = trajectory_stream(channel)(iter(self._requests.get, None), timeout=60)
        self._acks: deque[pb.Ack] = deque()

    def hello(
        self,
        actor_id: str = "actor-0",
        incarnation: int = 1,
        job_uid: str = JOB,
        spaces: Spaces = SPACES,
    ) -> None:
        hello = pb.Hello(
            job_uid=job_uid,
            actor_id=actor_id,
            actor_incarnation=incarnation,
            spaces_json=spaces.to_json(),
        )
        self.send(pb.StreamTrajectoriesRequest(hello=hello))

    def send(self, *requests: pb.StreamTrajectoriesRequest | bytes) -> None:
        for request in requests:
            self._requests.put(request)

    def send_fragment(self, *fragments: Fragment) -> None:
        for item in fragments:
            self.send(*to_requests(item))

    def goodbye(self) -> None:
        self.send(pb.StreamTrajectoriesRequest(goodbye=pb.Goodbye()))

    def receive(self) -> pb.StreamTrajectoriesResponse:
        """The next response; the stream's own deadline bounds the wait."""
        response: pb.StreamTrajectoriesResponse = next(self._call)
        return response

    def receive_welcome(self) -> pb.Welcome:
        response = self.receive()
        assert response.WhichOneof("message") == "welcome"
        return response.welcome

    def receive_ack(self) -> tuple[int, "pb.Fate.ValueType"]:
        """The next fate, alone in its message or among others."""
        if not self._acks:
            response = self.receive()
            while response.WhichOneof("message") == "credit_grant":
                response = self.receive()
            assert response.WhichOneof("message") in ("ack", "acks"), response
            self._acks.extend([response.ack] if response.HasField("ack") else response.acks.acks)
        ack = self._acks.popleft()
        return ack.sequence, ack.fate

    def refusal(self) -> tuple[grpc.StatusCode, str]:
        """How the server ended the stream; what it said before is skipped."""
        with pytest.raises(grpc.RpcError) as caught:
            deque(self._call)
        return caught.value.code(), caught.value.details()

    def ended_well(self) -> bool:
        return next(self._call, None) is None

    def vanish(self) -> None:
        """Like a process that was killed: no goodbye."""
        self._call.cancel()
        self._requests.put(None)


@pytest.fixture
def make_bench(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def make(
        open_doors: bool = True, debug: bool = False, security: Security | None = None
    ) -> Bench:
        bench = build(tmp_path, debug, security)
        benches.append(bench)
        if open_doors:
            bench.let_in()
        return bench

    yield make
    for bench in benches:
        for channel in bench.channels:
            channel.close()
        bench.publisher.stop()
        bench.server.stop(Ending(grpc.StatusCode.UNAVAILABLE, "the test is over"))


def build(tmp_path: Path, debug: bool, security: Security | None) -> Bench:
    control, progress, ledger, roster = Control(), Progress(), Ledger(), Roster()
    vitals = Vitals(STUCK_SECONDS, str)
    status = StatusSource(JOB, progress, ledger, "127.0.0.1:1", vitals.stuck)
    status.set_roster(roster)
    gate = ContractGate()
    outcomes: deque[EvaluationOutcome] = deque()
    status_path = tmp_path / "learner-status.json"
    claim = Claims(tmp_path, JOB).stake(2)
    server = LearnerServer(
        job_uid=JOB,
        address="127.0.0.1:0",
        security=security,
        capacity=CAPACITY,
        gate=gate,
        progress=progress,
        status=status,
        status_file=StatusFile(status_path, status, claim),
        control=control,
        pulse=vitals.pulse("ingest"),
        on_evaluation=outcomes.append,
        debug=debug,
    )
    buffer = FragmentBuffer(CAPACITY.queue, CAPACITY.max_fragments, 1 << 20, server.room_made)
    publisher = Publisher(claim, SPACES.to_json(), server.announce, control.crash, server.snapshots)
    admission = Admission(JOB, SPEC, LINEAGE, lambda: 58, ledger, roster, buffer)
    address = server.start()
    publisher.start()
    return Bench(
        address=address,
        server=server,
        admission=admission,
        buffer=buffer,
        gate=gate,
        ledger=ledger,
        progress=progress,
        control=control,
        publisher=publisher,
        outcomes=outcomes,
        status_path=status_path,
        let_in=lambda: server.open(Intake(admission, 2, 58)),
        training=vitals.pulse("training"),
    )


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


def eventually(holds: Callable[[], bool]) -> None:
    """Waits for what happens in another thread and tells nobody."""
    deadline = time.monotonic() + SECONDS
    pause = threading.Event()
    while not holds():
        assert time.monotonic() < deadline
        pause.wait(0.005)


def fails_with(control: Control, kind: type[Exception]) -> bool:
    try:
        control.check()
    except kind:
        return True
    return False


# Hello and Welcome


def test_hello_is_welcomed_with_credits(bench: Bench) -> None:
    actor = bench.actor()
    welcome = actor.receive_welcome()
    assert (welcome.learner_incarnation, welcome.version, welcome.credits) == (2, 58, 6)


def test_welcome_waits_until_there_is_a_policy(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(open_doors=False)
    actor = bench.actor()
    assert bench.server.connected == 0
    bench.let_in()
    assert actor.receive_welcome().learner_incarnation == 2


def test_credits_are_shared_by_all_actors(bench: Bench) -> None:
    first = bench.actor(0)
    assert first.receive_welcome().credits == 6
    second = bench.actor(1)
    assert second.receive_welcome().credits == 3
    assert first.receive().credit_grant.credits == 3
    second.goodbye()
    assert first.receive().credit_grant.credits == 6


@pytest.mark.parametrize(
    ("hello", "told"),
    [
        ({"job_uid": "another"}, "this is the learner of job job-uid, not of another"),
        ({"incarnation": 0}, "incarnation 0"),
        ({"actor_id": ""}, "an actor id of 0 characters"),
    ],
)
def test_a_hello_that_cannot_be_right_is_refused(
    bench: Bench, hello: dict[str, object], told: str
) -> None:
    actor = Actor(bench.channel())
    actor.hello(**hello)  # type: ignore[arg-type]
    code, details = actor.refusal()
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert told in details
    assert bench.server.connected == 0


def test_other_spaces_are_refused_and_both_are_named(bench: Bench) -> None:
    bench.actor(0).receive_welcome()
    other = Actor(bench.channel())
    other.hello("actor-1", spaces=OTHER_SPACES)
    code, details = other.refusal()
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert SPACES.to_json() in details
    assert OTHER_SPACES.to_json() in details


def test_spaces_that_are_none_are_refused(bench: Bench) -> None:
    actor = Actor(bench.channel())
    actor.send(
        pb.StreamTrajectoriesRequest(
            hello=pb.Hello(job_uid=JOB, actor_id="a", actor_incarnation=1, spaces_json="{}")
        )
    )
    assert actor.refusal()[0] is grpc.StatusCode.FAILED_PRECONDITION


def test_a_stream_begins_with_hello(bench: Bench) -> None:
    actor = Actor(bench.channel())
    actor.send_fragment(fragment(1))
    assert actor.refusal() == (grpc.StatusCode.INVALID_ARGUMENT, "a stream begins with Hello")
    assert bench.ledger.counts() == LedgerCounts()


def test_a_second_hello_is_refused(bench: Bench) -> None:
    actor = bench.actor()
    actor.hello()
    assert actor.refusal()[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_a_stream_ends_with_its_reason_whatever_is_being_written(bench: Bench) -> None:
    # Which of the two comes first, the Welcome's way out or the refusal, is left to chance.
    for number in range(200):
        actor = bench.actor(number)
        actor.hello(f"actor-{number}")
        assert actor.refusal()[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_with_credentials_only_actors_of_the_job_come_in(
    make_bench: Callable[..., Bench], security: Security, client_security: Security
) -> None:
    bench = make_bench(security=security)
    stranger = Actor(bench.channel())
    stranger.hello()
    assert stranger.refusal()[0] is grpc.StatusCode.UNAVAILABLE
    actor = Actor(bench.channel(client_security))
    actor.hello()
    actor.receive_welcome()
    actor.send_fragment(fragment(1))
    bench.train()
    assert actor.receive_ack() == (1, pb.FATE_TRAINED)
    client_security.token.write_text("another\n")
    impostor = Actor(bench.channel(client_security))
    impostor.hello()
    assert impostor.refusal()[0] is grpc.StatusCode.UNAUTHENTICATED


# Fragments and their fates


def test_a_fragment_is_acknowledged_when_it_was_trained(bench: Bench) -> None:
    actor = bench.actor()
    actor.receive_welcome()
    actor.send_fragment(fragment(1), fragment(2))
    bench.train(8)
    assert actor.receive_ack() == (1, pb.FATE_TRAINED)
    assert actor.receive_ack() == (2, pb.FATE_TRAINED)
    assert bench.ledger.counts() == LedgerCounts(received=8, trained=8)


def test_the_fates_of_a_batch_are_told_together(bench: Bench) -> None:
    """Each actor hears of its own, in one message."""
    first, second = bench.actor(0), bench.actor(1)
    for actor in (first, second):
        actor.receive_welcome()
    first.send_fragment(fragment(1), fragment(2))
    eventually(lambda: len(bench.buffer) == 2)
    second.send_fragment(fragment(1, actor=1))
    bench.train(12)
    told = first.receive()
    while told.WhichOneof("message") == "credit_grant":
        told = first.receive()
    assert [(ack.sequence, ack.fate) for ack in told.acks.acks] == [
        (1, pb.FATE_TRAINED),
        (2, pb.FATE_TRAINED),
    ]
    assert second.receive_ack() == (1, pb.FATE_TRAINED)


def test_a_fragment_can_come_in_frames(bench: Bench) -> None:
    actor = bench.actor()
    actor.receive_welcome()
    data = b"".join(fragment(1).to_parts()[0])
    half = len(data) // 2
    for index, piece in enumerate((data[:half], data[half:])):
        frame = pb.TrajectoryFrame(index=index, count=2, total_bytes=len(data), data=piece)
        actor.send(pb.StreamTrajectoriesRequest(frame=frame))
    bench.train(4)
    assert actor.receive_ack() == (1, pb.FATE_TRAINED)


def test_an_actor_that_makes_nothing_of_use_fails_the_job(bench: Bench) -> None:
    """Over all its streams; one fragment that is admitted in between, and it begins anew."""
    sequence, actor = 0, bench.actor()
    actor.receive_welcome()

    def spoil(times: int) -> None:
        nonlocal sequence
        for _ in range(times):
            sequence += 1
            actor.send_fragment(replace(fragment(sequence), rewards=nan()))
            assert actor.receive_ack() == (sequence, pb.FATE_REJECTED)

    spoil(MAX_REJECTIONS - 1)
    sequence += 1
    actor.send_fragment(fragment(sequence))
    eventually(lambda: len(bench.buffer) == 1)
    spoil(MAX_REJECTIONS - 1)
    bench.control.check()
    actor.vanish()
    actor = bench.actor()
    actor.receive_welcome()
    spoil(1)
    told = r"actor-0: 20 fragments in a row were rejected, the last one because of rewards: a"
    eventually(lambda: fails_with(bench.control, JobFailedError))
    with pytest.raises(JobFailedError, match=told):
        bench.control.check()


def test_more_fragments_than_credits_end_the_stream(bench: Bench) -> None:
    actor = bench.actor()
    granted = actor.receive_welcome().credits
    actor.send_fragment(*(fragment(number) for number in range(1, granted + 2)))
    assert bench.buffer.take(16, SECONDS), "in training, and not answered yet"
    code, details = actor.refusal()
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert f"fragment {granted + 1}: {granted + 1} are in flight, of {granted} granted" in details


def test_what_was_in_flight_when_credits_shrank_is_fine(bench: Bench) -> None:
    actor = bench.actor(0)
    assert actor.receive_welcome().credits == 6
    other = bench.actor(1)
    other.receive_welcome()
    # The smaller grant is on its way to it while it still uses the first one.
    actor.send_fragment(*(fragment(number) for number in range(1, 7)))
    assert actor.receive().credit_grant.credits == 3
    for number in range(1, 4):
        bench.train(4)
        assert actor.receive_ack() == (number, pb.FATE_TRAINED)
    # It has heard of 3 credits by now, and 3 are in flight.
    actor.send_fragment(fragment(7))
    assert actor.refusal()[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    other.vanish()


def test_what_is_sent_again_on_a_new_stream_is_counted_there_once(bench: Bench) -> None:
    first = bench.actor()
    granted = first.receive_welcome().credits
    again = [fragment(number) for number in range(1, granted + 1)]
    first.send_fragment(*again[:3])
    eventually(lambda: len(bench.buffer) == 3)
    first.vanish()
    second = bench.actor()
    second.receive_welcome()
    second.send_fragment(*again)
    eventually(lambda: bench.ledger.counts().duplicate == 12)
    for _ in range(1, granted + 1):
        bench.train(4)
        assert second.receive_ack()[1] == pb.FATE_TRAINED
    second.send_fragment(*(fragment(granted + number) for number in range(1, granted + 1)))
    bench.train(4)
    assert second.receive_ack() == (granted + 1, pb.FATE_TRAINED)


def test_frames_out_of_order_end_the_stream(bench: Bench) -> None:
    actor = bench.actor()
    frame = pb.TrajectoryFrame(index=1, count=2, total_bytes=10, data=b"12345")
    actor.send(pb.StreamTrajectoriesRequest(frame=frame))
    assert actor.refusal()[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_what_was_trained_is_a_duplicate_after_a_reconnect(bench: Bench) -> None:
    actor = bench.actor()
    actor.send_fragment(fragment(1))
    bench.train()
    actor.vanish()
    again = bench.actor()
    again.receive_welcome()
    again.send_fragment(fragment(1))
    assert again.receive_ack() == (1, pb.FATE_DUPLICATE)
    assert bench.ledger.counts() == LedgerCounts(received=8, trained=4, duplicate=4)


def test_what_still_waits_is_answered_on_the_new_stream(bench: Bench) -> None:
    actor = bench.actor()
    actor.send_fragment(fragment(1), fragment(2))
    eventually(lambda: len(bench.buffer) == 2)
    actor.vanish()
    again = bench.actor()
    again.receive_welcome()
    again.send_fragment(fragment(1), fragment(2), fragment(3))
    eventually(lambda: len(bench.buffer) == 3)
    bench.train(12)
    fates = [again.receive_ack() for _ in range(3)]
    assert fates == [(1, pb.FATE_TRAINED), (2, pb.FATE_TRAINED), (3, pb.FATE_TRAINED)]
    assert bench.ledger.counts() == LedgerCounts(received=20, trained=12, duplicate=8)


def nan() -> np.ndarray:
    rewards = np.zeros((4, 1), np.float32)
    rewards[2] = np.nan
    return rewards


@pytest.mark.parametrize(
    ("changes", "fate", "field_named"),
    [
        ({"rewards": nan()}, pb.FATE_REJECTED, "rewards"),
        ({"rewards": np.full((4, 1), 1e30, np.float32)}, pb.FATE_REJECTED, "rewards"),
        ({"rewards": np.zeros((4, 1))}, pb.FATE_REJECTED, "rewards"),
        ({"actions": np.zeros((4, 2), np.int64)}, pb.FATE_REJECTED, "actions"),
        ({"versions": np.full(4, 59, np.int64)}, pb.FATE_REJECTED, "max_version"),
        ({"weights_incarnation": 3}, pb.FATE_REJECTED, "weights_incarnation"),
        ({"id": FragmentId("other", "actor-0", 1, 1)}, pb.FATE_REJECTED, "id.job_uid"),
        ({"id": FragmentId(JOB, "actor-1", 1, 1)}, pb.FATE_REJECTED, "id.actor_id"),
        ({"id": FragmentId(JOB, "actor-0", 7, 1)}, pb.FATE_REJECTED, "id.actor_incarnation"),
        (
            {"weights_incarnation": 1, "versions": np.full(4, 41, np.int64)},
            pb.FATE_STALE,
            "weights 41 of learner incarnation 1",
        ),
    ],
)
def test_a_fragment_that_is_not_trained_is_told_why(
    bench: Bench, changes: dict[str, object], fate: "pb.Fate.ValueType", field_named: str
) -> None:
    actor = bench.actor()
    actor.receive_welcome()
    actor.send_fragment(replace(fragment(1), **changes))  # type: ignore[arg-type]
    ack = actor.receive().ack
    assert (ack.sequence, ack.fate) == (1, fate)
    assert ack.reason.startswith(field_named)
    counts = bench.ledger.counts()
    assert counts.rejected + counts.stale == counts.received == 4
    actor.send_fragment(fragment(2))
    bench.train()
    assert actor.receive_ack() == (2, pb.FATE_TRAINED), "the stream goes on"


def test_fragments_of_older_weights_are_taken_if_their_line_was_not_broken(bench: Bench) -> None:
    actor = bench.actor()
    actor.receive_welcome()
    older = replace(fragment(1), weights_incarnation=1, versions=np.full(4, 40, np.int64))
    actor.send_fragment(older)
    bench.train()
    assert actor.receive_ack() == (1, pb.FATE_TRAINED)


def test_stale_is_told_when_it_is_found_in_the_buffer(bench: Bench) -> None:
    actor = bench.actor()
    actor.receive_welcome()
    actor.send_fragment(fragment(1))
    batch = bench.buffer.take(4, SECONDS)
    bench.server.acknowledge(bench.admission.stale(batch, "65 versions behind"))
    ack = actor.receive().ack
    assert (ack.fate, ack.reason) == (pb.FATE_STALE, "65 versions behind")


def test_a_message_over_the_bound_ends_the_stream_and_nothing_else(bench: Bench) -> None:
    actor = bench.actor()
    actor.receive_welcome()
    actor.send(b"\0" * (9 << 20))
    assert actor.refusal()[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    again = bench.actor()
    again.receive_welcome()
    again.send_fragment(fragment(1))
    bench.train()
    assert again.receive_ack() == (1, pb.FATE_TRAINED)


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff", b"\x12\x05ab", b""])
def test_garbage_ends_the_stream(bench: Bench, garbage: bytes) -> None:
    actor = bench.actor()
    actor.receive_welcome()
    actor.send(garbage)
    assert actor.refusal()[0] is grpc.StatusCode.INVALID_ARGUMENT


def test_a_full_buffer_holds_the_stream_up(bench: Bench) -> None:
    """16 samples fit; the fragments beyond wait unread until the training thread takes some."""
    actor = bench.actor()
    actor.receive_welcome()
    actor.send_fragment(*(fragment(number) for number in range(1, 9)))
    eventually(lambda: len(bench.buffer) == 4)
    assert bench.ledger.counts() == LedgerCounts(received=16, queued=16)
    bench.train(8)
    eventually(lambda: len(bench.buffer) == 4)
    bench.train(8)
    bench.train(16)
    assert [actor.receive_ack()[0] for _ in range(8)] == list(range(1, 9))


# Incarnations and second streams


def test_a_second_stream_of_an_actor_ends_the_first(bench: Bench) -> None:
    first = bench.actor()
    first.receive_welcome()
    second = bench.actor()
    second.receive_welcome()
    code, details = first.refusal()
    assert (code, details[:10]) == (grpc.StatusCode.ABORTED, "superseded")
    second.send_fragment(fragment(1))
    bench.train()
    assert second.receive_ack() == (1, pb.FATE_TRAINED)
    assert bench.server.connected == 1


def test_a_newer_incarnation_ends_the_older_and_fences_it(bench: Bench) -> None:
    older = bench.actor(incarnation=1)
    older.receive_welcome()
    older.send_fragment(fragment(7))
    eventually(lambda: len(bench.buffer) == 1)
    newer = bench.actor(incarnation=2)
    newer.receive_welcome()
    assert older.refusal()[0] is grpc.StatusCode.ABORTED
    newer.send_fragment(fragment(1, incarnation=2))
    bench.train(8)
    assert newer.receive_ack() == (1, pb.FATE_TRAINED)
    code, details = bench.actor(incarnation=1).refusal()
    assert code is grpc.StatusCode.ALREADY_EXISTS
    assert "fenced" in details
    assert bench.ledger.counts() == LedgerCounts(received=8, trained=8)


# Leaving


def test_farewell_follows_goodbye_while_fragments_still_wait(bench: Bench) -> None:
    actor = bench.actor()
    actor.receive_welcome()
    actor.send_fragment(fragment(1))
    actor.goodbye()
    assert actor.receive().WhichOneof("message") == "farewell"
    assert actor.ended_well()
    assert bench.ledger.counts() == LedgerCounts(received=4, queued=4)
    eventually(lambda: bench.server.connected == 0)


def test_everyone_is_sent_home_when_the_job_is_complete(bench: Bench) -> None:
    actor = bench.actor()
    actor.receive_welcome()
    bench.server.farewell()
    assert actor.receive().WhichOneof("message") == "farewell"
    assert actor.ended_well()
    late = bench.actor(1)
    late.receive_welcome()
    assert late.receive().WhichOneof("message") == "farewell"
    assert late.ended_well()


@pytest.mark.parametrize("open_doors", [True, False])
def test_a_learner_that_ends_says_so(make_bench: Callable[..., Bench], open_doors: bool) -> None:
    bench = make_bench(open_doors=open_doors)
    actor = bench.actor()
    if open_doors:
        actor.receive_welcome()
    assert bench.gate.wait(SECONDS) == SPACES.to_json()
    bench.server.stop(Ending(grpc.StatusCode.UNAVAILABLE, "back soon"))
    assert actor.refusal() == (grpc.StatusCode.UNAVAILABLE, "back soon")


@pytest.mark.parametrize("permanent", [True, False])
def test_an_actors_failure_fails_the_job_if_it_is_permanent(bench: Bench, permanent: bool) -> None:
    actor = bench.actor()
    actor.receive_welcome()
    failure = pb.ActorFailure(message="CartPole-v9: reward is nan", permanent=permanent)
    actor.send(pb.StreamTrajectoriesRequest(failure=failure))
    assert actor.ended_well()
    if permanent:
        with pytest.raises(JobFailedError, match=r"actor-0: CartPole-v9: reward is nan"):
            bench.control.check()
    else:
        bench.control.check()


# Weights


def watch(
    bench: Bench, incarnation: int = 0, version: int = 0, job_uid: str = JOB
) -> Iterator[Weights]:
    request = weights_pb2.WatchWeightsRequest(
        job_uid=job_uid, actor_id="actor-0", known_incarnation=incarnation, known_version=version
    )
    assembler = WeightsAssembler()
    for message in weights_stream(bench.channel())(request, timeout=SECONDS):
        weights = assembler.add(message)
        if weights is not None:
            yield weights


class Fixed:
    """Weights that are just these bytes."""

    def __init__(self, payload: bytes) -> None:
        self.size = len(payload)
        self._payload = payload

    def write(self, buffer: memoryview) -> None:
        buffer[:] = self._payload


def published(bench: Bench, version: int, payload: bytes) -> None:
    bench.publisher.publish(version, Fixed(payload))
    eventually(lambda: bench.publisher.version == version)


def test_the_newest_version_is_sent_at_once_and_then_every_newer_one(bench: Bench) -> None:
    published(bench, 58, b"a" * (3 << 20))
    weights = watch(bench)
    first = next(weights)
    assert (first.incarnation, first.version, first.payload) == (2, 58, b"a" * (3 << 20))
    assert first.spaces_json == SPACES.to_json()
    published(bench, 59, b"b")
    assert next(weights).version == 59


def test_a_watcher_skips_to_the_newest(bench: Bench) -> None:
    published(bench, 58, b"a")
    weights = watch(bench)
    assert next(weights).version == 58
    for version in range(59, 100):
        published(bench, version, b"x" * (1 << 20))
    seen = [next(weights).version]
    while seen[-1] != 99:
        seen.append(next(weights).version)
    assert seen == sorted(set(seen))


def test_what_is_known_is_not_sent_again(bench: Bench) -> None:
    published(bench, 58, b"a")
    weights = watch(bench, incarnation=2, version=58)
    bench.publisher.publish(59, Fixed(b"b"))
    assert next(weights).version == 59


def test_the_same_number_of_an_older_learner_is_not_known(bench: Bench) -> None:
    published(bench, 58, b"a")
    assert next(watch(bench, incarnation=1, version=58)).version == 58


def test_weights_of_another_job_are_not_given(bench: Bench) -> None:
    published(bench, 58, b"a")
    with pytest.raises(grpc.RpcError) as caught:
        next(watch(bench, job_uid="another"))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_a_learner_that_was_replaced_publishes_nothing(bench: Bench, tmp_path: Path) -> None:
    published(bench, 58, b"a")
    weights = watch(bench)
    assert next(weights).version == 58
    Claims(tmp_path, JOB).stake(3)
    bench.publisher.publish(59, Fixed(b"b"))
    eventually(lambda: fails_with(bench.control, FencedError))
    bench.server.stop(Ending(grpc.StatusCode.UNAVAILABLE, "another has taken over"))
    assert next(weights, None) is None, "only version 58 was served"


def test_watching_ends_when_the_job_is_complete(bench: Bench) -> None:
    published(bench, 58, b"a")
    weights = watch(bench)
    next(weights)
    bench.server.farewell()
    assert next(weights, None) is None


# Evaluation


def test_an_evaluation_is_asked_of_one_actor_and_reported(bench: Bench) -> None:
    actor = bench.actor()
    actor.receive_welcome()
    bench.server.evaluate(2, 77, 1_000)
    request = actor.receive().evaluation_request
    assert (request.episodes, request.seed) == (2, 77)
    result = pb.EvaluationResult(
        request_id=request.request_id, version=58, returns=[10.0, 20.0], lengths=[3, 5]
    )
    actor.send(pb.StreamTrajectoriesRequest(evaluation_result=result))
    eventually(lambda: len(bench.outcomes) == 1)
    assert bench.outcomes[0] == EvaluationOutcome(58, 1_000, 2, 15.0, 5.0, 4.0, 1.0)


def test_another_actor_takes_over_an_evaluation(bench: Bench) -> None:
    first = bench.actor(0)
    first.receive_welcome()
    bench.server.evaluate(1, 77, 1_000)
    wanted = first.receive().evaluation_request
    first.vanish()
    eventually(lambda: bench.server.connected == 0)
    second = bench.actor(1)
    second.receive_welcome()
    assert second.receive().evaluation_request == wanted


@pytest.mark.parametrize(
    "changes",
    [{"request_id": 99}, {"returns": [1.0, 2.0]}, {"returns": [float("nan")]}, {"lengths": []}],
)
def test_an_evaluation_that_makes_no_sense_is_dropped(
    bench: Bench, changes: dict[str, object]
) -> None:
    actor = bench.actor()
    actor.receive_welcome()
    bench.server.evaluate(1, 77, 1_000)
    request = actor.receive().evaluation_request
    fields = {"request_id": request.request_id, "returns": [1.0], "lengths": [1], **changes}
    result = pb.EvaluationResult(**fields)  # type: ignore[arg-type]
    actor.send(pb.StreamTrajectoriesRequest(evaluation_result=result))
    actor.goodbye()
    assert actor.receive().WhichOneof("message") == "farewell"
    assert not bench.outcomes


# Status, health, reflection


def test_the_status_tells_ledger_and_actors(bench: Bench) -> None:
    assert bench.status().phase == learner_pb2.LEARNER_PHASE_STARTING
    actor = bench.actor()
    actor.receive_welcome()
    actor.send_fragment(fragment(1), replace(fragment(2), rewards=nan()), fragment(3))
    eventually(lambda: len(bench.buffer) == 2)
    bench.train(4)
    bench.progress.trained(Standing(version=59, demand=1000.0, tv=0.05))
    status = bench.status()
    assert status.phase == learner_pb2.LEARNER_PHASE_TRAINING
    assert (status.job_uid, status.version, status.env_steps) == (JOB, 59, 4)
    ledger = status.ledger
    assert (ledger.received, ledger.queued, ledger.trained, ledger.rejected) == (12, 4, 4, 4)
    assert status.scaling.demand == 1000.0
    assert status.scaling.supply_per_actor == pytest.approx(8.0)
    assert not status.HasField("return_mean")
    (account,) = status.actors
    assert (account.actor_id, account.connected, account.samples) == ("actor-0", True, 12)
    assert account.trained == 4


def test_the_status_tells_who_is_stuck_and_so_does_a_runners_probe(bench: Bench) -> None:
    """Training beats once and not again, while calls are answered."""
    began = time.monotonic()
    with LearnerProbe(bench.address, JOB) as probe:

        def told() -> str:
            probe.poll(time.monotonic())
            return probe.stuck(time.monotonic(), began)

        bench.training.beat()
        eventually(lambda: told() or probe.answered)
        assert told() == ""
        eventually(lambda: told().startswith("training has not moved for"))
        bench.training.beat()
        eventually(lambda: told() == "")


def test_a_runners_probe_tells_when_a_learner_falls_silent(bench: Bench) -> None:
    with LearnerProbe(bench.address, JOB) as probe:
        now = time.monotonic()
        assert probe.stuck(now + 1e6, since=now + 1e6) == "", "it has just been started"
        assert probe.stuck(now + 1e6, since=now).startswith("it did not answer within ")

        def answered() -> bool:
            probe.poll(time.monotonic())
            return probe.answered

        eventually(answered)
        assert probe.stuck(now + stuck_seconds() - 1, now) == ""
        assert probe.stuck(now + 1e6, now).startswith("it has not answered for ")
        probe.forget()
        assert probe.stuck(now + 1e6, since=now + 1e6) == ""


def test_the_status_is_kept_on_the_disk(bench: Bench) -> None:
    bench.progress.ended(LearnerPhase.COMPLETE, "enough")
    path = bench.status_path
    eventually(lambda: path.exists() and "LEARNER_PHASE_COMPLETE" in path.read_text())


def test_all_services_are_healthy(bench: Bench) -> None:
    stub = health_pb2_grpc.HealthStub(bench.channel())
    for service in ("", "vaco.v1.TrajectoryService", "vaco.v1.WeightService"):
        request = health_pb2.HealthCheckRequest(service=service)
        answer = stub.Check(request, timeout=SECONDS)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("debug", [True, False])
def test_reflection_is_for_debugging_only(make_bench: Callable[..., Bench], debug: bool) -> None:
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    bench = make_bench(debug=debug)
    stub = reflection_pb2_grpc.ServerReflectionStub(bench.channel())
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    answers = stub.ServerReflectionInfo(iter([request]), timeout=SECONDS)
    if debug:
        names = {service.name for service in next(answers).list_services_response.service}
        assert "vaco.v1.LearnerService" in names
    else:
        with pytest.raises(grpc.RpcError):
            next(answers)
