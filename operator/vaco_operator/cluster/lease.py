"""The document that replicas compete for, and who may take it; pure."""

from dataclasses import dataclass
from datetime import UTC, datetime
from math import ceil
from typing import Final

from vaco_operator.cluster.resources import LEASES, Document

RELEASED_SECONDS: Final = 1
"""The duration in a Lease that was given back: it may not be 0."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds; see `Settings`."""

    lease_duration: float
    renew_deadline: float
    retry_period: float


@dataclass(frozen=True, slots=True)
class Sighting:
    """A Lease as it looked, and when it was first seen to look so."""

    spec: Document
    since: float


class Candidate:
    """What a replica knows of the Lease of another one.

    It compares what it sees with what it saw, and both times are of its own clock: the clocks of
    two machines never meet.
    """

    def __init__(self) -> None:
        self._seen: Sighting | None = None

    def may_take(self, spec: Document, now: float) -> bool:
        """Look at a Lease's spec; returns whether it is free."""
        if self._seen is None or self._seen.spec != spec:
            self._seen = Sighting(spec, now)
        if not holder(spec):
            return True
        # The holder's own word for how long it stays: another release may be set otherwise.
        return now - self._seen.since > float(spec.get("leaseDurationSeconds") or 0)


def holder(spec: Document) -> str:
    """Return who holds a Lease; empty: nobody."""
    return str(spec.get("holderIdentity") or "")


def new_lease(namespace: str, name: str, identity: str, timing: Timing, now: datetime) -> Document:
    """Return a Lease that there was none of before."""
    return {
        "apiVersion": LEASES.api_version,
        "kind": LEASES.kind,
        "metadata": {"namespace": namespace, "name": name},
        "spec": renewed({}, identity, timing, now),
    }


def renewed(spec: Document, identity: str, timing: Timing, now: datetime) -> Document:
    """Return the spec of a Lease that `identity` renews, or takes over."""
    written = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    after = {
        **spec,
        "holderIdentity": identity,
        # Rounded up: others wait rather too long than too short.
        "leaseDurationSeconds": ceil(timing.lease_duration),
        "renewTime": written,
    }
    if holder(spec) != identity:
        after["acquireTime"] = written
        after["leaseTransitions"] = int(spec.get("leaseTransitions") or 0) + bool(spec)
    return after


def released(spec: Document, now: datetime) -> Document:
    """Return the spec of a Lease that its holder gives back."""
    written = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return {
        **spec,
        "holderIdentity": "",
        "leaseDurationSeconds": RELEASED_SECONDS,
        "renewTime": written,
    }
