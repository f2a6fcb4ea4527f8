"""What an actor has made and the learner has not answered for: the hand-over between two threads.

    rollout thread                          link thread (gRPC)
    wait_for_credit -> submit(fragment) --> next_message -> stream
                          [unacknowledged, by sequence number]
                                            acknowledged(acks) <-- Ack, Acks

A fragment stays here until its fate is known. A new one is taken only while fewer than `credits`
are here, so what an actor holds is bounded however long the learner is away. With a new stream,
everything that is still here is sent again, in order.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from vaco.experience import Experience
from vaco.trajectory import Request, request_parts
from vaco.v1 import trajectory_pb2 as pb

from vaco_actor.given_up import Lost

_MAX_RESULTS: Final = 4


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a fragment.

    Attributes:
        samples: In it.
        fate: As the learner said.

    """

    samples: int
    fate: "pb.Fate.ValueType"


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent without anything in between.

    Attributes:
        requests: In order.
        last: Whether nothing follows it.

    """

    requests: Sequence[Request]
    last: bool = False


@dataclass(frozen=True, slots=True)
class _Pending:
    message: Message
    samples: int


class Outbox:
    """Fragments on their way, and what else there is to say; safe to use from several threads.

    Args:
        on_fate: Called with every fragment's fate, in the link's thread.

    """

    def __init__(self, on_fate: Callable[[Fate], None]) -> None:
        self._on_fate = on_fate
        self._changed = threading.Condition()
        self._wake: Callable[[], None] = _nothing
        self._credits = 0
        self._claimed = False
        self._pending: dict[int, _Pending] = {}
        self._unsent: deque[int] = deque()
        self._results: deque[Message] = deque(maxlen=_MAX_RESULTS)
        self._last: Message | None = None
        self._failed = False
        self._reported = False

    def set_wake(self, wake: Callable[[], None] | None) -> None:
        """Have `wake` called whenever there is something new to send; None: nobody listens."""
        with self._changed:
            self._wake = wake or _nothing

    # The rollout thread's side.

    def wait_for_credit(self, seconds: float) -> bool:
        """Wait until one more fragment may be made; return whether it may.

        That permission holds until the fragment is submitted, even if the learner grants fewer
        credits meanwhile: the fragment then waits here.
        """
        with self._changed:
            if not self._claimed:
                self._claimed = self._changed.wait_for(
                    lambda: len(self._pending) < self._credits, seconds
                )
            return self._claimed

    def submit(self, fragment: Experience) -> None:
        """Take a fragment, whose arrays must not be written any more.

        Raises:
            TypeError: an array's dtype has no place on the wire.
            ValueError: it is larger than any learner accepts.
            RuntimeError: Nobody waited for a credit for it, or its sequence number is not new.

        """
        message = Message(request_parts(fragment))
        sequence = fragment.id.sequence
        with self._changed:
            if not self._claimed:
                raise RuntimeError(f"fragment {sequence} without a credit")
            if self._pending and sequence <= max(self._pending):
                raise RuntimeError(f"fragment {sequence} is out of order")
            self._claimed = False
            self._pending[sequence] = _Pending(message, fragment.samples)
            self._unsent.append(sequence)
            # If others wait before it, the stream is busy with them, or waits for a credit.
            if len(self._unsent) == 1:
                self._wake()

    def report(self, result: pb.EvaluationResult) -> None:
        """Take the result of an evaluation. Of results that nobody fetches the newest are kept."""
        request = pb.StreamTrajectoriesRequest(evaluation_result=result)
        with self._changed:
            self._results.append(Message([request]))
            self._wake()

    def leave(self) -> None:
        """Say goodbye after everything else."""
        self._finish(pb.StreamTrajectoriesRequest(goodbye=pb.Goodbye()))

    def fail(self, message: str, *, permanent: bool) -> None:
        """Say why we cannot go on; what has no credit is not sent any more.

        Args:
            message: For whoever started the job.
            permanent: Whether a restart would fail in the same way.

        """
        failure = pb.ActorFailure(message=message, permanent=permanent)
        self._failed = True
        self._finish(pb.StreamTrajectoriesRequest(failure=failure))

    def _finish(self, request: pb.StreamTrajectoriesRequest) -> None:
        with self._changed:
            self._last = Message([request], last=True)
            self._wake()

    @property
    def unacknowledged(self) -> int:
        """Fragments whose fate is not known."""
        with self._changed:
            return len(self._pending)

    @property
    def unanswered(self) -> Lost:
        """The same fragments, with the samples that they hold."""
        with self._changed:
            samples = sum(pending.samples for pending in self._pending.values())
            return Lost(samples, len(self._pending))

    # The link thread's side.

    @property
    def leaving(self) -> bool:
        """Whether there comes no more, by our own will."""
        return self._last is not None and not self._failed

    @property
    def failed(self) -> bool:
        """Whether we cannot go on."""
        return self._failed

    @property
    def reported(self) -> bool:
        """Whether the learner was told that we cannot go on."""
        return self._reported

    @property
    def nothing_to_keep(self) -> bool:
        """Whether we are leaving and nothing would be lost without another stream."""
        with self._changed:
            return self.leaving and not self._pending

    def connected(self, credits_granted: int) -> None:
        """Begin with a new stream: everything that is not acknowledged is sent again."""
        with self._changed:
            self._unsent = deque(self._pending)
            self._grant(credits_granted)

    def granted(self, credits_granted: int) -> None:
        """Note how many fragments may be in flight from now on."""
        with self._changed:
            self._grant(credits_granted)

    def _grant(self, credits_granted: int) -> None:
        self._credits = credits_granted
        self._changed.notify_all()

    def next_message(self) -> Message | None:
        """Return what to send next; None: nothing, or nothing there is a credit for."""
        with self._changed:
            if self._results:
                return self._results.popleft()
            in_flight = len(self._pending) - len(self._unsent)
            if self._unsent and in_flight < self._credits:
                return self._pending[self._unsent.popleft()].message
            return self._last if self._failed or not self._unsent else None

    def sent(self, message: Message) -> None:
        """Note that a message went out whole."""
        self._reported = self._reported or (message.last and self._failed)

    def acknowledged(self, acks: Iterable[pb.Ack]) -> None:
        """Let go of fragments. One that is not here was acknowledged before; it does not matter.

        One that was to be sent again need not be. Whoever waits for a credit is woken once.
        """
        fates: list[Fate] = []
        with self._changed:
            for ack in acks:
                pending = self._pending.pop(ack.sequence, None)
                if pending is None:
                    continue
                if ack.sequence in self._unsent:
                    self._unsent.remove(ack.sequence)
                fates.append(Fate(pending.samples, ack.fate))
            self._changed.notify_all()
        for fate in fates:
            self._on_fate(fate)


def _nothing() -> None:
    """Stand in until somebody listens."""
