"""What the learner says, asked again and again without ever waiting for it."""

import socket
from types import TracebackType
from typing import Final, Self

import grpc
from google.protobuf import json_format
from vaco.channels import sync_channel
from vaco.v1 import learner_pb2 as pb
from vaco.v1.learner_pb2_grpc import LearnerServiceStub
from vaco.vital import stuck_seconds

from vaco_operator.local.run_directory import RunDirectory
from vaco_operator.scaling import Signals

ASK_SECONDS: Final = 0.5
ANSWER_SECONDS: Final = 5.0
BELIEVED_SECONDS: Final = 10.0
"""A learner that has not answered for longer is not available."""


class ReservedPort:
    """A loopback port that stays this run's own while its learner comes and goes.

    The socket is bound but never listens. With SO_REUSEADDR, which gRPC sets as well, the learner
    may listen there; no other program can, nor is it given to an outgoing connection. So actors
    can start before the learner listens, and find it again after a restart.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()


class LearnerProbe:
    """The learner's newest answer, and how old it is.

    Args:
        address: of the learner.
        job_uid: answers about another job are not believed.

    Raises:
        UserError: VACO_STUCK_SECONDS is not a number of seconds.

    """

    def __init__(self, address: str, job_uid: str) -> None:
        self.latest: pb.GetStatusResponse | None = None
        self._uid = job_uid
        self._patience = stuck_seconds()
        self._channel = sync_channel(address)
        self._stub = LearnerServiceStub(self._channel)
        self._call: grpc.Future[pb.GetStatusResponse] | None = None
        self._asked = float("-inf")
        self._answered: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()

    def poll(self, now: float) -> None:
        """Take an answer that has come in, and ask again when it is time."""
        if self._call is not None and self._call.done():
            if self._call.exception() is None and self._call.result().job_uid == self._uid:
                self.latest = self._call.result()
                self._answered = now
            self._call = None
        if self._call is None and now >= self._asked + ASK_SECONDS:
            self._asked = now
            self._call = self._stub.GetStatus.future(pb.GetStatusRequest(), timeout=ANSWER_SECONDS)

    def forget(self) -> None:
        """Believe nothing of it any more: the learner that answered is dead."""
        self._answered = None
        if self._call is not None:
            self._call.cancel()
            self._call = None

    @property
    def answered(self) -> bool:
        """Whether the learner that runs now has ever answered."""
        return self._answered is not None

    def answers(self, now: float) -> bool:
        """Whether the learner that runs now has answered lately."""
        return self._answered is not None and now - self._answered <= BELIEVED_SECONDS

    def stuck(self, now: float, since: float) -> str:
        """Return how the learner that runs `since` is stuck, as a phrase; empty: it is not."""
        if self.latest is None or self._answered is None:
            # It listens before it loads anything that takes long.
            waited = now - since
            return f"it did not answer within {waited:.0f} s" if waited > self._patience else ""
        silent = now - self._answered
        if silent > self._patience:
            return f"it has not answered for {silent:.0f} s"
        return self.latest.stuck

    def signals(self, now: float) -> Signals | None:
        """Return what the learner measured for scaling; None: it has not answered."""
        if self.latest is None or self._answered is None:
            return None
        scaling = self.latest.scaling
        return Signals(
            demand=scaling.demand,
            supply_per_actor=scaling.supply_per_actor,
            lag_versions=scaling.lag_versions,
            tv=scaling.tv,
            age_seconds=scaling.age_seconds + now - self._answered,
        )

    def read_last_words(self, directory: RunDirectory) -> None:
        """Take the answer that the learner left in the run directory when it ended."""
        try:
            text = directory.learner_status_file.read_text(encoding="utf-8")
            answer = json_format.Parse(text, pb.GetStatusResponse(), ignore_unknown_fields=True)
        except (OSError, json_format.ParseError):
            # It was killed before it could: what it answered last stands.
            return
        if answer.job_uid == self._uid and not self._is_older(answer):
            self.latest = answer

    def _is_older(self, answer: pb.GetStatusResponse) -> bool:
        known = self.latest
        return known is not None and (answer.incarnation, answer.version) < (
            known.incarnation,
            known.version,
        )
