"""What a plan consists of: data, which `apply` turns into requests."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from vaco.job import VACOJobStatus

from vaco_operator.cluster.hearing import Heard
from vaco_operator.cluster.leaving import Leaving
from vaco_operator.cluster.resources import Document, Resource
from vaco_operator.cluster.settings import Settings
from vaco_operator.cluster.troubles import Complaint, Inquiry, Refusal
from vaco_operator.cluster.victims import Marking
from vaco_operator.scaler import Scaler


class Note(NamedTuple):
    """An event to be told to the users of a job."""

    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Patch:
    """A change of one object: merged into it, or applied as fields of ours.

    `wish`: nothing depends on it, so it does not matter if it is refused.
    """

    resource: Resource
    name: str
    change: Document
    subresource: str = ""
    applied: bool = False
    wish: bool = False


@dataclass(frozen=True, slots=True)
class Deletion:
    """An object to delete: this one, and none that has its name by then."""

    resource: Resource
    name: str
    uid: str
    propagation: Literal["Background", "Foreground"] = "Background"
    grace_seconds: int | None = None


class LearnerAddress(NamedTuple):
    """Where the learner can be asked: the uid and the address of its pod, and how often."""

    pod: str
    ip: str
    every: float


class Issued(NamedTuple):
    """The credentials that were applied last: of which epoch, at which monotonic second."""

    epoch: int
    at: float


@dataclass(frozen=True, slots=True)
class World:
    """What a plan knows beside the job: the operator's settings, and the root of credentials."""

    settings: Settings
    root_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Memory:
    """What this process remembers of a job; all of it can be lost.

    Attributes:
        scaler: the number of actors and why.
        marking: who was chosen to go in a scale-down that has not happened yet.
        heard: the newest that the learner said.
        issued: the credentials that were applied.
        refusals: what the API server would not have of us, each child by itself.
        complaint: why the learner's Job makes no pod.
        leaving: since when pods have been seen to go.
        settled: digest of what the children followed from when all were found as they should be.

    """

    scaler: Scaler | None = None
    marking: Marking | None = None
    heard: Heard | None = None
    issued: Issued | None = None
    refusals: tuple[Refusal, ...] = ()
    complaint: Complaint | None = None
    leaving: Leaving = field(default_factory=dict)
    settled: bytes | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done for a job now, in this order.

    Attributes:
        patches: of single objects.
        deletions: of objects.
        children: to be applied one after the other, until one is refused.
        status: what the job's status should be; None: as it is.
        notes: events, to be told when the status is written.
        memory: what to remember if all of it succeeds; it is `settled` if nothing was to be done.
        learner: where the learner can be asked; None: there is nobody to ask.
        look_into: what events should be read for; None: nothing.
        requeue_after: seconds until the job is to be looked at again.

    """

    patches: tuple[Patch, ...] = ()
    deletions: tuple[Deletion, ...] = ()
    children: tuple[Document, ...] = ()
    status: VACOJobStatus | None = None
    notes: tuple[Note, ...] = ()
    memory: Memory = field(default_factory=Memory)
    learner: LearnerAddress | None = None
    look_into: Inquiry | None = None
    requeue_after: float | None = None
