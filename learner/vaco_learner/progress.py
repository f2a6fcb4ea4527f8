"""Where training is: written by the training thread once per phase, read by whoever asks.

What the ledger and the roster know is not repeated here.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from vaco.v1 import learner_pb2

from vaco_learner.evaluation_desk import EvaluationOutcome
from vaco_learner.windows import LagSummary

WAITS_FOR_ACTORS: Final = "waiting for the first actor"


class LearnerPhase(Enum):
    """The learner's life."""

    STARTING = learner_pb2.LEARNER_PHASE_STARTING
    TRAINING = learner_pb2.LEARNER_PHASE_TRAINING
    COMPLETE = learner_pb2.LEARNER_PHASE_COMPLETE
    FAILED = learner_pb2.LEARNER_PHASE_FAILED
    INTERRUPTED = learner_pb2.LEARNER_PHASE_INTERRUPTED


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known after a phase.

    Attributes:
        version: of the weights.
        episodes: ended, over the job's life.
        return_mean: over the last episodes; None: none ended.
        return_episodes: how many those are.
        lag: over recent samples.
        demand: samples per second that training could take if it never waited; 0: not known.
        steps_per_second: samples trained, recently.
        tv: of the last update against the filter's anchor; None: nothing was trained yet.
        tv_threshold: None: nothing is filtered.
        filtered_share: of the last update.

    """

    version: int = 0
    episodes: int = 0
    return_mean: float | None = None
    return_episodes: int = 0
    lag: LagSummary = field(default_factory=LagSummary)
    demand: float = 0.0
    steps_per_second: float = 0.0
    tv: float | None = None
    tv_threshold: float | None = None
    filtered_share: float | None = None


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares of held-out problems that were answered right: by the first evaluation, and since."""

    initial: float
    best: float
    latest: float

    def then(self, latest: float) -> "Accuracy":
        """Take in another evaluation."""
        return Accuracy(self.initial, max(self.best, latest), latest)


@dataclass(frozen=True, slots=True)
class View:
    """Everything at one moment."""

    phase: LearnerPhase
    message: str
    incarnation: int
    standing: Standing
    checkpoint_version: int
    evaluation: EvaluationOutcome | None
    accuracy: Accuracy | None
    train_seconds: float
    uptime_seconds: float
    signals_age: float


class Progress:
    """Thread-safe.

    Args:
        clock: monotonic seconds.
        of_language: whether evaluations have right and wrong answers.

    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, *, of_language: bool = False
    ) -> None:
        self._clock = clock
        self._of_language = of_language
        self._accuracy: Accuracy | None = None
        self._lock = threading.Lock()
        self._started = clock()
        self._phase = LearnerPhase.STARTING
        self._message = WAITS_FOR_ACTORS
        self._incarnation = 0
        self._standing = Standing()
        self._checkpoint_version = 0
        self._evaluation: EvaluationOutcome | None = None
        self._earlier_seconds = 0.0
        self._first_fragment: float | None = None
        self._measured: float | None = None

    def restored(
        self,
        incarnation: int,
        standing: Standing,
        train_seconds: float,
        evaluation: EvaluationOutcome | None,
        accuracy: Accuracy | None,
    ) -> None:
        """Note where this learner begins."""
        with self._lock:
            self._incarnation = incarnation
            self._standing = standing
            self._earlier_seconds = train_seconds
            self._evaluation = evaluation
            self._accuracy = accuracy

    def prepares(self, how: str) -> None:
        """Note what is done, or awaited, before the first fragment."""
        with self._lock:
            if self._phase is LearnerPhase.STARTING:
                self._message = how

    def fragment_admitted(self) -> None:
        """Note that a fragment came in; with the first one training begins."""
        if self._first_fragment is not None:
            return
        with self._lock:
            self._first_fragment = self._clock()
            if self._phase is LearnerPhase.STARTING:
                self._phase, self._message = LearnerPhase.TRAINING, ""

    def trained(self, standing: Standing) -> None:
        """Note a finished phase."""
        with self._lock:
            self._standing = standing
            self._measured = self._clock()

    def checkpointed(self, version: int) -> None:
        """Note a complete checkpoint."""
        with self._lock:
            self._checkpoint_version = version

    def evaluated(self, outcome: EvaluationOutcome) -> None:
        """Note an evaluation."""
        with self._lock:
            self._evaluation = outcome
            if self._of_language:
                now = outcome.accuracy
                before = self._accuracy or Accuracy(now, now, now)
                self._accuracy = before.then(now)

    def waits(self, why: str) -> None:
        """Note what training waits for, other than fragments; empty: for nothing."""
        with self._lock:
            if self._phase is LearnerPhase.TRAINING:
                self._message = why

    def ended(self, phase: LearnerPhase, message: str) -> None:
        """Note how it ended."""
        with self._lock:
            self._phase, self._message = phase, message

    def train_seconds(self) -> float:
        """Return the seconds since the first fragment was admitted, over all incarnations."""
        first = self._first_fragment
        return self._earlier_seconds + (self._clock() - first if first is not None else 0.0)

    def view(self) -> View:
        """Return everything at this moment."""
        with self._lock:
            now = self._clock()
            return View(
                phase=self._phase,
                message=self._message,
                incarnation=self._incarnation,
                standing=self._standing,
                checkpoint_version=self._checkpoint_version,
                evaluation=self._evaluation,
                accuracy=self._accuracy,
                train_seconds=self.train_seconds(),
                uptime_seconds=now - self._started,
                signals_age=now - (self._started if self._measured is None else self._measured),
            )
