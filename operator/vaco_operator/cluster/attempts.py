"""The learner's Job: kept, made, or made anew.

A Job's pod template can never change. When the job's spec asks for another one, the Job is deleted,
with its pod first, which checkpoints; when nothing of it is left, the next attempt is made. Two
learners never run at once: the next Job waits for pods of the one before, whoever deleted it. A pod
on a node that died says nothing any more and would be waited for forever; when its grace is long
over, it is declared dead (whoever deletes it without any grace does no more than to hurry: its Job
holds on to a pod until it has ended).
"""

from dataclasses import dataclass
from typing import Literal

from vaco.job import VACOJob

from vaco_operator.cluster import labels
from vaco_operator.cluster.leaving import STUCK_SECONDS, Leaving, stuck_in
from vaco_operator.cluster.manifests.pod import live_spec_hash
from vaco_operator.cluster.manifests.spec_hash import spec_hash
from vaco_operator.cluster.observed import LearnerJob, Observed
from vaco_operator.cluster.pods import Pod
from vaco_operator.cluster.resources import JOBS, PODS
from vaco_operator.cluster.steps import Deletion, Patch


@dataclass(frozen=True, slots=True)
class Attempt:
    """What is to become of the learner's Job, and which attempt is the learner's now.

    `wait`: for what is left of the Job before, for its actors, or until the status tells of it;
    `rest`: there is none, and there is to be none.
    """

    number: int
    step: Literal["keep", "make", "replace", "wait", "rest"]


def attempt(job: VACOJob, observed: Observed, *, drained: bool) -> Attempt:
    """Decide what is to become of the learner's Job.

    Args:
        job: whose it is.
        observed: what there is of it.
        drained: whether the actors have left, or had all the time they have for it.

    """
    batch, status = observed.learner_job, observed.status
    if batch is not None:
        number = max(batch.attempt, 1)
        if batch.deleting:
            return Attempt(number, "wait")
        if not is_outdated(job, batch):
            return Attempt(number, "keep")
        if is_untold(observed):
            return Attempt(number, "wait")
        drains = job.spec.suspend or is_another(job, observed)
        return Attempt(number, "wait" if drains and not drained else "replace")
    known = [pod.attempt for pod in observed.former_pods]
    number = max([status.attempt if status else 0, *known])
    if job.spec.suspend:
        return Attempt(max(number, 1), "rest")
    if any(not pod.over for pod in observed.former_pods):
        return Attempt(max(number, 1), "wait")
    return Attempt(number + 1, "make")


def is_untold(observed: Observed) -> bool:
    """Whether the status does not tell of the learner's Job yet.

    Until it does, the Job is all that knows its number: were it deleted, the next would have the
    same one.
    """
    batch, status = observed.learner_job, observed.status
    return batch is not None and batch.attempt > (status.attempt if status else 0)


def restarts(observed: Observed) -> int:
    """Count the learners that died and were started again, in all of the learner's Jobs."""
    batch, status = observed.learner_job, observed.status
    known = status.learner_restarts if status else 0
    if batch is None:
        return known
    # The death that ends the job is followed by no other start.
    last = 1 if batch.failure is not None and batch.failed else 0
    return max(known, batch.died_before + batch.failed - last)


def clearing(observed: Observed, since: Leaving, now: float) -> tuple[list[Patch], list[Deletion]]:
    """Return what removes pods that nobody else removes any more."""
    patches, deletions = [], []
    for pod in observed.pods:
        if stuck_in(pod, since, now) > 0:
            continue
        if not pod.over:
            # Kubernetes does the same to pods of nodes that were removed.
            patches.append(Patch(PODS, pod.name, _declared_dead(pod), "status", applied=True))
        if pod.grace:
            deletions.append(Deletion(PODS, pod.name, pod.uid, grace_seconds=0))
    # Whoever deleted their Job and orphaned them wanted them gone from there, not from here.
    orphans = [
        pod for pod in observed.former_pods if not pod.owner and not pod.over and pod.grace is None
    ]
    deletions += [Deletion(PODS, pod.name, pod.uid) for pod in orphans]
    return patches, deletions


def found_again(job: VACOJob, observed: Observed) -> list[Patch]:
    """Return what gives a learner's Job its labels back, without which it is not seen.

    Whoever took them off left its pod, which names it. It may as well be gone: then this is in
    vain, and so is its pod in a moment.
    """
    if observed.learner_job is not None:
        return []
    name = job.metadata.name
    return [
        Patch(
            JOBS,
            labels.ChildNames.of(name).learner,
            {
                "metadata": {
                    "uid": pod.owner,
                    "labels": {
                        **labels.child_labels(name, "learner"),
                        labels.ATTEMPT: str(pod.attempt),
                    },
                }
            },
            wish=True,
        )
        for pod in observed.former_pods
        if pod.owner and not pod.over and pod.grace is None
    ]


def replacement(name: str, batch: LearnerJob) -> Deletion:
    """Return what makes room for the next attempt: the pod goes first, and then the Job."""
    return Deletion(JOBS, name, batch.uid, "Foreground")


def is_another(job: VACOJob, observed: Observed) -> bool:
    """Whether learner and actors are both of another spec than the job's: its last run's.

    Such a change can be made only while the job is suspended. If it was suspended, changed and
    resumed faster than anybody looked, the actors shall still drain before their learner goes. Once
    they are told to, there are none of the former spec to tell it by.
    """
    batch, deployment = observed.learner_job, observed.actors
    if batch is None or deployment is None or not is_outdated(job, batch):
        return False
    return not deployment.replicas or live_spec_hash(deployment.document) != spec_hash(job, "actor")


def is_outdated(job: VACOJob, batch: LearnerJob) -> bool:
    """Whether the learner's Job was made from another spec."""
    return live_spec_hash(batch.document) != spec_hash(job, "learner")


def _declared_dead(pod: Pod) -> dict[str, object]:
    message = f"It was still there {STUCK_SECONDS:g} s after its grace: its node seems to be dead."
    condition = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "StuckTerminating",
        "message": message,
    }
    return {"metadata": {"uid": pod.uid}, "status": {"phase": "Failed", "conditions": [condition]}}
