"""A job that has not ended before: all that was found out about it before anything is decided."""

from dataclasses import dataclass, replace

from vaco.job import VACOJob, VACOJobStatus

from vaco_operator.cluster import attempts, autoscale, troubles
from vaco_operator.cluster.desired import is_awaited
from vaco_operator.cluster.hearing import Heard, answering, listen
from vaco_operator.cluster.leaving import Leaving, grace_left
from vaco_operator.cluster.observed import Child, Moment, Observed
from vaco_operator.cluster.outcome import not_answering
from vaco_operator.cluster.steps import Memory
from vaco_operator.status import Trouble


@dataclass(frozen=True, slots=True)
class View:
    """What is known of a job.

    Attributes:
        job: as its manifest wants it.
        observed: what there is of it.
        memory: what the plan before left, and what was found out since.
        now: the time.
        heard: the newest that its learner said.
        voice: the same, if the learner that runs now said it lately.
        trouble: what keeps the learner from running, or us from knowing whether it does.
        shortage: what keeps actors from running.
        attempt: what is to become of the learner's Job.
        scale: how many actors there are and shall be.

    """

    job: VACOJob
    observed: Observed
    memory: Memory
    now: Moment
    heard: Heard | None
    voice: Heard | None
    trouble: Trouble | None
    shortage: Trouble | None
    attempt: attempts.Attempt
    scale: autoscale.Scale

    @property
    def before(self) -> VACOJobStatus:
        """The status as it is written."""
        return self.observed.status or VACOJobStatus()

    @property
    def put_off(self) -> frozenset[Child]:
        """Children that were refused too lately to be tried again."""
        generation = self.job.metadata.generation
        return troubles.put_off(self.memory.refusals, generation, self.now.monotonic)

    @property
    def learner_rests(self) -> bool:
        """Whether the learner shall have no pod: a suspended job's, once its actors drained."""
        if not self.job.spec.suspend:
            return False
        batch = self.observed.learner_job
        if batch is not None and batch.suspended:
            return True
        return drained(self.observed, self.memory.leaving, self.now)

    @property
    def awaited(self) -> bool:
        """Whether somebody may wait for the job's credentials."""
        return is_awaited(self.observed, answers=self.voice is not None)

    @property
    def replicas(self) -> int:
        """What the actors' Deployment is told."""
        return 0 if attempts.is_another(self.job, self.observed) else self.scale.replicas

    @property
    def suspended(self) -> bool:
        """Whether a job that shall rest does."""
        observed = self.observed
        batch, deployment = observed.learner_job, observed.actors
        return (
            self.job.spec.suspend
            and not observed.actors_left
            and not observed.learners_left
            and (batch is None or batch.suspended)
            and (deployment is None or not deployment.replicas)
        )


def look(job: VACOJob, observed: Observed, memory: Memory, now: Moment) -> View:
    """Find out about a job what a plan is decided on."""
    if observed.learner is not None:
        memory = replace(memory, complaint=None)
    heard = listen(job, observed, memory.heard, now)
    voice = answering(observed, heard, now)
    scale = autoscale.scale(job, observed, memory.scaler, memory.marking, voice, now)
    refusals, complaint = memory.refusals, memory.complaint
    return View(
        job=job,
        observed=observed,
        memory=replace(memory, scaler=scale.scaler, marking=scale.marking, heard=heard),
        now=now,
        heard=heard,
        voice=voice,
        trouble=troubles.of_learner(observed, job.metadata.name, refusals, complaint)
        or not_answering(job, observed, voice, now),
        shortage=troubles.of_actors(observed, scale.scaler.desired),
        attempt=attempts.attempt(job, observed, drained=drained(observed, memory.leaving, now)),
        scale=scale,
    )


def drained(observed: Observed, since: Leaving, now: Moment) -> bool:
    """Whether all actors were told to go, and have gone or had all the time they have for it."""
    if observed.actors is not None and observed.actors.replicas:
        return False
    return all(grace_left(pod, since, now.monotonic) <= 0 for pod in observed.actors_left)
