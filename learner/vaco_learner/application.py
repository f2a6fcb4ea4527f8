"""The learner's life, from its command line to its exit status.

    claim, restore --> listen --> wait for the first actor's spaces, unless they are known
                   --> build the policy --> open the doors --> train
                   --> checkpoint --> send actors home --> last words

It listens before torch is imported, so that actors and probes find it soon.
"""

import contextlib
import logging
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

import grpc
from prometheus_client import CollectorRegistry, make_wsgi_app
from vaco.channels import Security
from vaco.errors import (
    EXIT_FAILURE,
    EXIT_FENCED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_PERMANENT,
    UserError,
)
from vaco.files import replace_file
from vaco.job import VACOJob, load_job
from vaco.monitoring import MonitoringServer
from vaco.v1 import learner_pb2 as pb
from vaco.vital import Vitals, stuck_seconds

from vaco_learner.checkpoint import CheckpointStore
from vaco_learner.claims import Claims, FencedError
from vaco_learner.contract_gate import ContractGate, canonical_spaces
from vaco_learner.control import Control, JobFailedError, StopRequestedError
from vaco_learner.credits import Capacity
from vaco_learner.evaluation_desk import EvaluationOutcome
from vaco_learner.journal import Journal
from vaco_learner.last_words import TerminationLog
from vaco_learner.ledger import Ledger
from vaco_learner.metrics import StatusCollector
from vaco_learner.progress import LearnerPhase, Progress
from vaco_learner.restore import Beginning, begin, earlier_returns, note_beginning
from vaco_learner.server import LearnerServer
from vaco_learner.session import Ending
from vaco_learner.status import StatusFile, StatusSource

if TYPE_CHECKING:
    from vaco_learner.loop import TrainingLoop

_LOG = logging.getLogger(__name__)

_POLL_SECONDS: Final = 0.1
_FAREWELL_SECONDS: Final = 2.0
"""How long actors have to leave when the job is complete."""
_DRAIN_SECONDS: Final = 5.0
"""How long they have when we are told to stop: a kubelet tells its pods one after the other."""
_GOODBYE: Final = Ending(grpc.StatusCode.UNAVAILABLE, "the learner stops; come back later")
_REPLACED: Final = Ending(grpc.StatusCode.UNAVAILABLE, "another learner has taken over; find it")


@dataclass(frozen=True, slots=True)
class Options:
    """The command line.

    Attributes:
        job: manifest, resolved.
        run_dir: where everything is written.
        listen: host and port; port 0 lets the system choose.
        address_file: gets the address; None: nobody asks.
        metrics_host: of the probes and the Prometheus endpoint.
        metrics_port: of the same; 0 lets the system choose.
        incarnation: of this learner, at least; above all earlier ones of the run directory anyway.
        termination_log: gets the last status; None: nobody reads it.
        debug: whether to serve gRPC reflection.

    """

    job: Path
    run_dir: Path
    listen: str
    address_file: Path | None
    metrics_host: str
    metrics_port: int
    incarnation: int
    termination_log: Path | None
    debug: bool


def run(options: Options, control: Control) -> int:
    """Live the learner's life; return the exit status.

    Raises:
        UserError: the manifest, the run directory or the address is not usable.

    """
    failed = pb.GetStatusResponse(phase=pb.LEARNER_PHASE_FAILED)
    try:
        job = load_job(options.job)
        failed.job_uid = _uid(job)
        learner = Learner(options, job, control)
    except UserError as error:
        TerminationLog(options.termination_log).write(failed, str(error))
        raise
    except FencedError as error:
        _LOG.error("%s", error)
        return EXIT_FENCED
    try:
        return learner.live()
    finally:
        learner.close()


def handle_signals(control: Control) -> None:
    """Have SIGTERM and SIGINT end the learner after a checkpoint."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        control.request_stop()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


class Learner:
    """One learner process; its parts are put together here.

    Args:
        options: the command line.
        job: resolved.
        control: hears of signals and of what goes wrong elsewhere.

    Raises:
        UserError: the manifest, the run directory or the address is not usable.
        FencedError: other learners began in the run directory meanwhile.

    """

    def __init__(self, options: Options, job: VACOJob, control: Control) -> None:
        self._options = options
        self._control = control
        self._job = job
        self._uid = _uid(job)
        self._capacity = Capacity.of(self._job.spec)
        checkpoints = options.run_dir / "checkpoints"
        self._store = CheckpointStore(
            checkpoints, self._uid, self._job.spec.learner.checkpoint.keep
        )
        claims = Claims(checkpoints, self._uid)
        self._beginning, self._checkpoint = begin(self._store, claims, options.incarnation)
        state = self._beginning.state
        self._gate = ContractGate(
            state.contract if state is not None else None,
            None if job.spec.is_language else canonical_spaces,
        )
        self._ledger = Ledger(state.counts if state is not None else None)
        self._progress = Progress(of_language=job.spec.is_language)
        self._returns = earlier_returns(self._beginning, self._job.spec.stop)
        note_beginning(self._beginning, self._returns, self._progress)
        self._outcomes: deque[EvaluationOutcome] = deque(maxlen=64)
        self._termination_log = TerminationLog(options.termination_log)
        self._vitals = Vitals(stuck_seconds(), self._unready)
        control.watch(self._vitals.stuck)
        self._pulse = self._vitals.pulse("training")
        self._status = self._serve_figures()
        self._status_file = StatusFile(
            options.run_dir / "learner-status.json", self._status, self._beginning.claim
        )
        self._server = LearnerServer(
            job_uid=self._uid,
            address=options.listen,
            security=Security.from_environment(),
            capacity=self._capacity,
            gate=self._gate,
            progress=self._progress,
            status=self._status,
            status_file=self._status_file,
            control=control,
            pulse=self._vitals.pulse("ingest"),
            on_evaluation=self._evaluated,
            debug=options.debug,
        )
        self._journal = Journal(options.run_dir / "metrics.jsonl")
        self._closers: list[Callable[[], None]] = [self._journal.close, self._monitoring.close]

    def live(self) -> int:
        """Train to the end, whichever it is; return the exit status."""
        try:
            code = self._train()
            self._server.stop(_GOODBYE)
            self._status_file.write()
            self._termination_log.write(self._status.status())
        except FencedError as error:
            _LOG.error("%s", error)
            self._server.stop(_REPLACED)
            self._termination_log.write(self._status.status(), str(error))
            return EXIT_FENCED
        except Exception as error:
            with contextlib.suppress(FencedError):
                self._status_file.write()
            what = f"{type(error).__name__}: {error}"
            self._termination_log.write(self._status.status(), what)
            raise
        finally:
            self._server.stop(_GOODBYE)
        return code

    def close(self) -> None:
        """Let go of files, ports and threads."""
        for close in reversed(self._closers):
            close()

    def _serve_figures(self) -> StatusSource:
        """Serve metrics and probes; return the status, which names their address."""
        options, registry = self._options, CollectorRegistry()
        self._monitoring = MonitoringServer(
            options.metrics_host, options.metrics_port, make_wsgi_app(registry), self._vitals
        )
        address, stuck = self._monitoring.address, self._vitals.stuck
        _LOG.info("metrics are served at %s", address)
        status = StatusSource(self._uid, self._progress, self._ledger, address, stuck)
        registry.register(StatusCollector(status))
        return status

    def _unready(self) -> str:
        return "" if self._server.serving else "the learner does not answer calls"

    def _listen(self) -> None:
        address_file = self._options.address_file
        if address_file is not None:
            address_file.unlink(missing_ok=True)
        address = self._server.start()
        if address_file is not None:
            replace_file(address_file, f"{address}\n")
        _LOG.info("incarnation %d listens on %s", self._beginning.claim.number, address)

    def _train(self) -> int:
        """Train until there is a reason not to; return the exit status."""
        loop: TrainingLoop | None = None
        try:
            self._listen()
            loop = self._build()
            reason = loop.run()
            loop.settle_rest()
            loop.end()
            return self._complete(reason)
        except StopRequestedError:
            stuck = self._control.complaint
            why = f"told to stop while {stuck}" if stuck else "told to stop"
            _LOG.info("%s", why)
            self._progress.ended(LearnerPhase.INTERRUPTED, why)
            if loop is not None:
                loop.end()
                # A node that is drained tells all its pods at once: the actors go first.
                self._wait_for_actors_to_leave(_DRAIN_SECONDS, loop.make_room)
            # What a liveness probe has us stopped for is a failure, and of those there is a bound.
            return EXIT_FAILURE if stuck else EXIT_INTERRUPTED
        except (JobFailedError, UserError) as error:
            _LOG.error("the job failed: %s", error)
            self._progress.ended(LearnerPhase.FAILED, str(error))
            self._server.stop(Ending(grpc.StatusCode.FAILED_PRECONDITION, str(error)))
            return EXIT_PERMANENT

    def _contract(self) -> str | None:
        """Wait for what the first actor brings; None: the learner itself has it."""
        if self._job.spec.is_language:
            return None
        while (contract := self._gate.wait(_POLL_SECONDS)) is None:
            self._control.check()
        return contract

    def _build(self) -> "TrainingLoop":
        # Late, because it imports torch; before the wait, because the actors import it meanwhile.
        from vaco_learner.assembly import Parts, assemble

        parts = Parts(
            job=self._job,
            contract=self._contract(),
            gate=self._gate,
            run_dir=self._options.run_dir,
            beginning=self._beginning,
            checkpoint=self._checkpoint,
            capacity=self._capacity,
            ledger=self._ledger,
            returns=self._returns,
            store=self._store,
            journal=self._journal,
            progress=self._progress,
            status=self._status,
            server=self._server,
            control=self._control,
            pulse=self._pulse,
            outcomes=self._outcomes,
        )
        assembled = assemble(parts)
        self._checkpoint = None  # the policy has it now
        self._closers += assembled.closers
        _journal_restart(self._journal, self._beginning)
        return assembled.loop

    def _complete(self, reason: str) -> int:
        _LOG.info("complete: %s", reason)
        self._progress.ended(LearnerPhase.COMPLETE, reason)
        self._status_file.write()
        self._server.farewell()
        self._wait_for_actors_to_leave(_FAREWELL_SECONDS)
        return EXIT_OK

    def _wait_for_actors_to_leave(
        self, seconds: float, meanwhile: Callable[[], None] = lambda: None
    ) -> None:
        deadline = time.monotonic() + seconds
        while self._server.connected and time.monotonic() < deadline:
            meanwhile()
            time.sleep(_POLL_SECONDS / 5)

    def _evaluated(self, outcome: EvaluationOutcome) -> None:
        self._progress.evaluated(outcome)
        self._outcomes.append(outcome)


def _uid(job: VACOJob) -> str:
    uid = job.metadata.uid
    if not uid:
        cure = "Use `vaco run`, or the API server, which give every job one."
        raise UserError("metadata.uid", "not there", cure)
    return uid


def _journal_restart(journal: Journal, beginning: Beginning) -> None:
    life = beginning.lineage.current
    if beginning.checkpoint_version is None and life.first_version == 0:
        return
    journal.write(
        {
            "event": "restored",
            "time": time.time(),
            "incarnation": life.number,
            "checkpoint_version": life.restored_version,
            "version": life.first_version,
        }
    )
