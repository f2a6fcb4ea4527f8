"""What is to be done for a job now: a pure function of what is seen and what is remembered.

    deleted?     nothing: the garbage collector takes the children
    ended?       tidy up after it (`ending`)
    unreadable?  say so, and leave alone what runs
    ended now?   say how (`outcome`), and tidy up
    otherwise    running: learner (`attempts`), actors (`autoscale`), children (`desired`), and
                 the status (`telling`)
                 suspended: the same, but first the actors drain, then the learner checkpoints

Nothing here talks to anybody or reads a clock, so each of these is a table of tests.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from vaco.errors import UserError
from vaco.job import JobError, VACOJobStatus

from vaco_operator.cluster import attempts, labels, troubles
from vaco_operator.cluster.desired import (
    desired_children,
    issue,
    issued_by,
    next_issue,
)
from vaco_operator.cluster.ending import after_the_end, tidying
from vaco_operator.cluster.leaving import appointments, leaving
from vaco_operator.cluster.observed import Moment, Observed
from vaco_operator.cluster.outcome import active_deadline, is_finished, outcome, start_deadline
from vaco_operator.cluster.pods import DELETION_COST
from vaco_operator.cluster.projection import digest
from vaco_operator.cluster.reading import read_job
from vaco_operator.cluster.resources import PODS, Document
from vaco_operator.cluster.steps import LearnerAddress, Memory, Patch, Plan, World
from vaco_operator.cluster.telling import seen
from vaco_operator.cluster.transitions import transitions
from vaco_operator.cluster.victims import SEEN_SECONDS
from vaco_operator.cluster.view import View, look
from vaco_operator.status import Outcome, job_status, unreadable

ASK_SECONDS: Final = 5.0
"""Between two questions to a learner at most; its scaling interval may be shorter."""
MIN_ASK_SECONDS: Final = 0.5
SOONEST_SECONDS: Final = 0.05


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
        view = look(job, observed, memory, now)
        end = outcome(job, observed, view.heard, view.trouble or view.shortage, now)
        return _end(view, end) if end is not None else _go_on(view, world)
    except JobError as error:
        problem = " ".join(str(each) for each in error.problems)
    except UserError as error:
        problem = str(error)
    return _misfit(document, observed, problem, memory, now)


def _misfit(
    document: Document, observed: Observed, problem: str, memory: Memory, now: Moment
) -> Plan:
    """Plan for a job whose spec this operator cannot read: what runs is left alone."""
    before = observed.status or VACOJobStatus()
    generation = document["metadata"].get("generation")
    status = unreadable(before, problem, generation, now.wall)
    return Plan(status=status, notes=transitions(None, before, status), memory=memory)


def _end(view: View, end: Outcome) -> Plan:
    told = replace(seen(view), outcome=end, ready=0)
    status = job_status(view.job, told, view.observed.status, view.now.wall)
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


def _go_on(view: View, world: World) -> Plan:
    job, observed, memory, now = view.job, view.observed, view.memory, view.now
    patches, deletions = attempts.clearing(observed, memory.leaving, now.monotonic)
    patches += attempts.found_again(job, observed)
    patches += [_cost(name, cost) for name, cost in view.scale.costs.items()]
    if view.attempt.step == "replace" and observed.learner_job is not None:
        name = labels.ChildNames.of(job.metadata.name).learner
        deletions.append(attempts.replacement(name, observed.learner_job))
    credentials = issue(job, memory.issued, now, world, awaited=view.awaited)
    basis = _basis(view)
    children: tuple[Document, ...] = ()
    if credentials is not None or basis != memory.settled:
        children = desired_children(
            job,
            observed,
            view.attempt,
            credentials,
            world,
            replicas=view.replicas,
            resting=view.learner_rests,
            put_off=view.put_off,
        )
    memory = replace(memory, settled=basis, issued=issued_by(children, job, memory.issued, now))
    told = seen(view, children)
    if view.suspended:
        rest = Outcome("Suspended", "Suspended", "spec.suspend is true; nothing of the job runs.")
        told = replace(told, outcome=rest, ready=0)
    status = job_status(job, told, observed.status, now.wall)
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


def _basis(view: View) -> bytes:
    """Return a digest of all that the children follow from: if it is the same, so are they.

    To build and to compare them takes several times as long as all the rest of a plan, and most
    plans are made because a learner has answered.
    """
    live = view.observed.live.items()
    return digest(
        [
            view.job.metadata.generation,
            view.attempt.number,
            view.attempt.step,
            view.replicas,
            view.learner_rests,
            *(
                sorted(str(child) for child in children)
                for children in (view.put_off, view.observed.strangers, view.observed.leftovers)
            ),
            {str(child): each["metadata"]["resourceVersion"] for child, each in live},
        ]
    )


def _inquiry(view: View) -> troubles.Inquiry | None:
    unexplained = troubles.unexplained(view.observed, view.memory.complaint, view.now)
    return unexplained[0] if unexplained and unexplained[1] <= 0 else None


def _address(view: View) -> LearnerAddress | None:
    pod = view.observed.learner
    if pod is None or not pod.started or not pod.ip:
        return None
    interval = view.job.spec.autoscaling.interval_seconds
    return LearnerAddress(pod.uid, pod.ip, max(MIN_ASK_SECONDS, min(ASK_SECONDS, interval)))


def _cost(pod: str, cost: int) -> Patch:
    return Patch(PODS, pod, {"metadata": {"annotations": {DELETION_COST: str(cost)}}}, wish=True)


def _appointments(view: View, memory: Memory) -> Iterator[float]:
    """Yield the seconds until something is due although nothing happens."""
    job, observed, now = view.job, view.observed, view.now
    if memory.issued is not None:
        due = next_issue(job, memory.issued, now, awaited=view.awaited)
        if due > 0:
            # What was due now and is not done was refused: it comes back with its refusal.
            yield due
    yield from (
        left
        for left in (
            None if job.spec.suspend else start_deadline(job, observed, now.wall),
            None if job.spec.suspend else active_deadline(job, observed, now.wall),
        )
        # One that is over and did not end the job waits for the learner's word.
        if left is not None and left > 0
    )
    yield from appointments(observed, memory.leaving, now.monotonic)
    if view.voice is not None:
        yield view.voice.until - now.monotonic
    if view.scale.replicas > view.scale.scaler.desired:
        yield SEEN_SECONDS
    if attempts.is_untold(observed):
        # The status is written now, which wakes nobody.
        yield SOONEST_SECONDS
    yield from (refusal.until - now.monotonic for refusal in memory.refusals)
    if unexplained := troubles.unexplained(observed, memory.complaint, now):
        yield unexplained[1]
