"""What is read of a pod: where it is, how it is, and how its container ended last."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Self

from vaco_operator.cluster import labels
from vaco_operator.cluster.resources import Document

DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
_NOT_STARTING: Final = {
    # The kubelet says one and then the other of the same image, again and again.
    "ErrImagePull": "ImagePullBackOff",
    "ImagePullBackOff": "ImagePullBackOff",
    "InvalidImageName": "InvalidImageName",
    "ErrImageNeverPull": "ErrImageNeverPull",
    "CreateContainerConfigError": "CreateContainerConfigError",
    "CreateContainerError": "CreateContainerError",
    "RunContainerError": "RunContainerError",
}
"""Reasons for which a container waits that do not pass by themselves, and how we spell them."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a container ended; `message` is its last words, `ran_for` seconds."""

    code: int
    reason: str
    message: str
    ran_for: float

    @property
    def described(self) -> str:
        """The end in words: `exit status 1`, `exit status 137 (OOMKilled)`."""
        # "Error" and "Completed" say no more than the status does.
        why = f" ({self.reason})" if self.reason not in ("", "Error", "Completed") else ""
        return f"exit status {self.code}{why}"

    @property
    def last_line(self) -> str:
        """The last line of what it said, without the space around it."""
        lines = [line.strip() for line in self.message.splitlines()]
        return next((line for line in reversed(lines) if line), "")


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod of a learner or an actor.

    Attributes:
        name: its name, which is also an actor's id.
        uid: identity of this very pod.
        owner: uid of its controller; empty: it has none.
        attempt: of a learner's pod: which of the learner's Jobs made it; 0: not told.
        phase: Pending, Running, Succeeded, Failed or Unknown.
        placed: whether it has a node.
        ready: whether its Ready condition holds.
        ip: its address; empty: none yet.
        created: when it was made.
        grace: seconds that it may stay since it was told to go; None: it was not told.
        restarts: of its container.
        ended: how its container ended last; None: it never did.
        hindrance: why its container does not start, as (reason, message).
        cost: what a scale-down is told it costs to delete it.

    """

    name: str
    uid: str
    owner: str
    attempt: int
    phase: str
    placed: bool
    ready: bool
    ip: str
    created: datetime
    grace: float | None
    restarts: int
    ended: Exit | None
    hindrance: tuple[str, str] | None
    cost: int

    @property
    def over(self) -> bool:
        """Whether its containers have ended for good."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def started(self) -> bool:
        """Whether its containers have been started."""
        return self.phase in ("Running", "Succeeded", "Failed")

    @classmethod
    def read(cls, document: Document, container: str) -> Self:
        """Read a pod, of whose containers `container` is ours and the others are not looked at."""
        metadata, status = document["metadata"], document.get("status") or {}
        states = [c for c in status.get("containerStatuses") or () if c["name"] == container]
        state: Mapping[str, Any] = states[0] if states else {}
        deleted = metadata.get("deletionTimestamp")
        conditions = {c["type"]: c for c in status.get("conditions") or ()}
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            owner=controller_of(document),
            attempt=_number((metadata.get("labels") or {}).get(labels.ATTEMPT)),
            phase=status.get("phase", "Pending"),
            placed=bool((document.get("spec") or {}).get("nodeName")),
            ready=conditions.get("Ready", {}).get("status") == "True",
            ip=status.get("podIP", ""),
            created=parse_time(metadata["creationTimestamp"]),
            grace=metadata.get("deletionGracePeriodSeconds", 0) if deleted else None,
            restarts=int(state.get("restartCount", 0)),
            ended=_ended(state),
            hindrance=_hindrance(conditions, _all_states(status)),
            cost=_number((metadata.get("annotations") or {}).get(DELETION_COST)),
        )


def controller_of(document: Document) -> str:
    """Return the uid of the object's controller; empty: it has none."""
    owners = document["metadata"].get("ownerReferences") or ()
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")


def parse_time(text: str) -> datetime:
    """Read a time as Kubernetes writes it."""
    return datetime.fromisoformat(text)


def _ended(state: Mapping[str, Any]) -> Exit | None:
    """Read how the container ended: now, or before it was restarted."""
    for moment in ("state", "lastState"):
        if ended := (state.get(moment) or {}).get("terminated"):
            return Exit(
                code=int(ended.get("exitCode", 0)),
                reason=ended.get("reason", ""),
                message=ended.get("message", ""),
                ran_for=_between(ended.get("startedAt"), ended.get("finishedAt")).total_seconds(),
            )
    return None


def _hindrance(
    conditions: Mapping[str, Mapping[str, Any]], states: Sequence[Mapping[str, Any]]
) -> tuple[str, str] | None:
    """Say why nothing of the pod starts, if that does not pass by itself."""
    scheduled = conditions.get("PodScheduled", {})
    if scheduled.get("reason") == "Unschedulable" and scheduled.get("status") == "False":
        return "Unschedulable", scheduled.get("message", "")
    for state in states:
        waiting = (state.get("state") or {}).get("waiting") or {}
        if reason := _NOT_STARTING.get(waiting.get("reason", "")):
            return reason, waiting.get("message", "")
    return None


def _all_states(status: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the states of all containers: any image that is missing keeps the pod from running."""
    return [
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ]


def _between(start: str | None, end: str | None) -> timedelta:
    if not start or not end:
        return timedelta()
    return parse_time(end) - parse_time(start)


def _number(text: str | None) -> int:
    """Read an integer that anybody may have written."""
    try:
        return int(text or 0)
    except ValueError:
        return 0
