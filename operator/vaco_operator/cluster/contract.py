"""What the runtime asks of the reconciler, and what it gives it.

The runtime (`application`, `controller`) finds out that a job may need attention and calls
`Reconciler.reconcile`, never twice at once for the same job. The reconciler reads the stores, acts
through the API, and says when it wants to look again. It is made when this replica has become the
leader, with a `Surroundings`, and closed before the Lease is given back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from vaco_operator.cluster.api import KubeApi
from vaco_operator.cluster.resources import Document
from vaco_operator.cluster.settings import Settings
from vaco_operator.cluster.store import JobKey, Stores


class Recorder(Protocol):
    """Tells the users of a job what happened to it; see `events.EventRecorder`."""

    def record(
        self, about: Document, kind: Literal["Normal", "Warning"], reason: str, message: str
    ) -> None:
        """Have an event written about an object; returns at once and never raises.

        The same event again only raises the count of the one that is there, and too many of one
        object are dropped: calling it in every reconcile is not wrong, but says nothing either.

        Args:
            about: the object, with apiVersion, kind and metadata.
            kind: Warning, if somebody should look at it.
            reason: in one CamelCase word, from a fixed list.
            message: a sentence, of at most 1,024 characters.

        """


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a reconciler works with.

    Attributes:
        settings: of this operator.
        api: writes are fenced: after the Lease was lost the next one ends the process.
        stores: what is watched; they are in step with the API server before the first reconcile.
        recorder: of events.
        wake: have a job reconciled soon, because something outside of the API server happened; it
            does not shorten the wait after a failure.

    """

    settings: Settings
    api: KubeApi
    stores: Stores
    recorder: Recorder
    wake: Callable[[JobKey], None]


class Reconciler(Protocol):
    """Brings one job to where its manifest wants it."""

    async def reconcile(self, key: JobKey) -> float | None:
        """Look at a job once, and do what is to be done now.

        The job may be gone (`stores.vaco_jobs.get` returns None): then forget what is remembered
        of it; its children are collected by Kubernetes. Must never wait for anything but the API
        server: a worker that is on one job for `settings.stuck_after` seconds is unhealthy.

        Returns:
            Seconds until the job should be looked at again although nothing happens; None: at the
            next resync, which comes anyway.

        Raises:
            ApiError: the job comes back with a back-off, not before the server's Retry-After.
            Exception: likewise; it is logged with its traceback as a fault of the operator.

        """

    async def close(self) -> None:
        """End what runs in the background; no reconcile runs or comes any more."""


MakeReconciler = Callable[[Surroundings], Reconciler]
"""In `reconcile.py`: a class that takes a `Surroundings`."""
