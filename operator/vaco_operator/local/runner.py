"""A VACOJob on this machine: one learner, some actors, and a loop that keeps them as desired.

    observe: how children ended, what the learner says, what `vaco scale` asks for
    decide:  restart or give up; how many actors (`scaling`, the function the operator calls too)
    apply:   start, drain, kill
    tell:    one status, in status.json and on the terminal

Nothing in the loop blocks: it wakes for signals and at every tick. When it ends, for whatever
reason, the actors leave first, so that what they have sent still counts, and then the learner,
which checkpoints.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final, Protocol

from vaco.errors import EXIT_OK, EXIT_PERMANENT
from vaco.job import VACOJobStatus
from vaco.v1.learner_pb2 import LEARNER_PHASE_COMPLETE as COMPLETE
from vaco.v1.learner_pb2 import LEARNER_PHASE_FAILED as FAILED

from vaco_operator.local.actor_pool import ActorPool, Connection
from vaco_operator.local.interrupts import Interrupts
from vaco_operator.local.learner_probe import LearnerProbe
from vaco_operator.local.processes import describe_exit
from vaco_operator.local.programs import Programs
from vaco_operator.local.restarts import Restarts
from vaco_operator.local.scale_request import answer_request, take_request
from vaco_operator.local.supervised import Death, Supervised
from vaco_operator.scaler import Change, Scaler
from vaco_operator.scaling import room_beside_learner
from vaco_operator.status import Observation, Outcome, job_status

TICK_SECONDS: Final = 0.2
STATUS_SECONDS: Final = 1.0
LEARNER_GRACE_SECONDS: Final = 60.0
"""What the learner has to write its last checkpoint."""
FAREWELL_SECONDS: Final = 5.0
"""What actors have to leave when there is no learner any more that could acknowledge anything."""
DONE: Final = (COMPLETE, FAILED)
KILL_SECONDS: Final = 10.0
"""What the kernel has to end a process that was killed."""


class View(Protocol):
    """Where a run is shown."""

    def show(self, status: VACOJobStatus) -> None:
        """Show the newest status."""

    def note(self, text: str) -> None:
        """Say that something happened."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended; the process it failed by, or the signal that interrupted it."""

    outcome: Outcome
    culprit: Death | None = None
    by: int = 0


class LocalRunner:
    """Runs one job until it is complete, has failed, or is interrupted.

    Args:
        programs: of the job; they know its manifest and its directory.
        before: the status of the run that is resumed; None: a new run.
        actors: how many to begin with.
        view: where it is shown.
        clock: monotonic seconds.

    """

    def __init__(
        self,
        programs: Programs,
        before: VACOJobStatus | None,
        actors: int,
        view: View,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        job = programs.job
        self._job, self._directory = job, programs.directory
        self._view, self._clock = view, clock
        limit = job.spec.backoff_limit
        self._probe = LearnerProbe(programs.address, job.metadata.uid or "")
        self._learner = Supervised("learner", programs.start_learner, Restarts(limit), clock())
        self._pool = ActorPool(programs.start_actor, limit, job.spec.actors.drain_seconds)
        events = before.scaling.events if before else 0
        room = room_beside_learner(job.spec, len(os.sched_getaffinity(0)))
        self._scaler = Scaler.begin(job.spec, actors, events, room)
        self._learner_restarts = before.learner_restarts if before else 0
        # What it was last time is no state to begin from: a crashed runner leaves "Running".
        anew = {"phase": "Pending", "completion_time": None}
        self._status = before.model_copy(update=anew) if before else None
        self._status_due = float("-inf")
        self._hung = ""
        self._stopping = ""
        self._ending = False

    def run(self) -> Ended:
        """Train; returns when nothing of it runs any more."""
        self._directory.append_event("started", actors=self._scaler.desired)
        self._directory.learner_status_file.unlink(missing_ok=True)
        with Interrupts() as interrupts, self._probe:
            try:
                ended = self._supervise(interrupts)
            except BaseException:
                # A fault of the runner itself: the learner still gets to checkpoint.
                self._stop_all(interrupts)
                raise
            self._stop_all(interrupts)
        ended = self._hear_learner(ended)
        self._tell(ended.outcome)
        self._directory.append_event(ended.outcome.phase.lower(), message=ended.outcome.message)
        return ended

    def _supervise(self, interrupts: Interrupts) -> Ended:
        while True:
            now = self._clock()
            self._probe.poll(now)
            self._end_if_stuck(now)
            ended = self._tend_learner(now) or self._tend_actors(now)
            if ended:
                return ended
            if interrupts.asked:
                self._view.note(
                    "stopping: actors drain, then the learner checkpoints; "
                    "interrupt again to end at once and resume from the checkpoint before"
                )
                self._stopping = "Stopping: actors drain, then the learner checkpoints."
                message = "Interrupted; vaco run of the same directory resumes it."
                return Ended(Outcome("Suspended", "Interrupted", message), by=interrupts.by)
            self._scale(now)
            if now >= self._status_due:
                self._tell(None)
            interrupts.wait(TICK_SECONDS)

    def _tend_learner(self, now: float) -> Ended | None:
        death = self._learner.tick(now)
        if death is None:
            return None
        self._probe.forget()
        why, self._hung = self._hung, ""
        if death.exit_code == EXIT_OK:
            return Ended(Outcome("Complete", "StopConditionReached", ""))
        if death.exit_code == EXIT_PERMANENT:
            return _failed("PermanentFailure", death)
        if not self._restart(death, self._learner.restart(death, now)):
            return _failed("BackoffLimitExceeded", death, why)
        self._learner_restarts += 1
        return None

    def _end_if_stuck(self, now: float) -> None:
        """Kill a learner that hangs: it would not hear a signal, and goes on from a checkpoint."""
        since = self._learner.running_since
        why = self._probe.stuck(now, since) if since is not None else ""
        if why and not self._hung and not self._learner_is_done:
            self._hung = why
            self._directory.append_event("stuck", process="learner", message=why)
            self._view.note(f"learner is killed: {why}")
            self._learner.kill()
            self._probe.forget()

    def _tend_actors(self, now: float) -> Ended | None:
        for death in self._pool.tick(now):
            if self._learner_is_done:
                # The learner told it to go, and will itself say how the run ended.
                continue
            if death.exit_code == EXIT_PERMANENT:
                return _failed("PermanentFailure", death)
            # One that left in peace was probably told that training is complete: soon we know.
            at_least = FAREWELL_SECONDS if death.exit_code == EXIT_OK else 0.0
            if not self._restart(death, self._pool.restart(death, now, at_least)):
                return _failed("BackoffLimitExceeded", death)
        return None

    def _restart(self, death: Death, delay: float | None) -> bool:
        if death.exit_code != EXIT_OK:
            self._directory.append_event(
                "died", process=death.name, exit_code=death.exit_code, restart_in=delay
            )
            if delay is not None:
                how = describe_exit(death.exit_code)
                self._view.note(f"{death.name} ended ({how}); starting it again in {delay:g} s")
        return delay is not None

    @property
    def _learner_is_done(self) -> bool:
        told = self._probe.latest
        return told is not None and self._probe.answered and told.phase in DONE

    def _scale(self, now: float) -> None:
        if self._learner_is_done:
            return
        ready = self._pool.ready(self._connections(now))
        signals = self._probe.signals(now)
        if request := take_request(self._directory):
            self._scaler, change = self._scaler.ask(request.replicas, now)
            answer_request(
                self._directory, request, f"{self._scaler.desired} actors: {self._scaler.reason}"
            )
        else:
            self._scaler, change = self._scaler.review(ready, signals, now)
        if change:
            self._say_scaled(change)
        self._pool.resize(self._scaler.desired, self._connections(now), now)

    def _say_scaled(self, change: Change) -> None:
        self._directory.append_event(
            "scaled", before=change.before, after=change.after, reason=change.reason
        )
        self._view.note(f"actors {change.before} -> {change.after}: {change.reason}")

    def _stop_all(self, interrupts: Interrupts) -> None:
        """Let the actors leave, then the learner, each within its grace."""
        self._ending = True
        asked = interrupts.asked
        learner_lives = self._learner.state == "running"
        grace = self._job.spec.actors.drain_seconds if learner_lives else FAREWELL_SECONDS
        self._drain(self._pool.leave, lambda: self._pool.empty, grace, interrupts, asked)
        self._drain(
            self._learner.leave,
            lambda: self._learner.state == "gone",
            LEARNER_GRACE_SECONDS,
            interrupts,
            asked,
        )

    def _drain(
        self,
        leave: Callable[[float, float], None],
        done: Callable[[], bool],
        grace: float,
        interrupts: Interrupts,
        asked: int,
    ) -> None:
        """Drive the children until `done`; another interruption ends the grace of all."""
        give_up = self._clock() + grace + KILL_SECONDS
        leave(self._clock(), grace)
        while not done():
            now = self._clock()
            if now > give_up:
                raise RuntimeError("a process that was killed does not end")
            if interrupts.asked > asked:
                leave(now, 0.0)
            self._probe.poll(now)
            self._learner.tick(now)
            self._pool.tick(now)
            if now >= self._status_due:
                self._tell(None)
            if not done():
                interrupts.wait(TICK_SECONDS)

    def _hear_learner(self, ended: Ended) -> Ended:
        """Let the learner's last words say how it ended, where they know better."""
        self._probe.read_last_words(self._directory)
        told = self._probe.latest
        message = told.message if told else ""
        if self._learner.exit_code == EXIT_OK:
            outcome = Outcome("Complete", "StopConditionReached", message or "Training is done.")
            return Ended(outcome)
        if ended.outcome.phase == "Failed" and message and told and told.phase == FAILED:
            return replace(ended, outcome=replace(ended.outcome, message=message))
        return ended

    def _tell(self, outcome: Outcome | None) -> None:
        now = self._clock()
        seen = Observation(
            learner=self._probe.latest,
            unavailable=self._unavailable(now),
            desired=self._scaler.desired,
            ready=0 if outcome else self._pool.ready(self._connections(now)),
            scaling_events=self._scaler.events,
            scaling_reason=self._scaler.reason,
            limit=self._scaler.limit,
            learner_restarts=self._learner_restarts,
            outcome=outcome,
            suspending=self._stopping,
        )
        self._status = job_status(self._job, seen, self._status, datetime.now(UTC))
        self._directory.write_status(self._status, durable=outcome is not None)
        # Of a run that ends before it trained, what it waits for is no news any more.
        if outcome or not self._ending or self._status.phase == "Running":
            self._view.show(self._status)
        self._status_due = now + STATUS_SECONDS

    def _unavailable(self, now: float) -> str:
        if self._learner.state == "waiting":
            return "Restarting" if self._learner.restarts.failures else "Starting"
        if self._probe.answers(now):
            return ""
        return "NotAnswering" if self._probe.answered else "Starting"

    def _connections(self, now: float) -> dict[str, Connection]:
        if self._probe.latest is None or not self._probe.answers(now):
            return {}
        return {
            actor.actor_id: Connection(actor.connected, actor.lag_p95)
            for actor in self._probe.latest.actors
        }


def _failed(reason: str, death: Death, hung: str = "") -> Ended:
    message = f"{death.name} ended ({describe_exit(death.exit_code)})"
    if hung:
        message = f"{death.name} hung ({hung}) and was killed"
    if reason == "BackoffLimitExceeded":
        message += " more often than spec.backoffLimit allows"
    last = next((line.strip() for line in reversed(death.last_words.splitlines()) if line), "")
    if last:
        message += f": {last}"
    return Ended(Outcome("Failed", reason, message), death)
