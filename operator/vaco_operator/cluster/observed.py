"""What there is of one job, read from the stores at one moment.

`observe` turns what the API server told into values that a plan can decide on. What bears the name
of a child but belongs to somebody else is kept apart: it is named, and never touched. Names may be
used again, so whose a child is goes by the uid of its owner: what an earlier job of the same name
left is waited for until the garbage collector has taken it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple, Self

from pydantic import ValidationError
from vaco.job import KIND, VACOJobStatus
from vaco.v1 import learner_pb2 as pb

from vaco_operator.cluster import labels
from vaco_operator.cluster.manifests.learner_job import live_attempt
from vaco_operator.cluster.pods import Pod, controller_of, parse_time
from vaco_operator.cluster.resources import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    JOBS,
    NETWORK_POLICIES,
    PODS,
    SERVICES,
    VOLUME_CLAIMS,
    Document,
    Resource,
)
from vaco_operator.cluster.store import JobKey, Stores

DIED_BEFORE: Final = "training.vaco.dev/died-before"
"""Annotation of the learner's Job: pods that had died in the Jobs that the learner had before."""


class Moment(NamedTuple):
    """Now: by the clock on the wall for what is written down, and in monotonic seconds."""

    wall: datetime
    monotonic: float


class Child(NamedTuple):
    """A child of a job, by what it is and its name."""

    resource: Resource
    name: str

    def __str__(self) -> str:
        return f"{self.resource.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a learner said: in which pod it ran, and at which monotonic second it was heard.

    `every` is the seconds between two questions to it.
    """

    status: pb.GetStatusResponse
    pod: str
    at: float
    every: float


@dataclass(frozen=True, slots=True)
class LearnerJob:
    """The batch Job that keeps one learner running.

    Attributes:
        uid: its identity.
        attempt: which of the learner's Jobs it is.
        created: when it was made.
        started: when it began to make pods, after it was made or resumed; None: it did not yet.
        deleting: whether it was told to go.
        suspended: whether it is told to have no pod.
        failed: pods that died, by Kubernetes' count of failures.
        died_before: pods that had died before this Job was made.
        complete: whether the learner has reached its end.
        failure: why it was given up, as (reason, message).
        document: all of it.

    """

    uid: str
    attempt: int
    created: datetime
    started: datetime | None
    deleting: bool
    suspended: bool
    failed: int
    died_before: int
    complete: bool
    failure: tuple[str, str] | None
    document: Document

    @property
    def finished(self) -> bool:
        """Whether it will never have another pod."""
        return self.complete or self.failure is not None

    @classmethod
    def read(cls, document: Document) -> Self:
        """Read a batch Job."""
        metadata, status = document["metadata"], document.get("status") or {}
        holding, started = _holding(status), status.get("startTime")
        failure = holding.get("Failed")
        return cls(
            uid=metadata["uid"],
            attempt=live_attempt(document),
            created=parse_time(metadata["creationTimestamp"]),
            started=parse_time(started) if started else None,
            deleting="deletionTimestamp" in metadata,
            suspended=bool(document["spec"].get("suspend")),
            failed=int(status.get("failed", 0)),
            died_before=_count((metadata.get("annotations") or {}).get(DIED_BEFORE)),
            complete="Complete" in holding,
            failure=(failure.get("reason", ""), failure.get("message", "")) if failure else None,
            document=document,
        )


@dataclass(frozen=True, slots=True)
class ActorDeployment:
    """The Deployment of the actors: how many it is told to keep, and why it cannot.

    `refused` is why pods are not made, in the API server's words; empty: nothing is in the way.
    """

    replicas: int
    refused: str
    document: Document

    @classmethod
    def read(cls, document: Document) -> Self:
        """Read a Deployment."""
        failure = _holding(document.get("status") or {}).get("ReplicaFailure", {})
        return cls(
            replicas=int(document["spec"].get("replicas", 1)),
            refused=failure.get("message", ""),
            document=document,
        )


@dataclass(frozen=True, slots=True)
class Observed:
    """One job and what belongs to it.

    Attributes:
        status: as the job has it; None: nothing was written yet.
        live: its children but the pods, as they are.
        strangers: what has a child's name, but another owner.
        leftovers: children of an earlier job of the same name, which are about to go.
        learner_job: the learner's Job.
        actors: the actors' Deployment.
        volume_claim: the claim for checkpoints that was made for this job.
        learner_pods: pods of the learner's Job as it is now.
        former_pods: pods of Jobs that the learner had before.
        actor_pods: the actors' pods.
        answer: the learner's newest; None: it has not answered.

    """

    status: VACOJobStatus | None = None
    live: Mapping[Child, Document] = field(default_factory=dict)
    strangers: frozenset[Child] = frozenset()
    leftovers: frozenset[Child] = frozenset()
    learner_job: LearnerJob | None = None
    actors: ActorDeployment | None = None
    volume_claim: Document | None = None
    learner_pods: tuple[Pod, ...] = ()
    former_pods: tuple[Pod, ...] = ()
    actor_pods: tuple[Pod, ...] = ()
    answer: Answer | None = None

    @property
    def learner(self) -> Pod | None:
        """The learner's newest pod that has not ended and is not told to."""
        alive = [pod for pod in self.learner_pods if not pod.over and pod.grace is None]
        return max(alive, key=lambda pod: (pod.created, pod.name), default=None)

    @property
    def pods(self) -> tuple[Pod, ...]:
        """All pods."""
        return (*self.learner_pods, *self.former_pods, *self.actor_pods)

    @property
    def learners_left(self) -> tuple[Pod, ...]:
        """All pods in which a learner may still run, whichever Job made them."""
        return tuple(pod for pod in (*self.learner_pods, *self.former_pods) if not pod.over)

    @property
    def actors_left(self) -> tuple[Pod, ...]:
        """All pods in which an actor may still run."""
        return tuple(pod for pod in self.actor_pods if not pod.over)


def observe(stores: Stores, job: Document, answer: Answer | None) -> Observed:
    """Read from the stores what there is of `job`, a VACOJob as the API has it."""
    metadata = job["metadata"]
    key = JobKey(metadata["namespace"], metadata["name"])
    there = {
        Child(store.resource, document["metadata"]["name"]): document
        for store in stores.children()
        if store.resource != PODS
        for document in store.of_job(key)
    }
    live = {child: each for child, each in there.items() if controller_of(each) == metadata["uid"]}
    names = labels.ChildNames.of(key.name)
    # What bears our labels and no child's name is in nobody's way.
    others = {
        child: there[child] for child in _named(names) if child in there and child not in live
    }
    leftovers = frozenset(child for child, each in others.items() if _is_leftover(each, key.name))
    learner_job = live.get(Child(JOBS, names.learner))
    actors = live.get(Child(DEPLOYMENTS, names.actors))
    job_uid = learner_job["metadata"]["uid"] if learner_job else ""
    created = parse_time(metadata["creationTimestamp"])
    pods = stores.pods.of_job(key)
    learner_pods = _pods(pods, "learner", created)
    return Observed(
        status=read_status(job.get("status")),
        live=live,
        strangers=frozenset(others) - leftovers,
        leftovers=leftovers,
        learner_job=LearnerJob.read(learner_job) if learner_job else None,
        actors=ActorDeployment.read(actors) if actors else None,
        volume_claim=live.get(Child(VOLUME_CLAIMS, names.volume_claim)),
        learner_pods=tuple(pod for pod in learner_pods if job_uid and pod.owner == job_uid),
        former_pods=tuple(pod for pod in learner_pods if not job_uid or pod.owner != job_uid),
        actor_pods=_pods(pods, "actor", created),
        answer=answer,
    )


def _named(names: labels.ChildNames) -> tuple[Child, ...]:
    """Return the children that a job may have; its Secret is not seen."""
    return (
        Child(CONFIG_MAPS, names.config_map),
        Child(VOLUME_CLAIMS, names.volume_claim),
        Child(NETWORK_POLICIES, names.learner),
        Child(NETWORK_POLICIES, names.actors),
        Child(SERVICES, names.learner),
        Child(JOBS, names.learner),
        Child(DEPLOYMENTS, names.actors),
    )


def _is_leftover(document: Document, job: str) -> bool:
    """Whether an object that is not this job's belonged to a job of the same name, or is going."""
    metadata = document["metadata"]
    owners = [owner for owner in metadata.get("ownerReferences") or () if owner.get("controller")]
    ours = [owner for owner in owners if (owner["kind"], owner["name"]) == (KIND, job)]
    return bool(ours) or "deletionTimestamp" in metadata


def read_status(document: Document | None) -> VACOJobStatus | None:
    """Read a status, whoever wrote it: what another version of us knows is left out."""
    if not document:
        return None
    kept: Any = document
    # Each turn leaves out at least one field, and no more than there are.
    for _ in range(len(document) + 1):
        try:
            return VACOJobStatus.model_validate(kept, by_alias=True, by_name=False)
        except ValidationError as error:
            kept = _without(kept, [each["loc"] for each in error.errors(include_input=False)])
    return None


def _without(document: Document, places: Iterable[tuple[int | str, ...]]) -> Document:
    """Leave out the fields, or of conditions the entries, in which something is wrong."""
    fields = {place[0] for place in places if place[0] != "conditions"}
    entries = {place[1] for place in places if place[0] == "conditions" and len(place) > 1}
    kept = {name: value for name, value in document.items() if name not in fields}
    if entries:
        kept["conditions"] = [
            entry for i, entry in enumerate(document["conditions"]) if i not in entries
        ]
    elif any(place[0] == "conditions" for place in places):
        kept.pop("conditions")
    return kept


def _pods(
    documents: Iterable[Document], component: labels.Component, since: datetime
) -> tuple[Pod, ...]:
    """Read the pods of one component that are not those of an earlier job of the same name."""
    chosen = [
        Pod.read(document, component)
        for document in documents
        if document["metadata"]["labels"].get(labels.COMPONENT) == component
    ]
    return tuple(pod for pod in chosen if pod.created >= since)


def _holding(status: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the conditions that are true, by type."""
    return {c["type"]: c for c in status.get("conditions") or () if c.get("status") == "True"}


def _count(text: str | None) -> int:
    """Read a count that we wrote and that anybody may have edited."""
    return int(text) if text and text.isascii() and text.isdigit() else 0
