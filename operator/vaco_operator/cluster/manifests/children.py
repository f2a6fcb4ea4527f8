"""All children of a job at once, in the order in which they are applied."""

from dataclasses import dataclass

from vaco.job import VACOJob

from vaco_operator.cluster.credentials import Credentials
from vaco_operator.cluster.manifests.actors import actors_deployment
from vaco_operator.cluster.manifests.config_map import config_map
from vaco_operator.cluster.manifests.credentials_secret import credentials_secret
from vaco_operator.cluster.manifests.learner_job import learner_job, live_attempt
from vaco_operator.cluster.manifests.network_policy import actors_policy, learner_policy
from vaco_operator.cluster.manifests.service import learner_service
from vaco_operator.cluster.manifests.volume_claim import volume_claim
from vaco_operator.cluster.resources import Document
from vaco_operator.cluster.settings import Settings


@dataclass(frozen=True, slots=True)
class Children:
    """What a job's children should be; None: it has no such child, or it is not looked at now."""

    config_map: Document
    credentials: Document | None
    volume_claim: Document | None
    learner_policy: Document
    actors_policy: Document
    service: Document
    learner: Document
    actors: Document

    def in_order(self) -> tuple[Document, ...]:
        """Return those that there should be: what a pod needs before the pod."""
        everything = (
            self.config_map,
            self.credentials,
            self.volume_claim,
            self.learner_policy,
            self.actors_policy,
            self.service,
            self.learner,
            self.actors,
        )
        return tuple(each for each in everything if each is not None)


def children(
    job: VACOJob,
    settings: Settings,
    *,
    replicas: int,
    attempt: int,
    suspended: bool,
    credentials: Credentials | None = None,
    live_learner: Document | None = None,
    live_actors: Document | None = None,
    live_claim: Document | None = None,
) -> Children:
    """Build them all.

    A learner that is made anew (a new attempt, or its Job was deleted) is of this operator's
    making, and its actors are replaced to match: images of two releases need not understand each
    other.

    Args:
        job: whose children they are, from the API server.
        settings: of the operator.
        replicas: how many actors there shall be.
        attempt: counts the Jobs that the learner has had, from 1.
        suspended: whether the learner shall have no pod.
        credentials: for this epoch; None: leave the Secret as it is.
        live_learner: the learner's Job as it is, if there is one. If it was made from another
            spec (`live_spec_hash`), it must be deleted first: a Job's template never changes.
        live_actors: the Deployment as it is, if there is one.
        live_claim: the claim for checkpoints as it is, if there is one.

    Raises:
        UserError: a pod template of the user's cannot be merged.

    """
    if live_learner is not None and live_attempt(live_learner) != attempt:
        live_learner = None
    if live_learner is None:
        live_actors = None
    return Children(
        config_map=config_map(job),
        credentials=credentials_secret(job, credentials) if credentials else None,
        volume_claim=volume_claim(job, live_claim),
        learner_policy=learner_policy(job, settings),
        actors_policy=actors_policy(job),
        service=learner_service(job, attempt),
        learner=learner_job(job, settings, attempt=attempt, suspended=suspended, live=live_learner),
        actors=actors_deployment(job, settings, replicas=replicas, live=live_actors),
    )
