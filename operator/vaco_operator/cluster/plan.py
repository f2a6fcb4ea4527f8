"""What is to be done for a job now: a pure function of what is seen and what is remembered.

    deleted?     nothing: the garbage collector takes the children
    ended?       tidy up after it (`ending`)
    unreadable?  say so, and leave alone what runs
    ended now?   say how (`outcome`), and tidy up
    otherwise    running: learner (`attempts`), actors (`autoscale`), children (`desired`), status
                 suspended: the same, but first the actors drain, then the learner checkpoints

Nothing here talks to anybody or reads a clock, so each of these is a table of tests.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from vaco.errors import UserError
from vaco.job import JobError, VACOJob, VACOJobStatus

from vaco_operator.cluster import attempts, autoscale, labels, troubles
from vaco_operator.cluster.desired import desired_children, issue, issued_now, next_issue
from vaco_operator.cluster.ending import after_the_end, tidying
from vaco_operator.cluster.hearing import Heard, answering, listen
from vaco_operator.cluster.leaving import Leaving, appointments, grace_left, leaving
from vaco_operator.cluster.observed import Child, Moment, Observed
from vaco_operator.cluster.outcome import active_deadline, is_finished, outcome, start_deadline
from vaco_operator.cluster.pods import DELETION_COST
from vaco_operator.cluster.reading import read_job
from vaco_operator.cluster.resources import JOBS, PODS, Document
from vaco_operator.cluster.steps import Basis, LearnerAddress, Memory, Patch, Plan, World
from vaco_operator.cluster.transitions import transitions
from vaco_operator.cluster.victims import SEEN_SECONDS
from vaco_operator.status import Observation, Outcome, Trouble, job_status, unreadable

ASK_SECONDS: Final = 5.0
"""Between two questions to a learner at most; its scaling interval may be shorter."""
MIN_ASK_SECONDS: Final = 0.5
SOONEST_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class _View:
    """A job that has not ended before, and what was found out about it."""

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
        return self.observed.status or VACOJobStatus()


def plan(document: Document, observed: Observed, memory: Memory, now: Moment, world: World) -> Plan:
    """Plan for a job.

    Args:
        document: the VACOJob as the API has it.
        observed: what there is of it.
        memory: what the plan before left.
        now: the time.
        world: what is the same for all jobs.

    """
    if "deletionTimestamp" in document["metadata"]:
        return Plan(memory=memory)
    memory = replace(memory, leaving=leaving(observed, memory.leaving, now.monotonic))
    if is_finished(observed.status):
        return after_the_end(document, observed, memory, now)
    try:
        job = read_job(document)
        view = _look(job, observed, memory, now)
        end = outcome(job, observed, view.heard, view.trouble or view.shortage, now)
        return _end(view, end) if end is not None else _go_on(view, world)
    except JobError as error:
        problem = " ".join(str(each) for each in error.problems)
    except UserError as error:
        problem = str(error)
    return _misfit(document, observed, problem, memory, now)


def _look(job: VACOJob, observed: Observed, memory: Memory, now: Moment) -> _View:
    if observed.learner is not None:
        memory = replace(memory, complaint=None)
    heard = listen(job, observed, memory.heard, now)
    voice = answering(observed, heard, now)
    scale = autoscale.scale(job, observed, memory.scaler, memory.marking, voice, now)
    refusals, complaint = memory.refusals, memory.complaint
    return _View(
        job=job,
        observed=observed,
        memory=replace(memory, scaler=scale.scaler, marking=scale.marking, heard=heard),
        now=now,
        heard=heard,
        voice=voice,
        trouble=troubles.of_learner(observed, job.metadata.name, refusals, complaint),
        shortage=troubles.of_actors(observed, scale.scaler.desired),
        attempt=attempts.attempt(job, observed, drained=_drained(observed, memory.leaving, now)),
        scale=scale,
    )


def _misfit(
    document: Document, observed: Observed, problem: str, memory: Memory, now: Moment
) -> Plan:
    """Plan for a job whose spec this operator cannot read: what runs is left alone."""
    before = observed.status or VACOJobStatus()
    generation = document["metadata"].get("generation")
    status = unreadable(before, problem, generation, now.wall)
    return Plan(status=status, notes=transitions(None, before, status), memory=memory)


def _end(view: _View, end: Outcome) -> Plan:
    seen = replace(_seen(view, _attempt_made(view, ())), outcome=end, ready=0)
    status = job_status(view.job, seen, view.observed.status, view.now.wall)
    patches, deletions = tidying(
        view.job.spec.clean_pod_policy, view.observed, view.memory.leaving, view.now.monotonic
    )
    return Plan(
        patches=patches,
        deletions=deletions,
        status=status,
        notes=transitions(view.job, view.before, status),
        memory=view.memory,
    )


def _go_on(view: _View, world: World) -> Plan:
    job, observed, memory, now = view.job, view.observed, view.memory, view.now
    patches, deletions = attempts.clearing(observed, memory.leaving, now.monotonic)
    patches += attempts.found_again(job, observed)
    patches += [_cost(name, cost) for name, cost in view.scale.costs.items()]
    if view.attempt.step == "replace" and observed.learner_job is not None:
        name = labels.ChildNames.of(job.metadata.name).learner
        deletions.append(attempts.replacement(name, observed.learner_job))
    credentials = issue(job, observed, memory.issued, now, world)
    basis = _basis(view)
    children: tuple[Document, ...] = ()
    if credentials is not None or basis != memory.settled:
        children = desired_children(
            job,
            observed,
            view.attempt,
            credentials,
            world,
            replicas=_replicas(view),
            resting=_learner_rests(view),
            put_off=_put_off(view),
        )
    memory = replace(memory, settled=basis)
    if credentials is not None and children:
        memory = replace(memory, issued=issued_now(job, now))
    seen = _seen(view, _attempt_made(view, children))
    if _is_suspended(view):
        rest = Outcome("Suspended", "Suspended", "spec.suspend is true; nothing of the job runs.")
        seen = replace(seen, outcome=rest, ready=0)
    status = job_status(job, seen, observed.status, now.wall)
    return Plan(
        patches=tuple(patches),
        deletions=tuple(deletions),
        children=children,
        status=status,
        notes=transitions(job, view.before, status),
        memory=memory,
        learner=_address(view),
        look_into=_inquiry(view),
        requeue_after=max(SOONEST_SECONDS, min(_appointments(view, memory))),
    )


def _basis(view: _View) -> Basis:
    """Return all that the children follow from: if it is the same, so are they.

    To build and to compare them takes several times as long as all the rest of a plan, and most
    plans are made because a learner has answered.
    """
    live = view.observed.live.items()
    versions = sorted((str(child), each["metadata"]["resourceVersion"]) for child, each in live)
    return (
        view.job.metadata.generation,
        view.attempt,
        _replicas(view),
        _learner_rests(view),
        _put_off(view),
        view.observed.strangers,
        view.observed.leftovers,
        tuple(versions),
    )


def _inquiry(view: _View) -> troubles.Inquiry | None:
    unexplained = troubles.unexplained(view.observed, view.memory.complaint, view.now)
    return unexplained[0] if unexplained and unexplained[1] <= 0 else None


def _put_off(view: _View) -> frozenset[Child]:
    """Return the children that were refused too lately to be tried again."""
    generation = view.job.metadata.generation
    return troubles.put_off(view.memory.refusals, generation, view.now.monotonic)


def _learner_rests(view: _View) -> bool:
    """Whether the learner shall have no pod: a suspended job's, once its actors have drained."""
    if not view.job.spec.suspend:
        return False
    batch = view.observed.learner_job
    if batch is not None and batch.suspended:
        return True
    return _drained(view.observed, view.memory.leaving, view.now)


def _drained(observed: Observed, since: Leaving, now: Moment) -> bool:
    """Whether all actors were told to go, and have gone or had all the time they have for it."""
    if observed.actors is not None and observed.actors.replicas:
        return False
    return all(grace_left(pod, since, now.monotonic) <= 0 for pod in observed.actors_left)


def _replicas(view: _View) -> int:
    """Return what the actors' Deployment is told."""
    return 0 if attempts.is_another(view.job, view.observed) else view.scale.replicas


def _is_suspended(view: _View) -> bool:
    """Whether a job that shall rest does."""
    observed = view.observed
    batch, deployment = observed.learner_job, observed.actors
    return (
        view.job.spec.suspend
        and not observed.actors_left
        and not observed.learners_left
        and (batch is None or batch.suspended)
        and (deployment is None or not deployment.replicas)
    )


def _attempt_made(view: _View, children: tuple[Document, ...]) -> int:
    """Return the number of the learner's newest Job, counting one that is made now."""
    batch = view.observed.learner_job
    if batch is not None:
        return max(batch.attempt, view.before.attempt)
    made = not view.memory.refusals and any(child["kind"] == JOBS.kind for child in children)
    return view.attempt.number if made else view.before.attempt


def _seen(view: _View, attempt: int) -> Observation:
    scaler, pod = view.scale.scaler, view.observed.learner
    return Observation(
        learner=view.heard.status if view.heard else None,
        unavailable=_unavailable(view),
        desired=scaler.desired,
        ready=view.scale.ready,
        scaling_events=scaler.events,
        scaling_reason=scaler.reason,
        limit=scaler.limit,
        learner_restarts=attempts.restarts(view.observed),
        pending=pod is None or not pod.started,
        suspending=_suspending(view),
        trouble=view.trouble,
        shortage=view.shortage if view.scale.ready < scaler.desired else None,
        attempt=attempt,
        selector=labels.actor_selector(view.job.metadata.name),
        requested=view.scale.requested,
    )


def _unavailable(view: _View) -> str:
    """Say in one word why the learner does not answer."""
    if view.voice is not None:
        return ""
    pod, heard = view.observed.learner, view.heard
    if view.job.spec.suspend:
        return "Suspending"
    if pod is None or not pod.started:
        return "Restarting" if view.before.phase == "Running" else "Pending"
    return "NotAnswering" if heard is not None and heard.pod == pod.uid else "Starting"


def _suspending(view: _View) -> str:
    if not view.job.spec.suspend:
        return ""
    left = len(view.observed.actors_left)
    if left:
        return f"Suspending: {left} actors send what they have."
    return "Suspending: the learner checkpoints."


def _address(view: _View) -> LearnerAddress | None:
    pod = view.observed.learner
    if pod is None or not pod.started or not pod.ip:
        return None
    interval = view.job.spec.autoscaling.interval_seconds
    return LearnerAddress(pod.uid, pod.ip, max(MIN_ASK_SECONDS, min(ASK_SECONDS, interval)))


def _cost(pod: str, cost: int) -> Patch:
    return Patch(PODS, pod, {"metadata": {"annotations": {DELETION_COST: str(cost)}}}, wish=True)


def _appointments(view: _View, memory: Memory) -> Iterator[float]:
    """Yield the seconds until something is due although nothing happens."""
    job, observed, now = view.job, view.observed, view.now
    if memory.issued is not None:
        yield next_issue(job, observed, memory.issued, now)
    yield from (
        left
        for left in (
            None if job.spec.suspend else start_deadline(job, observed, now.wall),
            None if job.spec.suspend else active_deadline(job, observed, now.wall),
        )
        if left is not None
    )
    yield from appointments(observed, memory.leaving, now.monotonic)
    if view.voice is not None:
        yield view.voice.until - now.monotonic
    if view.scale.costs:
        yield SEEN_SECONDS
    yield from (refusal.until - now.monotonic for refusal in memory.refusals)
    if unexplained := troubles.unexplained(observed, memory.complaint, now):
        yield unexplained[1]
