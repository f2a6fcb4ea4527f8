"""Which children a job should have now, as documents, and when its credentials are made anew."""

from typing import Final

from vaco.job import VACOJob

from vaco_operator.cluster.attempts import Attempt
from vaco_operator.cluster.credentials import Credentials, derive, epoch_at, epoch_end
from vaco_operator.cluster.labels import JobIdentity
from vaco_operator.cluster.manifests.children import children
from vaco_operator.cluster.observed import DIED_BEFORE, Child, LearnerJob, Moment, Observed
from vaco_operator.cluster.resources import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    JOBS,
    NETWORK_POLICIES,
    SECRETS,
    SERVICES,
    VOLUME_CLAIMS,
    Document,
)
from vaco_operator.cluster.steps import Issued, World

REISSUE_SECONDS: Final = 30.0
"""While somebody may wait for the Secret: it may be gone or another, which cannot be seen."""
_RESOURCES: Final = {
    (resource.api_version, resource.kind): resource
    for resource in (
        CONFIG_MAPS,
        DEPLOYMENTS,
        JOBS,
        NETWORK_POLICIES,
        SECRETS,
        SERVICES,
        VOLUME_CLAIMS,
    )
}


def child_of(document: Document) -> Child:
    """Tell which child a document is of."""
    resource = _RESOURCES[document["apiVersion"], document["kind"]]
    return Child(resource, document["metadata"]["name"])


def is_there(child: Child, observed: Observed) -> bool:
    """Whether a child exists, so that what needs it can be written though it itself cannot be.

    A Secret cannot be seen, but what makes pods is never made before it.
    """
    if child.resource == SECRETS:
        return observed.learner_job is not None or observed.actors is not None
    return child in observed.live


def desired_children(
    job: VACOJob,
    observed: Observed,
    attempt: Attempt,
    credentials: Credentials | None,
    world: World,
    *,
    replicas: int,
    resting: bool,
    put_off: frozenset[Child] = frozenset(),
) -> tuple[Document, ...]:
    """Return the children to apply, in order.

    Nothing is made while an earlier job's children are still there, nothing after a child whose
    name somebody else has, and nothing is written into a child that is about to go.

    Args:
        job: whose they are.
        observed: what there is of it.
        attempt: what becomes of the learner's Job.
        credentials: for the Secret; None: leave it as it is.
        world: what is the same for all jobs.
        replicas: of the actors' Deployment.
        resting: whether the learner shall have no pod.
        put_off: children that were refused, and are not to be tried yet.

    Raises:
        UserError: a pod template of the user's cannot be merged.

    """
    if observed.leftovers:
        return ()
    batch, deployment = observed.learner_job, observed.actors
    built = children(
        job,
        world.settings,
        replicas=replicas,
        attempt=attempt.number,
        suspended=resting,
        credentials=credentials,
        live_learner=batch.document if batch else None,
        live_actors=deployment.document if deployment else None,
        live_claim=observed.volume_claim,
    )
    wanted: list[Document] = []
    for document in built.in_order():
        child = child_of(document)
        if child in observed.strangers or (child in put_off and not is_there(child, observed)):
            break
        if child in put_off:
            continue
        if "deletionTimestamp" in observed.live.get(child, {}).get("metadata", {}):
            continue
        if child.resource == JOBS:
            if attempt.step not in ("keep", "make"):
                continue
            document = _with_history(document, batch, observed)
        if child.resource == DEPLOYMENTS and job.spec.suspend and deployment is None:
            continue
        wanted.append(document)
    return tuple(wanted)


def issue(
    job: VACOJob, issued: Issued | None, now: Moment, world: World, *, awaited: bool
) -> Credentials | None:
    """Return the credentials to apply now; None: those that were applied still do.

    Args:
        job: whose they are.
        issued: those that were applied last.
        now: the time.
        world: what is the same for all jobs.
        awaited: whether somebody may wait for them (`is_awaited`).

    """
    identity = JobIdentity.of(job)
    epoch = epoch_at(identity.created, now.wall)
    if issued is not None and issued.epoch == epoch:
        waited = now.monotonic - issued.at
        if not awaited or waited < REISSUE_SECONDS:
            return None
    return derive(world.root_key, identity, epoch, world.settings.cluster_domain)


def issued_by(
    children: tuple[Document, ...], job: VACOJob, issued: Issued | None, now: Moment
) -> Issued | None:
    """Return what to remember of credentials when these children are applied."""
    if not any(child["kind"] == SECRETS.kind for child in children):
        return issued
    return Issued(epoch_at(JobIdentity.of(job).created, now.wall), now.monotonic)


def next_issue(job: VACOJob, issued: Issued, now: Moment, *, awaited: bool) -> float:
    """Return the seconds until credentials are to be looked at again."""
    epoch = (epoch_end(JobIdentity.of(job).created, issued.epoch) - now.wall).total_seconds()
    if not awaited:
        return epoch
    return min(epoch, issued.at + REISSUE_SECONDS - now.monotonic)


def is_awaited(observed: Observed, *, answers: bool) -> bool:
    """Whether somebody may wait for the Secret as it should be.

    A pod may, on its node; one that waits for a node does not, however long. So may a learner whose
    server is ready and with which we share no credentials any more.

    Args:
        observed: what there is of the job.
        answers: whether its learner does.

    """
    learner, pods = observed.learner, (*observed.learner_pods, *observed.actor_pods)
    if learner is not None and learner.started and learner.ready and not answers:
        return True
    return any(pod.placed and not pod.started and pod.grace is None for pod in pods)


def _with_history(document: Document, batch: LearnerJob | None, observed: Observed) -> Document:
    """Write on the learner's Job how many learners had died before it was made."""
    restarts = observed.status.learner_restarts if observed.status else 0
    died = batch.died_before if batch else restarts
    metadata = document["metadata"]
    annotations = {**metadata.get("annotations", {}), DIED_BEFORE: str(died)}
    return {**document, "metadata": {**metadata, "annotations": annotations}}
