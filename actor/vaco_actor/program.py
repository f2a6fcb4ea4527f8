"""`vaco_actor run`: one actor, from its first weights to its farewell.

    wait for weights -> [ evaluation asked for? play it | wait for a credit -> roll out -> submit ]
    SIGTERM, Farewell -> the fragment is cut and submitted -> Goodbye -> exit

The main thread does all of that; the link's thread talks to the learner meanwhile.
"""

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from prometheus_client import CollectorRegistry, make_wsgi_app
from vaco.channels import Security
from vaco.errors import EXIT_FAILURE, EXIT_OK, EXIT_PERMANENT, UserError
from vaco.job import VACOJob, load_job
from vaco.monitoring import MonitoringServer
from vaco.v1 import trajectory_pb2 as pb
from vaco.vital import Vitals, stuck_seconds
from vaco.weights import Weights
from vaco.weights_volume import weights_volume

from vaco_actor.backoff import BackoffSettings
from vaco_actor.ending import Ending, Outcome
from vaco_actor.given_up import GivenUp, Lost
from vaco_actor.identity import ActorIdentity
from vaco_actor.link import Link
from vaco_actor.lock_step import LockStep
from vaco_actor.mailbox import Mailbox
from vaco_actor.metrics import ActorCollector, Counters
from vaco_actor.outbox import Fate, Outbox
from vaco_actor.producer import make_producer
from vaco_actor.stream import Learner

_LOG = logging.getLogger(__name__)

# How soon the main thread sees that it shall stop while it waits for something else.
_POLL_SECONDS: Final = 0.1
# How long a learner that cannot be reached may keep us from exiting after a fault of ours.
_REPORT_SECONDS: Final = 15.0

_EXITS: Final = {
    Outcome.COMPLETE: EXIT_OK,
    Outcome.DRAINED: EXIT_OK,
    Outcome.REPORTED: EXIT_FAILURE,
    Outcome.REFUSED: EXIT_PERMANENT,
    Outcome.FENCED: EXIT_FAILURE,
    Outcome.LOST: EXIT_FAILURE,
}


@dataclass(frozen=True, slots=True)
class RunOptions:
    """Which actor this is.

    Attributes:
        job: Manifest with `metadata.uid`.
        learner: host:port.
        identity: Its name and numbers.
        metrics_host: Of the probes and the Prometheus endpoint.
        metrics_port: Of the same; 0: any.

    """

    job: Path
    learner: str
    identity: ActorIdentity
    metrics_host: str
    metrics_port: int


def run(options: RunOptions, stop: threading.Event) -> int:
    """Run an actor until its job is complete or `stop` is set; return its exit status.

    Raises:
        UserError: What a restart would not mend; the learner was told, if it could be reached.

    """
    job = load_job(options.job)
    if job.metadata.uid is None:
        raise UserError("metadata.uid", "not set", "Run the job with `vaco run`.")
    security = Security.from_environment()
    torch.set_num_threads(job.spec.actors.threads)
    actor = _Actor(options, job, Learner(options.learner, security), stop)
    return actor.run()


class _Actor:
    """The parts of a running actor, and how they work together."""

    def __init__(
        self, options: RunOptions, job: VACOJob, learner: Learner, stop: threading.Event
    ) -> None:
        self._spec = job.spec
        self._stop = stop
        self._mailbox = Mailbox()
        self._lock_step = LockStep(job.spec.learner.batch_size) if job.spec.synchronous else None
        self._made_with: Weights | None = None
        self._outbox = Outbox(self._lock_step.decided if self._lock_step else _forget)
        words = ("completions", "groups") if job.spec.is_language else ("samples", "fragments")
        self._given_up = GivenUp(*words)
        self._counters = Counters()
        self._vitals = Vitals(stuck_seconds(), self._unready)
        self._pulse = self._vitals.pulse("rollout")
        self._producer = make_producer(job, options.identity, self._mailbox, self._pulse.beat)
        hello = pb.Hello(
            job_uid=job.metadata.uid or "",
            actor_id=options.identity.actor_id,
            actor_incarnation=options.identity.incarnation,
            spaces_json=self._producer.contract,
        )
        self._link = Link(
            learner,
            hello,
            self._outbox,
            self._mailbox,
            stop.set,
            BackoffSettings(),
            self._vitals.pulse("link"),
            weights_volume(job.spec.learner.weights_transport, hello.job_uid),
        )
        registry = CollectorRegistry()
        registry.register(ActorCollector(self._counters, lambda: self._outbox.unacknowledged))
        self._monitoring = MonitoringServer(
            options.metrics_host, options.metrics_port, make_wsgi_app(registry), self._vitals
        )
        _LOG.info("metrics are served at %s", self._monitoring.address)

    def run(self) -> int:
        self._link.start()
        try:
            self._roll_out()
            # What is submitted late must still be sent and answered.
            now, grace = time.monotonic(), self._spec.actors.drain_seconds
            self._hand_over_ready(now + grace / 2)
            return self._leave(now + grace)
        except UserError as error:
            self._report(str(error), permanent=True)
            raise
        except Exception as error:
            name = self._producer.task
            self._report(f"{name}: {type(error).__name__}: {error}", permanent=False)
            raise
        finally:
            self._link.close()
            self._monitoring.close()
            self._producer.close()

    def _unready(self) -> str:
        return "" if self._link.connected else "no learner has let us in"

    def _roll_out(self) -> None:
        while not self._stop.is_set() and not self._mailbox.wait(_POLL_SECONDS):
            self._pulse.beat()
        while not self._stop.is_set():
            self._pulse.beat()
            request = self._link.take_evaluation()
            if request is not None:
                result = self._producer.evaluate(request, self._stop)
                if result is not None:
                    self._outbox.report(result)
            elif self._may_go_on():
                self._produce()

    def _hand_over_ready(self, deadline: float) -> None:
        """Submit what was made before we were told to leave, as credits come for it."""
        while self._producer.ready and self._link.connected and time.monotonic() < deadline:
            self._pulse.beat()
            if self._may_go_on():
                self._produce()
        self._give_up("were not complete", self._producer.given_up)
        left = []
        while self._producer.ready and (fragment := self._producer.collect(self._stop)) is not None:
            left.append(fragment.samples)
        self._give_up("got no credit", Lost(sum(left), len(left)))

    def _may_go_on(self) -> bool:
        began = time.perf_counter()
        try:
            if self._lock_step is not None and not self._in_step(self._lock_step):
                return False
            return self._outbox.wait_for_credit(_POLL_SECONDS)
        finally:
            self._counters.waiting_seconds += time.perf_counter() - began

    def _in_step(self, lock_step: LockStep) -> bool:
        """Wait for the update that trained the last batch; return whether it is there."""
        if not lock_step.wait(_POLL_SECONDS):
            return False
        if not lock_step.trained:
            return True
        if not self._mailbox.wait(_POLL_SECONDS, than=self._made_with):
            return False
        lock_step.begin()
        return True

    def _produce(self) -> None:
        fragment = self._producer.collect(self._stop)
        if fragment is None:
            return
        self._made_with = self._producer.acting
        if self._lock_step is not None:
            self._lock_step.sent(fragment.samples)
        self._outbox.submit(fragment)
        counters = self._counters
        counters.fragments += 1
        counters.samples += fragment.samples
        counters.episodes += fragment.episode_returns.size
        counters.rollout_seconds += fragment.rollout_seconds
        counters.version = fragment.max_version
        if fragment.episode_returns.size > 0:
            counters.return_mean = float(fragment.episode_returns.mean())

    def _leave(self, deadline: float) -> int:
        """Say goodbye, unless the link has ended; return the exit status."""
        self._pulse.rest()
        self._outbox.leave()
        ending = self._link.join(max(0.0, deadline - time.monotonic()))
        self._give_up("got no answer", self._outbox.unanswered)
        if self._given_up.total.samples:
            complete = ending is not None and ending.outcome is Outcome.COMPLETE
            _LOG.log(logging.INFO if complete else logging.WARNING, "%s", self._given_up)
        if ending is None:
            seconds = self._spec.actors.drain_seconds
            _LOG.error("not everything could be handed over within %g s", seconds)
            return EXIT_FAILURE
        _say(ending)
        return _EXITS[ending.outcome]

    def _give_up(self, reason: str, lost: Lost) -> None:
        self._given_up.add(reason, lost)
        self._counters.given_up = self._given_up.total.samples

    def _report(self, message: str, *, permanent: bool) -> None:
        self._pulse.rest()
        self._outbox.fail(message, permanent=permanent)
        self._link.join(_REPORT_SECONDS)


def _say(ending: Ending) -> None:
    level = logging.INFO if _EXITS[ending.outcome] == EXIT_OK else logging.ERROR
    _LOG.log(level, "%s %s", ending.outcome.name.lower(), ending.details)


def _forget(_fate: Fate) -> None:
    """Without lock-step, what became of a fragment changes nothing here."""
