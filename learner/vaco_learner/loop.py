"""The training loop, in the main thread.

    BatchSource.next ----> Trainer.train ----> Publisher.publish
      waits for fragments                            |
    stop condition? <---- journal, status <---- acknowledge
         |                checkpoint when due
         '--> final checkpoint

It waits in one place only, for fragments, and at most a tenth of a second before it looks at what
`Control` has to say. Ingest wakes it; publishing goes on behind its back.
"""

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import safetensors.torch
from vaco.experience import Experience
from vaco.job import VACOJobSpec
from vaco.vital import Pulse
from vaco_policy.parameters import PayloadWriter

from vaco_learner.admission import Admission
from vaco_learner.batch_source import BatchSource
from vaco_learner.checkpoint import Checkpoint, CheckpointStore
from vaco_learner.claims import Claim
from vaco_learner.control import Control, JobFailedError
from vaco_learner.evaluation_desk import EvaluationOutcome
from vaco_learner.journal import Journal
from vaco_learner.ledger import Ledger
from vaco_learner.lineage import Lineage
from vaco_learner.metrics import Board
from vaco_learner.optimiser import NonFiniteUpdate
from vaco_learner.progress import Progress, Standing
from vaco_learner.publisher import Publisher
from vaco_learner.server import LearnerServer
from vaco_learner.state import LearnerState
from vaco_learner.stop import stop_reason
from vaco_learner.trainer import PhaseStats, Trainer
from vaco_learner.windows import LagWindow, RateWindow, ReturnWindow

_LOG = logging.getLogger(__name__)

DISK_PATIENCE_SECONDS: Final = 600.0
"""For how long training waits for room on the disk, before the learner ends and is restarted."""
_DISK_POLL_SECONDS: Final = 0.5
_DEMAND_SECONDS: Final = 30.0
_SPEED_SECONDS: Final = 10.0
_EXCERPT_SECONDS: Final = 10.0
"""Between two versions of which a few samples are written down for people to read."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the loop talks to."""

    batches: BatchSource
    admission: Admission
    ledger: Ledger
    publisher: Publisher
    server: LearnerServer
    claim: Claim
    store: CheckpointStore
    journal: Journal
    board: Board
    progress: Progress
    control: Control
    pulse: Pulse
    outcomes: deque[EvaluationOutcome]


class TrainingLoop:
    """Trains until a stop condition holds.

    Args:
        spec: of the job.
        trainer: owns the policy.
        lineage: of this learner's weights.
        version: under which they are published.
        returns: of earlier episodes.
        around: what it talks to.

    """

    def __init__(
        self,
        spec: VACOJobSpec,
        trainer: Trainer,
        lineage: Lineage,
        version: int,
        returns: ReturnWindow,
        around: Surroundings,
    ) -> None:
        self._spec = spec
        self._trainer = trainer
        self._writer = PayloadWriter(trainer.published, spec.learner.weights_dtype)
        self._lineage = lineage
        self._version = version
        self._returns = returns
        self._around = around
        self._lags = LagWindow()
        self._demand = RateWindow(_DEMAND_SECONDS)
        self._speed = RateWindow(_SPEED_SECONDS)
        self._warm = False
        self._waiting_since = time.monotonic()
        self._next_checkpoint = 0.0
        self._next_excerpts = 0.0
        self._next_evaluation = self._first_evaluation()

    def run(self) -> str:
        """Publish the weights it begins with and train; return which stop condition holds.

        Raises:
            StopRequestedError: it was told to stop.
            JobFailedError: training cannot go on.
            FencedError: a newer learner has taken over.

        """
        self._around.pulse.beat()
        self._publish()
        self.checkpoint()
        self._evaluate_when_due()
        self._waiting_since = time.monotonic()
        while (reason := self._stop_reason()) is None:
            self._around.pulse.beat()
            self._around.control.check()
            fragments = self._around.batches.next(self._version)
            if fragments is not None:
                self._phase(fragments)
                self._evaluate_when_due()
                self._checkpoint_when_due()
            elif self._around.publisher.owes:
                self._publish()
            self._note_evaluations()
        return reason

    def settle_rest(self) -> None:
        """Close admission and tell actors that what waits is not trained: training is complete."""
        self._around.admission.close()
        rest = self._around.batches.rest()
        if rest:
            settlements = self._around.admission.stale(rest, "training is complete")
            self._around.server.acknowledge(settlements)

    def make_room(self) -> None:
        """Drop what waits, without an answer: who stays sends it to the next learner.

        Otherwise what an actor that leaves says last would not be read behind its fragments.
        """
        self._around.batches.rest()
        self._around.server.room_made()

    def end(self) -> None:
        """Write the last checkpoint: no version comes after it.

        Raises:
            OSError: the disk is full or gone.
            FencedError: a newer learner has taken over.

        """
        self.checkpoint()
        try:
            self._around.claim.release(self._version)
        except OSError as error:
            _LOG.warning("versions above %d stay reserved: %s", self._version, error)

    def checkpoint(self) -> None:
        """Write a checkpoint of the weights as they are.

        Raises:
            OSError: the disk is full or gone.
            FencedError: a newer learner has taken over.

        """
        self._around.journal.sync()
        snapshot = self._around.admission.snapshot()
        trainer = self._trainer.state()
        view = self._around.progress.view()
        state = LearnerState(
            version=self._version,
            lineage=self._lineage,
            counts=snapshot.counts,
            actors=snapshot.actors,
            contract=self._trainer.contract,
            episodes=self._returns.ended,
            returns=tuple(self._returns.returns()),
            train_seconds=view.train_seconds,
            evaluation=view.evaluation,
            accuracy=view.accuracy,
            trainer=trainer.document,
        )
        optimizer = safetensors.torch.save(trainer.optimizer)
        checkpoint = Checkpoint(self._version, trainer.policy, optimizer, state.to_document())
        self._around.store.save(checkpoint, self._around.claim)
        self._around.progress.checkpointed(self._version)
        self._next_checkpoint = time.monotonic() + self._spec.learner.checkpoint.interval_seconds

    def _phase(self, fragments: Sequence[Experience]) -> None:
        """Train on a batch and tell everyone."""
        began = time.monotonic()
        waited = began - self._waiting_since
        step_lags = [self._around.batches.step_lags(f, self._version) for f in fragments]
        lags = [int(each.max(initial=0)) for each in step_lags]
        self._reserve(self._version + 1)
        try:
            stats = self._trainer.train(fragments, self._around.pulse.beat, step_lags)
        except NonFiniteUpdate as error:
            scale = ", or scale rewards with `spec.policy.normaliseReturns`"
            raise JobFailedError(
                f"training diverged at version {self._version}: {error}. Lower"
                f" `spec.algorithm.learningRate`{'' if self._spec.is_language else scale}."
            ) from error
        self._lags.add(np.concatenate(step_lags), np.concatenate([f.acted for f in fragments]))
        # What a replaced learner trained counts for nothing: it raises here, and tells nobody.
        self._around.claim.check()
        self._version += 1
        self._publish()
        settlements = self._around.admission.trained(fragments, lags, stats.filtered_samples)
        self._returns.add(np.concatenate([f.episode_returns for f in fragments]).tolist())
        busy = time.monotonic() - began
        # Again: a process that was frozen meanwhile would go on from here.
        self._around.claim.check()
        self._account(fragments, stats, waited, busy)
        self._around.server.acknowledge(settlements)
        self._waiting_since = time.monotonic()

    def _reserve(self, version: int) -> None:
        """Wait until `version` is reserved, before it is trained: nothing is half done meanwhile.

        Raises:
            OSError: the disk was full or gone for longer than `DISK_PATIENCE_SECONDS`.
            StopRequestedError: the learner was told to stop.
            FencedError: a newer learner has taken over.

        """
        give_up: float | None = None
        while True:
            try:
                self._around.claim.reserve(version)
            except OSError as error:
                if give_up is None:
                    give_up = time.monotonic() + DISK_PATIENCE_SECONDS
                    _LOG.error("training waits for the disk: %s", error)
                    self._around.progress.waits(f"training waits for the disk: {error}")
                if time.monotonic() > give_up:
                    raise
            else:
                break
            self._around.pulse.beat()
            self._around.control.check()
            time.sleep(_DISK_POLL_SECONDS)
        if give_up is not None:
            self._around.progress.waits("")

    def _publish(self) -> None:
        self._around.publisher.publish(self._version, self._writer)

    def _account(
        self, fragments: Sequence[Experience], stats: PhaseStats, waited: float, busy: float
    ) -> None:
        """Write down a phase: status, journal, TensorBoard."""
        if self._warm:
            self._demand.add(stats.samples, busy)
        self._warm = True
        self._speed.add(stats.samples, waited + busy)
        standing = Standing(
            version=self._version,
            episodes=self._returns.ended,
            return_mean=self._returns.mean,
            return_episodes=self._returns.episodes,
            lag=self._lags.summary(),
            demand=self._demand.rate(),
            steps_per_second=self._speed.rate(),
            tv=stats.tv,
            tv_threshold=stats.threshold,
            filtered_share=stats.filtered_share,
        )
        self._around.progress.trained(standing)
        record = self._record(standing, stats, waited, busy)
        audit = [
            [f.id.actor_id, f.id.actor_incarnation, f.id.sequence, f.samples] for f in fragments
        ]
        self._around.journal.write(
            {**record, "lag_samples": self._lags.newest(), "fragments": audit}
        )
        self._around.board.write(_scalars(record), record["env_steps"])
        self._write_excerpts(fragments, record)

    def _write_excerpts(self, fragments: Sequence[Experience], record: dict[str, Any]) -> None:
        """Write a few samples down, if there is something to read and it is time to."""
        now = time.monotonic()
        if now < self._next_excerpts:
            return
        self._next_excerpts = now + _EXCERPT_SECONDS
        excerpts = self._trainer.excerpts(fragments)
        if excerpts:
            of_update = {name: record[name] for name in ("time", "version", "env_steps")}
            self._around.journal.write({"event": "excerpts", **of_update, "excerpts": excerpts})

    def _record(
        self, standing: Standing, stats: PhaseStats, waited: float, busy: float
    ) -> dict[str, Any]:
        counts = self._around.ledger.counts()
        return {
            "time": time.time(),
            "version": standing.version,
            "incarnation": self._lineage.current.number,
            "env_steps": counts.trained,
            "train_seconds": self._around.progress.train_seconds(),
            "episodes": standing.episodes,
            "return_mean": standing.return_mean,
            "return_episodes": standing.return_episodes,
            "steps_per_second": standing.steps_per_second,
            "demand": standing.demand,
            "wait_seconds": waited,
            "busy_seconds": busy,
            "actors": self._around.server.connected,
            "lag": asdict(standing.lag),
            "ledger": asdict(counts),
            **asdict(stats),
        }

    def _stop_reason(self) -> str | None:
        return stop_reason(
            self._spec.stop,
            self._around.ledger.counts().trained,
            self._returns,
            self._around.progress.train_seconds(),
            self._spec.samples,
        )

    def _checkpoint_when_due(self) -> None:
        if time.monotonic() < self._next_checkpoint:
            return
        try:
            self.checkpoint()
        except OSError as error:
            _LOG.error("no checkpoint was written, training goes on: %s", error)
            self._next_checkpoint = (
                time.monotonic() + self._spec.learner.checkpoint.interval_seconds
            )

    def _evaluate_when_due(self) -> None:
        evaluation = self._spec.evaluation
        env_steps = self._around.ledger.counts().trained
        if evaluation is None or env_steps < self._next_evaluation:
            return
        self._next_evaluation = self._evaluation_after(env_steps)
        self._around.server.evaluate(evaluation.episodes, evaluation.seed, env_steps)

    def _first_evaluation(self) -> int:
        """Return at how many samples: a language model is also seen before it has trained."""
        if self._spec.is_language and self._around.progress.view().accuracy is None:
            return 0
        return self._evaluation_after(self._around.ledger.counts().trained)

    def _evaluation_after(self, env_steps: int) -> int:
        evaluation = self._spec.evaluation
        if evaluation is None:
            return 0
        return (env_steps // evaluation.interval_env_steps + 1) * evaluation.interval_env_steps

    def _note_evaluations(self) -> None:
        outcomes = self._around.outcomes
        while outcomes:
            outcome = outcomes.popleft()
            event = {"event": "evaluation", "time": time.time(), **asdict(outcome)}
            self._around.journal.write(event)
            scalars = {"evaluation/return_mean": outcome.return_mean}
            if self._spec.is_language:
                scalars["evaluation/accuracy"] = outcome.accuracy
            self._around.board.write(scalars, outcome.env_steps)


def _scalars(record: dict[str, Any]) -> dict[str, float | None]:
    """Return the record's numbers as TensorBoard's scalars, with groups in their names."""
    training = {
        f"training/{name}": value
        for name, value in record.items()
        if isinstance(value, int | float) and name not in ("time", "env_steps")
    }
    lag = {f"lag/{name}": value for name, value in record["lag"].items()}
    ledger = {f"ledger/{name}": value for name, value in record["ledger"].items()}
    return {**training, **lag, **ledger}
