"""What the learner says, as far as it is believed.

A learner speaks twice: while it lives it answers `GetStatus`, and when it ends it leaves its last
status in its pod's termination message. Neither is taken at its word. An answer counts if it is of
this very job and comes from the pod that is the learner now. What is older than what was heard
before, a lower incarnation or a lower version of the same, never counts: incarnations grow with
every start of a learner, even of one that has lost its checkpoints (docs/decisions/0009-claims.md).
"""

from dataclasses import dataclass
from typing import Final

from google.protobuf import json_format
from vaco.job import VACOJob, VACOJobStatus
from vaco.v1 import learner_pb2 as pb

from vaco_operator.cluster.observed import Moment, Observed
from vaco_operator.cluster.pods import Exit, Pod
from vaco_operator.scaling import Signals
from vaco_operator.status import cannot_be_told

BELIEVED_SECONDS: Final = 15.0
"""A learner that has not answered for longer, and not to three questions, is not available."""


@dataclass(frozen=True, slots=True)
class Heard:
    """The newest that is believed.

    Attributes:
        status: what was said.
        pod: who said it.
        at: monotonic seconds of when.
        every: seconds between two questions; 0: these are last words, nobody answers any more.

    """

    status: pb.GetStatusResponse
    pod: str
    at: float
    every: float

    @property
    def last(self) -> bool:
        """Whether these are last words."""
        return self.every == 0

    @property
    def until(self) -> float:
        """Monotonic seconds until which the learner is taken to be there."""
        return self.at + max(BELIEVED_SECONDS, 3 * self.every)

    @property
    def done(self) -> bool:
        """Whether the learner has said that training is over, one way or the other."""
        return self.status.phase in (pb.LEARNER_PHASE_COMPLETE, pb.LEARNER_PHASE_FAILED)

    @property
    def signals(self) -> Signals:
        """What it measured for scaling, as old as it was when it was said."""
        scaling = self.status.scaling
        return Signals(
            demand=scaling.demand,
            supply_per_actor=scaling.supply_per_actor,
            lag_versions=scaling.lag_versions,
            tv=scaling.tv,
            age_seconds=scaling.age_seconds,
        )


def listen(job: VACOJob, observed: Observed, heard: Heard | None, now: Moment) -> Heard | None:
    """Return the newest that is believed, given what was believed before."""
    answer = observed.answer
    pod = observed.learner
    if answer is not None and pod is not None and answer.pod == pod.uid:
        said = Heard(answer.status, answer.pod, answer.at, answer.every)
        if answer.status.job_uid == job.metadata.uid and _is_news(said, heard, observed):
            heard = said
    ended = ended_learner(observed)
    words = last_words(ended.ended) if ended is not None and ended.ended is not None else None
    if ended is not None and words is not None:
        said = Heard(words, ended.uid, now.monotonic, every=0)
        repeated = heard is not None and heard.last and heard.pod == ended.uid
        if not repeated and words.job_uid == job.metadata.uid and _is_news(said, heard, observed):
            heard = said
    return heard


def answering(observed: Observed, heard: Heard | None, now: Moment) -> Heard | None:
    """Return what was heard, if it was lately and from the learner that runs now."""
    pod = observed.learner
    if heard is None or heard.last or pod is None or heard.pod != pod.uid:
        return None
    return heard if now.monotonic <= heard.until else None


def ended_learner(observed: Observed) -> Pod | None:
    """Return the learner's pod that ended last."""
    over = [pod for pod in observed.learner_pods if pod.over]
    return max(over, key=lambda pod: (pod.created, pod.name), default=None)


def last_words(end: Exit) -> pb.GetStatusResponse | None:
    """Read the status that a learner left behind; None: it was killed before it could."""
    try:
        told = json_format.Parse(end.message, pb.GetStatusResponse(), ignore_unknown_fields=True)
    except json_format.ParseError:
        # Then it is the end of the log, or nothing at all.
        return None
    return None if cannot_be_told(told) else told


def _is_news(said: Heard, heard: Heard | None, observed: Observed) -> bool:
    known = [each for each in (observed.status, heard.status if heard else None) if each]
    return all(_age(said.status) >= _age(each) for each in known)


def _age(status: pb.GetStatusResponse | VACOJobStatus) -> tuple[int, int]:
    return status.incarnation, status.version
