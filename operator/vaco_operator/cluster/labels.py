"""Names of a job's children, and the labels and annotations by which they are known.

Everything that looks for a child, selects a pod or reads an attempt does it by what stands here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, Self

from vaco.errors import UserError
from vaco.job import VACOJob

Component = Literal["learner", "actor", "job"]

MANAGER: Final = "vaco-operator"
"""Value of the label `managed-by`, and the field manager of every apply."""

NAME: Final = "app.kubernetes.io/name"
INSTANCE: Final = "app.kubernetes.io/instance"
COMPONENT: Final = "app.kubernetes.io/component"
MANAGED_BY: Final = "app.kubernetes.io/managed-by"

JOB: Final = "training.vaco.dev/job"
"""Label: name of the VACOJob."""
ATTEMPT: Final = "training.vaco.dev/attempt"
"""Label of the learner's Job and its pods: counts the Jobs that the learner has had, from 1."""
SPEC_HASH: Final = "training.vaco.dev/spec-hash"
"""Annotation of a pod template: what of the job's spec it was made from (`spec_hash`)."""
TEMPLATE_HASH: Final = "training.vaco.dev/template-hash"
"""Annotation of a pod template: what this operator made of it."""

OPERATOR_LABELS: Final[Mapping[str, str]] = {COMPONENT: "operator"}
"""By which the operator's own pods are known in its namespace; the chart sets it."""

GRPC_PORT: Final = 7600
METRICS_PORT: Final = 9090


@dataclass(frozen=True, slots=True)
class JobIdentity:
    """Which job it is, as the API server knows it; `created` is a time in UTC."""

    name: str
    namespace: str
    uid: str
    created: datetime

    @classmethod
    def of(cls, job: VACOJob) -> Self:
        """Read it from a job's metadata.

        Raises:
            UserError: the job does not come from an API server.

        """
        metadata = job.metadata
        if not (metadata.namespace and metadata.uid and metadata.creation_timestamp):
            raise UserError(
                "metadata",
                f"{metadata.name} lacks namespace, uid or creationTimestamp",
                "Read the job from the API server, which gives every job all three.",
            )
        created = datetime.fromisoformat(metadata.creation_timestamp)
        return cls(metadata.name, metadata.namespace, metadata.uid, created)


@dataclass(frozen=True, slots=True)
class ChildNames:
    """Names of the children of a job."""

    config_map: str
    credentials: str
    learner: str
    """Of the Service, the batch Job and the NetworkPolicy."""
    actors: str
    """Of the Deployment and the NetworkPolicy."""
    volume_claim: str

    @classmethod
    def of(cls, job: str) -> Self:
        """Derive them from the job's name."""
        return cls(
            config_map=f"{job}-job",
            credentials=f"{job}-credentials",
            learner=f"{job}-learner",
            actors=f"{job}-actors",
            volume_claim=f"{job}-checkpoints",
        )


def learner_host(identity: JobIdentity) -> str:
    """DNS name that actors connect to, and that the learner's certificate is for."""
    return f"{ChildNames.of(identity.name).learner}.{identity.namespace}.svc"


def child_labels(job: str, component: Component) -> dict[str, str]:
    """Labels of a child, and of the pods it makes."""
    return {
        NAME: "vaco",
        INSTANCE: job,
        COMPONENT: component,
        MANAGED_BY: MANAGER,
        JOB: job,
    }


def pod_selector(job: str, component: Component) -> dict[str, str]:
    """Labels that select a job's pods of one component.

    A Deployment's selector can never change, so this is as little as tells them apart.
    """
    return {COMPONENT: component, JOB: job}


def actor_selector(job: str) -> str:
    """Spell the actors' selector as `status.actors.selector` and the API's queries do."""
    return ",".join(f"{name}={value}" for name, value in pod_selector(job, "actor").items())
