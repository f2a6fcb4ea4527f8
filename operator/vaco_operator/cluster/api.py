"""The Kubernetes API as the operator uses it: plain dicts, server-side apply, patient retries.

Every call makes up to `ATTEMPTS` attempts, with a jittered back-off that doubles, or after as long
as the server asks for (`Retry-After`). Repeated is only what may be: all writes here say what shall
be (apply, merge patch, delete) and not what shall happen, so that a write whose answer was lost can
be sent again. A conflict is repeated too, unless the caller named the version or the object it had
read: then somebody else was faster, and the caller has to look again. Workers (`for_workers`) are
few, so they repeat only what fails quickly: a job whose requests hang waits in the queue.

Before every attempt to write the fence is asked (see `election`): a leader that was paused past its
lease writes nothing more, whatever it was about to do.
"""

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Final, Self

from vaco_operator.cluster.api_errors import (
    ApiError,
    ConflictError,
    NotFoundError,
    UnavailableError,
)
from vaco_operator.cluster.resources import Document, Resource
from vaco_operator.cluster.transport import Fence, Transport

FIELD_MANAGER: Final = "vaco-operator"
ATTEMPTS: Final = 5
FIRST_DELAY_SECONDS: Final = 0.2
MAX_DELAY_SECONDS: Final = 5.0
PATIENCE_SECONDS: Final = 15.0
"""No call waits for a server that asks for more."""
WORKER_SECONDS: Final = 1.5
"""A worker's call makes no further attempt that would begin later than this."""
PAGE: Final = 25
"""Objects in one answer to a list: eight lists are read at once when the operator starts, and what
they take then is not given back."""

APPLY: Final = "application/apply-patch+yaml"
MERGE: Final = "application/merge-patch+json"


class KubeApi:
    """Talks to the API server.

    All methods raise `ApiError` (see `api_errors`) when several attempts have not helped.

    Args:
        transport: makes the single attempts.
        fence: asked before every attempt to write.
        timeout: seconds for one attempt.
        sleep: waits so many seconds.
        patience: seconds from the begin of a call after which no further attempt begins.

    """

    def __init__(
        self,
        transport: Transport,
        fence: Fence,
        timeout: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        *,
        patience: float = math.inf,
    ) -> None:
        self._transport = transport
        self._fence = fence
        self._timeout = timeout
        self._sleep = sleep
        self._patience = patience

    def for_workers(self) -> Self:
        """Return one whose caller itself comes back later, and is not to wait long now."""
        return type(self)(
            self._transport, self._fence, self._timeout, self._sleep, patience=WORKER_SECONDS
        )

    async def get(self, resource: Resource, namespace: str, name: str) -> Document:
        """Read one object; the stores have everything but Secrets and Leases.

        Raises:
            NotFoundError: there is none.

        """
        return await self._call("get", resource, "GET", resource.path(namespace, name))

    async def list_pages(
        self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[Document]:
        """Yield a collection page by page, each as the list document it came as.

        Args:
            resource: of which.
            namespace: whose; empty: of the whole cluster.
            labels: a selector.
            fields: a selector too, by what the API can select by.

        Raises:
            GoneError: the list took so long that its version is no longer known; begin again.

        """
        query = {"limit": str(PAGE)} | ({"labelSelector": labels} if labels else {})
        query |= {"fieldSelector": fields} if fields else {}
        path = resource.path(namespace)
        while True:
            page = await self._call("list", resource, "GET", path, query=query)
            token = page["metadata"].get("continue")
            # The caller may clear it, lest there be two of them while the next one is read.
            yield page
            if not token:
                return
            query["continue"] = token

    async def create(self, resource: Resource, document: Document) -> Document:
        """Create an object, and return it as it is now.

        Raises:
            AlreadyExistsError: also when an earlier attempt created it and its answer was lost.

        """
        path = resource.path(document["metadata"]["namespace"])
        query = {"fieldManager": FIELD_MANAGER}
        return await self._call("create", resource, "POST", path, query=query, body=document)

    async def apply(
        self, resource: Resource, document: Document, subresource: str = ""
    ) -> Document:
        """Server-side apply with force, and return the object as it is now.

        Fields that are not in `document` but were in the one applied before are removed; fields
        of other managers stay.

        Args:
            resource: of which.
            document: all fields that the operator decides; apiVersion and kind are filled in.
            subresource: `status`, or nothing.

        """
        metadata = document["metadata"]
        body = {"apiVersion": resource.api_version, "kind": resource.kind, **document}
        return await self._call(
            "apply",
            resource,
            "PATCH",
            resource.path(metadata["namespace"], metadata["name"], subresource),
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
            body=body,
            content_type=APPLY,
            subresource=subresource,
            repeat_conflict=_names_no_other(document),
        )

    async def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        change: Document,
        subresource: str = "",
    ) -> Document:
        """Merge `change` into an object (null removes), and return it as it is now.

        With a `metadata.resourceVersion` or `metadata.uid` in it, it is merged into that version or
        that object, or not at all.

        Raises:
            ConflictError: the object is no longer that one.

        """
        return await self._call(
            "patch",
            resource,
            "PATCH",
            resource.path(namespace, name, subresource),
            query={"fieldManager": FIELD_MANAGER},
            body=change,
            content_type=MERGE,
            subresource=subresource,
            repeat_conflict=_names_no_other(change),
        )

    async def patch_status(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        status: Document,
        resource_version: str = "",
    ) -> Document:
        """Merge `status` into an object's status; as `patch` does.

        Args:
            resource: of which.
            namespace: its own.
            name: its own.
            status: what is to change; null removes a field, a list is replaced as a whole.
            resource_version: of the object it was decided from; empty: of any.

        """
        change: Document = {"status": status}
        if resource_version:
            change["metadata"] = {"resourceVersion": resource_version}
        return await self.patch(resource, namespace, name, change, "status")

    async def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        uid: str = "",
        propagation: str = "Background",
        grace_seconds: int | None = None,
    ) -> None:
        """Delete an object; that there is none is what was wanted.

        Args:
            resource: of which.
            namespace: its own.
            name: its own.
            uid: delete this one only, and none that was created since under its name.
            propagation: Background, Foreground or Orphan: what becomes of its dependents.
            grace_seconds: instead of the pod's own; 0: at once, without the kubelet's word.

        Raises:
            ConflictError: there is another object of that name.

        """
        body: Document = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
        }
        if uid:
            body["preconditions"] = {"uid": uid}
        if grace_seconds is not None:
            body["gracePeriodSeconds"] = grace_seconds
        path = resource.path(namespace, name)
        try:
            await self._call("delete", resource, "DELETE", path, body=body)
        except NotFoundError:
            return

    async def _call(
        self,
        verb: str,
        resource: Resource,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Document | None = None,
        content_type: str = "application/json",
        subresource: str = "",
        repeat_conflict: bool = False,
    ) -> Document:
        named = f"{resource.plural}/{subresource}" if subresource else resource.plural
        began = time.monotonic()
        for attempt in range(1, ATTEMPTS + 1):
            # A write ends before another replica could begin to write.
            fence = None if method == "GET" else self._fence
            seconds = min(self._timeout, fence()) if fence else self._timeout
            try:
                return await self._transport.request(
                    verb,
                    named,
                    method,
                    path,
                    query=query,
                    body=body,
                    content_type=content_type,
                    seconds=seconds,
                    fence=fence,
                )
            except ApiError as error:
                if attempt == ATTEMPTS or not _may_pass(error, repeat_conflict):
                    raise
                delay = retry_delay(error, attempt)
                if time.monotonic() + delay > began + self._patience:
                    raise
            await self._sleep(delay)
        raise AssertionError("the last attempt returns or raises")


def _may_pass(error: ApiError, repeat_conflict: bool) -> bool:
    """Whether the same request may succeed if it is made again soon."""
    if isinstance(error, UnavailableError):
        return (error.retry_after or 0.0) <= PATIENCE_SECONDS
    return isinstance(error, ConflictError) and repeat_conflict


def _names_no_other(change: Document) -> bool:
    """Whether a conflict may pass: an object of another version or uid stays another."""
    return not {"resourceVersion", "uid"} & change.get("metadata", {}).keys()


def retry_delay(error: ApiError, attempt: int) -> float:
    """Return the seconds to wait after attempt number `attempt` (from 1) failed.

    Half of the delay is drawn by lot, so that replicas and workers do not come back together.
    """
    delay = min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** (attempt - 1))
    jittered = delay * random.uniform(0.5, 1.0)  # noqa: S311
    # Never before the server asked for; a little later, as others were told the same.
    return max(jittered, (error.retry_after or 0.0) * random.uniform(1.0, 1.1))  # noqa: S311
