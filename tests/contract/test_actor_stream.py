"""The actor's line to the learner, against a real gRPC server that does what each test says."""

import queue
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from vaco.channels import server_options
from vaco.trajectory import Fragment, FragmentId, IncomingFragment
from vaco.v1 import trajectory_pb2 as pb
from vaco.v1 import trajectory_pb2_grpc, weights_pb2
from vaco.vital import Vitals
from vaco.weights import Weights, add_weight_servicer, weights_frames, weights_header
from vaco_actor.backoff import Backoff, BackoffSettings
from vaco_actor.ending import Ending, Outcome
from vaco_actor.link import Link
from vaco_actor.mailbox import Mailbox
from vaco_actor.outbox import Fate, Outbox
from vaco_actor.stream import Learner

SECONDS = 20.0
SHORTLY = 0.2
QUICK = BackoffSettings(first=0.01, longest=0.05, patience=60.0)
SPACES = "the spaces"
END = object()

Response = pb.StreamTrajectoriesResponse


class Stream:
    """One call of an actor: what it sent, and what it is to be sent."""

    def __init__(self) -> None:
        self.inbox: queue.Queue[Any] = queue.Queue()
        self.outbox: queue.Queue[Any] = queue.Queue()

    def get(self, kind: str) -> Any:
        """The next request, which must be of `kind`."""
        request = self.inbox.get(timeout=SECONDS)
        assert request is not END, f"the stream ended, {kind} was expected"
        assert request.WhichOneof("message") == kind, request
        return getattr(request, kind)

    def sequences(self, count: int) -> list[int]:
        return [self.get("trajectory").id.sequence for _ in range(count)]

    def is_silent(self) -> bool:
        try:
            self.inbox.get(timeout=SHORTLY)
        except queue.Empty:
            return True
        return False

    def ended(self) -> bool:
        return self.inbox.get(timeout=SECONDS) is END

    def welcome(self, credits_granted: int, incarnation: int = 1) -> pb.Hello:
        hello: pb.Hello = self.get("hello")
        welcome = pb.Welcome(credits=credits_granted, learner_incarnation=incarnation)
        self.outbox.put(Response(welcome=welcome))
        return hello

    def ack(self, *sequences: int, fate: "pb.Fate.ValueType" = pb.FATE_TRAINED) -> None:
        """Tell the fates of several together, as the learner does."""
        acks = [pb.Ack(sequence=sequence, fate=fate) for sequence in sequences]
        alone = len(acks) == 1
        self.outbox.put(Response(ack=acks[0]) if alone else Response(acks=pb.Acks(acks=acks)))

    def end(self, code: grpc.StatusCode | None = None, details: str = "") -> None:
        self.outbox.put(END if code is None else (code, details))


class Servicer(trajectory_pb2_grpc.TrajectoryServiceServicer):
    """Hands every call to the test."""

    def __init__(self) -> None:
        self.streams: queue.Queue[Stream] = queue.Queue()
        self.watches: queue.Queue[tuple[Any, queue.Queue[Any]]] = queue.Queue()

    def StreamTrajectories(self, requests: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        stream = Stream()
        _end_with(context, stream.outbox)
        threading.Thread(target=self._read, args=(requests, stream), daemon=True).start()
        self.streams.put(stream)
        yield from _follow(stream.outbox, context)

    def WatchWeights(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        frames: queue.Queue[Any] = queue.Queue()
        _end_with(context, frames)
        self.watches.put((request, frames))
        yield from _follow(frames, context)

    def stream(self) -> Stream:
        return self.streams.get(timeout=SECONDS)

    def watch(self) -> tuple[Any, "queue.Queue[Any]"]:
        return self.watches.get(timeout=SECONDS)

    @staticmethod
    def _read(requests: Any, stream: Stream) -> None:
        try:
            for request in requests:
                stream.inbox.put(request)
        except grpc.RpcError:
            pass
        stream.inbox.put(END)


def _end_with(context: Any, instructions: "queue.Queue[Any]") -> None:
    """Have the call's end end `_follow`, also if the caller is gone already."""
    if not context.add_callback(lambda: instructions.put(END)):
        instructions.put(END)


def _follow(instructions: "queue.Queue[Any]", context: Any) -> Iterator[Any]:
    while (instruction := instructions.get()) is not END:
        if isinstance(instruction, tuple):
            context.abort(*instruction)
        yield instruction


def whole(weights: Weights) -> Iterator[bytes]:
    """All messages of a version."""
    return weights_frames(weights_header(weights), weights.payload)


class Server:
    """A learner's process, as far as an actor can tell; it can go away and come back."""

    def __init__(self) -> None:
        self.servicer = Servicer()
        self.port = 0
        self._server: grpc.Server | None = None
        self._pool: ThreadPoolExecutor | None = None

    def start(self) -> None:
        self._pool = ThreadPoolExecutor(16)
        self._server = grpc.server(self._pool, options=server_options())
        trajectory_pb2_grpc.add_TrajectoryServiceServicer_to_server(self.servicer, self._server)
        add_weight_servicer(self.servicer, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        self._server.start()

    def stop(self) -> None:
        assert self._server is not None
        assert self._pool is not None
        self._server.stop(None).wait(SECONDS)
        self._pool.shutdown()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    server.start()
    yield server
    server.stop()


class Actor:
    """The actor's end: outbox, mailbox, link."""

    def __init__(self, target: str, backoff: BackoffSettings = QUICK) -> None:
        self.fates: queue.Queue[Fate] = queue.Queue()
        self.outbox = Outbox(self.fates.put)
        self.mailbox = Mailbox()
        self.over = threading.Event()
        hello = pb.Hello(job_uid="job", actor_id="actor-0", actor_incarnation=4, spaces_json=SPACES)
        self.vitals = Vitals(60.0, str)
        self.link = Link(
            Learner(target),
            hello,
            self.outbox,
            self.mailbox,
            self.over.set,
            backoff,
            self.vitals.pulse("link"),
        )
        self.link.start()

    def send(self, *sequences: int, size: int = 1) -> None:
        for sequence in sequences:
            assert self.outbox.wait_for_credit(SECONDS)
            self.outbox.submit(fragment(sequence, size))

    def ending(self) -> Ending:
        ending = self.link.join(SECONDS)
        assert ending is not None, "the link goes on"
        return ending


@pytest.fixture
def connect(server: Server) -> Iterator[Callable[..., Actor]]:
    actors: list[Actor] = []

    def begin(**rest: Any) -> Actor:
        actors.append(Actor(f"127.0.0.1:{server.port}", **rest))
        return actors[-1]

    yield begin
    for actor in actors:
        actor.link.close()


def fragment(sequence: int, size: int = 1) -> Fragment:
    """Two steps of one environment, whose observations hold `size` numbers."""
    steps = (2, 1)
    return Fragment(
        id=FragmentId("job", "actor-0", 4, sequence),
        weights_incarnation=1,
        observations={"observation": np.full((3, 1, size), sequence, np.float32)},
        actions=np.zeros(steps, np.int64),
        rewards=np.ones(steps, np.float32),
        terminated=np.zeros(steps, np.bool_),
        truncated=np.zeros(steps, np.bool_),
        valid=np.ones(steps, np.bool_),
        behaviour_logp=np.zeros(steps, np.float32),
        versions=np.array([3, 3]),
        episode_start=np.zeros((3, 1), np.bool_),
        final_observations={},
        final_steps=np.empty(0, np.int32),
        core_state={},
        return_carry=np.zeros(1, np.float32),
        episode_returns=np.empty(0, np.float32),
        episode_lengths=np.empty(0, np.int32),
        rollout_seconds=0.1,
    )


# Credits.


def test_the_actor_introduces_itself_and_spends_no_more_than_its_credits(
    server: Server, connect: Callable[..., Actor]
) -> None:
    actor = connect()
    assert not actor.outbox.wait_for_credit(0)
    stream = server.servicer.stream()
    hello = stream.welcome(2)
    assert (hello.job_uid, hello.actor_id, hello.actor_incarnation) == ("job", "actor-0", 4)
    assert hello.spaces_json == SPACES
    actor.send(1, 2)
    assert stream.sequences(2) == [1, 2]
    assert not actor.outbox.wait_for_credit(SHORTLY)
    with pytest.raises(RuntimeError, match="3 without a credit"):
        actor.outbox.submit(fragment(3))
    stream.ack(1)
    actor.send(3)
    assert stream.sequences(1) == [3]
    assert not actor.outbox.wait_for_credit(0)


def test_a_grant_changes_what_may_be_in_flight(
    server: Server, connect: Callable[..., Actor]
) -> None:
    actor = connect()
    stream = server.servicer.stream()
    stream.welcome(1)
    actor.send(1)
    assert not actor.outbox.wait_for_credit(0)
    stream.outbox.put(Response(credit_grant=pb.CreditGrant(credits=3)))
    actor.send(2, 3)
    assert stream.sequences(3) == [1, 2, 3]
    stream.outbox.put(Response(credit_grant=pb.CreditGrant(credits=1)))
    stream.ack(1, 2)
    for _ in range(2):
        actor.fates.get(timeout=SECONDS)
    assert not actor.outbox.wait_for_credit(0)
    stream.ack(3)
    assert actor.outbox.wait_for_credit(SECONDS)


def test_a_fragment_that_was_begun_outlives_its_credit() -> None:
    outbox = Outbox(lambda _fate: None)
    outbox.connected(2)
    assert outbox.wait_for_credit(0)
    outbox.submit(fragment(1))
    assert outbox.wait_for_credit(0)
    outbox.granted(1)
    outbox.submit(fragment(2))
    assert outbox.unacknowledged == 2
    assert outbox.next_message() is not None
    assert outbox.next_message() is None
    outbox.acknowledged([pb.Ack(sequence=1, fate=pb.FATE_TRAINED)])
    assert outbox.next_message() is not None


def test_every_fate_is_told_once(server: Server, connect: Callable[..., Actor]) -> None:
    actor = connect()
    stream = server.servicer.stream()
    stream.welcome(3)
    actor.send(1, 2, 3)
    stream.ack(2, fate=pb.FATE_STALE)
    stream.ack(2, 99)
    stream.ack(1)
    stream.ack(3, fate=pb.FATE_REJECTED)
    fates = [actor.fates.get(timeout=SECONDS) for _ in range(3)]
    assert fates == [Fate(2, pb.FATE_STALE), Fate(2, pb.FATE_TRAINED), Fate(2, pb.FATE_REJECTED)]
    assert actor.fates.empty()
    assert actor.outbox.unacknowledged == 0


def test_fragments_out_of_order_are_refused(server: Server, connect: Callable[..., Actor]) -> None:
    actor = connect()
    server.servicer.stream().welcome(3)
    actor.send(2)
    assert actor.outbox.wait_for_credit(0)
    with pytest.raises(RuntimeError, match="out of order"):
        actor.outbox.submit(fragment(2))


# The learner goes away.


def test_what_was_not_acknowledged_is_sent_again_in_order(
    server: Server, connect: Callable[..., Actor]
) -> None:
    actor = connect()
    stream = server.servicer.stream()
    stream.welcome(4)
    actor.send(1, 2, 3)
    assert stream.sequences(3) == [1, 2, 3]
    stream.ack(2)
    assert actor.fates.get(timeout=SECONDS)
    server.stop()
    actor.send(4, 5)
    server.start()
    stream = server.servicer.stream()
    stream.welcome(8)
    assert stream.sequences(4) == [1, 3, 4, 5]
    actor.send(6)
    assert stream.sequences(1) == [6]


def test_what_is_sent_again_respects_the_new_credits(
    server: Server, connect: Callable[..., Actor]
) -> None:
    actor = connect()
    stream = server.servicer.stream()
    stream.welcome(4)
    actor.send(1, 2, 3, 4)
    assert stream.sequences(4) == [1, 2, 3, 4]
    stream.end(grpc.StatusCode.UNAVAILABLE, "restarting")
    stream = server.servicer.stream()
    stream.welcome(2)
    assert stream.sequences(2) == [1, 2]
    assert stream.is_silent()
    stream.ack(1)
    assert stream.sequences(1) == [3]
    # An acknowledgement of what was to be sent again spares sending it.
    stream.ack(4, 2)
    for _ in range(3):
        actor.fates.get(timeout=SECONDS)
    actor.send(5)
    assert stream.sequences(1) == [5]


def test_a_large_fragment_is_sent_again_whole(
    server: Server, connect: Callable[..., Actor]
) -> None:
    actor = connect()
    for attempt in range(2):
        stream = server.servicer.stream()
        stream.welcome(2)
        if attempt == 0:
            actor.send(1, size=300_000)
        frames = [stream.get("frame") for _ in range(4)]
        assert [frame.index for frame in frames] == [0, 1, 2, 3]
        whole = b"".join(frame.data for frame in frames)
        came = Fragment.decode(IncomingFragment.parse(whole))
        assert came.id.sequence == 1
        assert came.observations["observation"].shape == (3, 1, 300_000)
        assert (came.observations["observation"] == 1).all()
        stream.end(grpc.StatusCode.ABORTED)


@pytest.mark.parametrize("code", [None, grpc.StatusCode.ABORTED, grpc.StatusCode.INTERNAL])
def test_streams_that_may_come_back_do(
    server: Server, connect: Callable[..., Actor], code: grpc.StatusCode | None
) -> None:
    actor = connect()
    for _ in range(3):
        stream = server.servicer.stream()
        stream.welcome(1)
        stream.end(code)
    server.servicer.stream().welcome(1)
    assert not actor.over.is_set()


@pytest.mark.parametrize("welcomed", [True, False])
def test_a_refusal_is_final(server: Server, connect: Callable[..., Actor], welcomed: bool) -> None:
    actor = connect()
    stream = server.servicer.stream()
    if welcomed:
        stream.welcome(1)
    stream.end(grpc.StatusCode.FAILED_PRECONDITION, "these are other spaces")
    assert actor.ending() == Ending(Outcome.REFUSED, "these are other spaces")
    assert actor.over.is_set()


def test_a_newer_incarnation_of_itself_ends_it_but_a_restart_may_help(
    server: Server, connect: Callable[..., Actor]
) -> None:
    actor = connect()
    server.servicer.stream().end(grpc.StatusCode.ALREADY_EXISTS, "fenced by 9")
    assert actor.ending() == Ending(Outcome.FENCED, "fenced by 9")


def test_a_learner_older_than_the_weights_it_has_gets_nothing(
    server: Server, connect: Callable[..., Actor]
) -> None:
    actor = connect()
    server.servicer.stream().welcome(2, incarnation=7)
    _, frames = server.servicer.watch()
    for frame in whole(Weights(7, 3, b"weights", SPACES)):
        frames.put(frame)
    assert actor.mailbox.wait(SECONDS)
    actor.send(1)
    actor.link.close()

    again = connect()
    again.mailbox.offer(Weights(7, 3, b"weights", SPACES))
    old = server.servicer.stream()
    old.welcome(2, incarnation=6)
    assert old.ended()
    assert not again.outbox.wait_for_credit(0)
    assert not again.link.connected
    newer = server.servicer.stream()
    newer.welcome(2, incarnation=8)
    again.send(1)
    assert newer.sequences(1) == [1]
    assert again.link.connected


def test_patience_has_an_end(server: Server) -> None:
    server.stop()
    actor = Actor(f"127.0.0.1:{server.port}", BackoffSettings(0.01, 0.05, patience=0.4))
    assert actor.ending().outcome is Outcome.LOST
    server.start()


def test_waits_double_within_bounds_and_start_over_after_a_success() -> None:
    now = 0.0
    backoff = Backoff(BackoffSettings(0.2, 5.0, 600.0), lambda: now, random.Random(1))
    for most in (0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0):
        delay = backoff.delay()
        assert delay is not None
        assert most / 2 <= delay <= most
        now += delay
    backoff.succeeded()
    delays = []
    while (delay := backoff.delay()) is not None:
        delays.append(delay)
        now += delay
    assert 0.1 <= delays[0] <= 0.2
    assert sum(delays) == pytest.approx(600.0)
    assert len(set(delays)) > 100


def test_patience_counts_from_the_first_failure_not_from_the_last_success() -> None:
    now = 0.0
    backoff = Backoff(BackoffSettings(0.2, 5.0, 600.0), lambda: now, random.Random(1))
    backoff.succeeded()
    now = 10_000.0
    assert backoff.delay() is not None


# Leaving.


def test_goodbye_comes_after_everything_and_farewell_ends_it(
    server: Server, connect: Callable[..., Actor]
) -> None:
    actor = connect()
    stream = server.servicer.stream()
    stream.welcome(2)
    actor.send(1, 2)
    actor.outbox.leave()
    assert stream.sequences(2) == [1, 2]
    stream.get("goodbye")
    assert stream.is_silent()
    assert not actor.over.is_set()
    stream.outbox.put(Response(farewell=pb.Farewell()))
    assert actor.ending() == Ending(Outcome.DRAINED)


def test_a_drain_goes_on_after_the_learner_was_away(
    server: Server, connect: Callable[..., Actor]
) -> None:
    actor = connect()
    stream = server.servicer.stream()
    stream.welcome(2)
    actor.send(1, 2)
    stream.sequences(2)
    actor.outbox.leave()
    stream.get("goodbye")
    server.stop()
    server.start()
    stream = server.servicer.stream()
    stream.welcome(1)
    assert stream.sequences(1) == [1]
    assert stream.is_silent()
    stream.ack(1)
    assert stream.sequences(1) == [2]
    stream.get("goodbye")
    stream.outbox.put(Response(farewell=pb.Farewell()))
    assert actor.ending() == Ending(Outcome.DRAINED)


def test_with_nothing_to_lose_nobody_waits_for_a_learner_that_is_away(
    server: Server, connect: Callable[..., Actor]
) -> None:
    actor = connect()
    stream = server.servicer.stream()
    stream.welcome(1)
    actor.send(1)
    stream.sequences(1)
    stream.ack(1)
    actor.fates.get(timeout=SECONDS)
    server.stop()
    actor.outbox.leave()
    assert actor.ending() == Ending(Outcome.DRAINED)
    server.start()


@pytest.mark.parametrize("welcomed", [True, False])
def test_a_farewell_out_of_the_blue_means_the_job_is_complete(
    server: Server, connect: Callable[..., Actor], welcomed: bool
) -> None:
    actor = connect()
    stream = server.servicer.stream()
    if welcomed:
        stream.welcome(1)
        actor.send(1)
    stream.outbox.put(Response(farewell=pb.Farewell()))
    assert actor.ending() == Ending(Outcome.COMPLETE)


def test_a_failure_is_the_last_message_and_needs_no_credit(
    server: Server, connect: Callable[..., Actor]
) -> None:
    actor = connect()
    stream = server.servicer.stream()
    stream.welcome(1)
    actor.send(1)
    actor.outbox.fail("the environment gave NaN", permanent=True)
    assert stream.sequences(1) == [1]
    failure = stream.get("failure")
    assert (failure.message, failure.permanent) == ("the environment gave NaN", True)
    stream.end()
    assert actor.ending() == Ending(Outcome.REPORTED)


def test_a_failure_waits_for_a_learner_to_tell(
    server: Server, connect: Callable[..., Actor]
) -> None:
    server.stop()
    actor = connect()
    actor.outbox.fail("no display", permanent=False)
    server.start()
    stream = server.servicer.stream()
    stream.welcome(1)
    assert stream.get("failure").message == "no display"
    stream.end(grpc.StatusCode.FAILED_PRECONDITION, "the job failed")
    assert actor.ending() == Ending(Outcome.REPORTED)


def test_hanging_up_ends_the_call(server: Server, connect: Callable[..., Actor]) -> None:
    actor = connect()
    stream = server.servicer.stream()
    stream.welcome(1)
    actor.link.close()
    assert stream.ended()
    assert actor.over.is_set()
    assert actor.link.join(0) is None


# Evaluation.


def test_an_evaluation_is_asked_for_and_answered(
    server: Server, connect: Callable[..., Actor]
) -> None:
    actor = connect()
    stream = server.servicer.stream()
    stream.welcome(1)
    assert actor.link.take_evaluation() is None
    for number in (1, 2):
        request = pb.EvaluationRequest(request_id=number, episodes=3, seed=8)
        stream.outbox.put(Response(evaluation_request=request))
    actor.send(1)
    stream.ack(1)
    actor.fates.get(timeout=SECONDS)
    taken = actor.link.take_evaluation()
    assert taken is not None
    assert taken.request_id == 2
    assert actor.link.take_evaluation() is None
    actor.outbox.report(pb.EvaluationResult(request_id=2, version=5, returns=[1, 2, 3]))
    assert stream.sequences(1) == [1]
    result = stream.get("evaluation_result")
    assert (result.request_id, list(result.returns)) == (2, [1, 2, 3])


# Weights.


def publish(frames: "queue.Queue[Any]", incarnation: int, version: int, size: int = 10) -> None:
    payload = bytes([version % 256]) * size
    for frame in whole(Weights(incarnation, version, payload, SPACES)):
        frames.put(frame)


def newest(actor: Actor, than: Weights | None = None) -> tuple[int, int]:
    assert actor.mailbox.wait(SECONDS, than=than)
    weights = actor.mailbox.newest
    assert weights is not None
    return weights.incarnation, weights.version


def test_newer_weights_replace_older_ones(server: Server, connect: Callable[..., Actor]) -> None:
    actor = connect()
    request, frames = server.servicer.watch()
    assert (request.job_uid, request.actor_id) == ("job", "actor-0")
    assert (request.known_incarnation, request.known_version) == (0, 0)
    publish(frames, 1, 0)
    assert newest(actor) == (1, 0)
    before = actor.mailbox.newest
    publish(frames, 1, 7, size=3 << 20)
    assert newest(actor, than=before) == (1, 7)
    weights = actor.mailbox.newest
    assert weights is not None
    assert weights.payload == bytes([7]) * (3 << 20)


def test_an_older_incarnation_is_fenced_whatever_its_version(
    server: Server, connect: Callable[..., Actor]
) -> None:
    actor = connect()
    _, frames = server.servicer.watch()
    publish(frames, 2, 5)
    assert newest(actor) == (2, 5)
    before = actor.mailbox.newest
    publish(frames, 1, 900)
    publish(frames, 2, 4)
    publish(frames, 2, 6)
    assert newest(actor, than=before) == (2, 6)
    before = actor.mailbox.newest
    publish(frames, 3, 6)
    assert newest(actor, than=before) == (3, 6)


def test_a_broken_watch_resumes_from_what_is_known(
    server: Server, connect: Callable[..., Actor]
) -> None:
    actor = connect()
    _, frames = server.servicer.watch()
    publish(frames, 1, 3)
    assert newest(actor) == (1, 3)
    server.stop()
    server.start()
    request, frames = server.servicer.watch()
    assert (request.known_incarnation, request.known_version) == (1, 3)
    before = actor.mailbox.newest
    publish(frames, 2, 4)
    assert newest(actor, than=before) == (2, 4)


def test_damaged_weights_are_never_used(server: Server, connect: Callable[..., Actor]) -> None:
    actor = connect()
    _, frames = server.servicer.watch()
    header, data = whole(Weights(1, 1, b"sound", SPACES))
    frames.put(header)
    frames.put(data.replace(b"sound", b"s0und"))
    _, frames = server.servicer.watch()
    assert actor.mailbox.newest is None
    publish(frames, 1, 1)
    assert newest(actor) == (1, 1)


def test_weights_for_other_spaces_are_refused(
    server: Server, connect: Callable[..., Actor]
) -> None:
    actor = connect()
    _, frames = server.servicer.watch()
    for frame in whole(Weights(1, 1, b"x", "others")):
        frames.put(frame)
    ending = actor.ending()
    assert ending.outcome is Outcome.REFUSED
    assert "others" in ending.details
    assert SPACES in ending.details


def test_a_learner_of_another_job_is_refused(server: Server, connect: Callable[..., Actor]) -> None:
    actor = connect()
    _, frames = server.servicer.watch()
    frames.put((grpc.StatusCode.FAILED_PRECONDITION, "this is the learner of job other"))
    assert actor.ending() == Ending(Outcome.REFUSED, "this is the learner of job other")


def test_a_reader_waits_only_for_what_is_newer() -> None:
    mailbox = Mailbox()
    assert not mailbox.wait(0)
    weights = Weights(1, 1, b"x", SPACES)
    assert mailbox.offer(weights)
    assert not mailbox.offer(Weights(1, 1, b"y", SPACES))
    assert mailbox.wait(0)
    assert not mailbox.wait(0, than=weights)
    assert weights_pb2.WatchWeightsRequest().known_version == 0
