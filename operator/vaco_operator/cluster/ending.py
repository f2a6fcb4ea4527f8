"""A job that has ended: its pods go as `cleanPodPolicy` says, and in time it goes itself.

| | Running (default) | All | None |
|---|---|---|---|
| actors | go | go | stay, and look for a learner that is gone |
| a learner that still runs (the operator ended the job) | goes | goes | goes |
| the learner's pods that have ended, with their logs | stay | go | stay |

Whatever else changes, in the spec or among its children, is not looked at any more: a new
generation is marked as observed, so that nobody waits for it.
"""

from datetime import datetime
from typing import Any

from vaco.job import VACOJobStatus

from vaco_operator.cluster import attempts
from vaco_operator.cluster.leaving import Leaving, appointments
from vaco_operator.cluster.observed import Moment, Observed
from vaco_operator.cluster.resources import DEPLOYMENTS, JOBS, PODS, VACO_JOBS, Document
from vaco_operator.cluster.steps import Deletion, Memory, Patch, Plan


def after_the_end(job: Document, observed: Observed, memory: Memory, now: Moment) -> Plan:
    """Plan what is left to do for a job whose status says that it has ended.

    Args:
        job: the VACOJob as the API has it; its spec need not be one that we could read.
        observed: what there is of it.
        memory: what the plan before left, and who is leaving now.
        now: the time.

    """
    spec, metadata = job["spec"], job["metadata"]
    left = _time_to_live(spec.get("ttlSecondsAfterFinished"), observed.status, now.wall)
    if left is not None and left <= 0:
        gone = Deletion(VACO_JOBS, metadata["name"], metadata["uid"])
        return Plan(deletions=(gone,), memory=memory)
    policy = spec.get("cleanPodPolicy", "Running")
    seen = _observed_generation(job)
    patches, deletions = tidying(policy, observed, memory.leaving, now.monotonic)
    due = list(appointments(observed, memory.leaving, now.monotonic))
    due += [] if left is None else [left]
    due += [refusal.until - now.monotonic for refusal in memory.refusals]
    return Plan(
        patches=(*patches, *seen),
        deletions=deletions,
        memory=memory,
        requeue_after=min(due, default=None),
    )


def _observed_generation(job: Document) -> tuple[Patch, ...]:
    """Return what marks a generation as observed and leaves the rest of the status alone."""
    generation = job["metadata"].get("generation")
    if generation is None or job["status"].get("observedGeneration") == generation:
        return ()
    change = {"status": {"observedGeneration": generation}}
    return (Patch(VACO_JOBS, job["metadata"]["name"], change, "status"),)


def tidying(
    policy: str, observed: Observed, since: Leaving, now: float
) -> tuple[tuple[Patch, ...], tuple[Deletion, ...]]:
    """Return what ends the pods of a job that has ended."""
    patches, deletions = attempts.clearing(observed, since, now)
    deployment, batch = observed.actors, observed.learner_job
    if deployment is not None and deployment.replicas and policy != "None":
        name = deployment.document["metadata"]["name"]
        patches.append(Patch(DEPLOYMENTS, name, {"spec": {"replicas": 0}}))
    if batch is not None and not (batch.finished or batch.suspended or batch.deleting):
        # Suspending a Job ends its pods, and keeps the record of how they had ended.
        name = batch.document["metadata"]["name"]
        patches.append(Patch(JOBS, name, {"spec": {"suspend": True}}))
    if policy == "All":
        over = [pod for pod in (*observed.learner_pods, *observed.former_pods) if pod.over]
        deletions += [Deletion(PODS, pod.name, pod.uid) for pod in over if pod.grace is None]
    return tuple(patches), tuple(deletions)


def _time_to_live(ttl: Any, status: VACOJobStatus | None, now: datetime) -> float | None:
    """Return the seconds until the job itself is deleted; None: it stays."""
    ended = status.completion_time if status else None
    if ended is None or not isinstance(ttl, int | float):
        return None
    return ttl - (now - ended).total_seconds()
