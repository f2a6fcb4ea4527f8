"""Keeps one store in step with the API server: list, then watch from the list's version on.

    list ──> watch ──ended, cut, silent──> watch from the newest version seen
      ^        │
      └──410───┴── or it fails again and again

The server sends a bookmark every minute when nothing else happens, so a watch that is silent for
much longer is dead, however healthy its connection looks. After a list, what it no longer has is
taken out of the store: deletions that no watch has told are noticed then.
"""

import asyncio
import json
import logging
import math
import random
import time
from collections.abc import Callable
from typing import Final, NoReturn

from vaco_operator.cluster.api import KubeApi
from vaco_operator.cluster.api_errors import ApiError, GoneError, UnavailableError, api_error
from vaco_operator.cluster.resources import Document
from vaco_operator.cluster.store import Store
from vaco_operator.cluster.transport import Transport

_LOG = logging.getLogger(__name__)

WATCH_SECONDS: Final = (240.0, 480.0)
"""How long one watch is asked to last, drawn by lot: not all of them begin again together."""
FIRST_DELAY_SECONDS: Final = 0.5
MAX_DELAY_SECONDS: Final = 10.0
"""What happens is noticed so late at most, once the server is back."""
STEADY_SECONDS: Final = 5.0
"""After a watch that lasted so long, what failed before it is forgotten."""
FAILURES_BEFORE_LIST: Final = 3
"""A version that the server never reaches (etcd was restored from a backup) does no 410."""
BRIEF_SECONDS: Final = 1.0
"""A watch that ends sooner, without a word, counts as a failure: or it would be asked in a loop."""

Restarted = Callable[[str, str], None]


class Reflector:
    """Fills one store from one namespace, or from the whole cluster.

    `tried` is set once the first list came or failed, `synced` once the store is filled.

    Args:
        api: lists.
        transport: watches.
        store: what to fill.
        namespace: whose objects; empty: the whole cluster's.
        labels: selector of the objects.
        silence: seconds without a word after which a watch is dead.
        timeout: seconds until the answer to a watch begins.
        restarted: told the resource and why (`ended`, `expired`, `failed`).

    """

    def __init__(
        self,
        api: KubeApi,
        transport: Transport,
        store: Store,
        namespace: str,
        labels: str,
        silence: float,
        timeout: float,
        restarted: Restarted,
    ) -> None:
        self._api = api
        self._transport = transport
        self._store = store
        self.namespace = namespace
        self._labels = labels
        self._silence = silence
        self._timeout = timeout
        self._restarted = restarted
        self._version = ""
        self._failures = 0
        self._heard = time.monotonic()
        self._opened = math.inf
        self.synced = asyncio.Event()
        self.tried = asyncio.Event()
        self.name = f"{store.resource.plural} of {namespace or 'all namespaces'}"

    def silent_for(self) -> float:
        """Return for how many seconds this reflector has neither heard anything nor tried to.

        One that tries in vain is not stuck: a restart of the operator would not help it.
        """
        return time.monotonic() - self._heard

    async def run(self) -> NoReturn:
        """List and watch until cancelled."""
        while True:
            try:
                if not self._version:
                    await self._list()
                await self._watch()
                reason, delay = "ended", 0.0
            except ApiError as error:
                reason, delay = self._failed(error)
            self._restarted(self._store.resource.plural, reason)
            await asyncio.sleep(delay)

    def _failed(self, error: ApiError) -> tuple[str, float]:
        """Take note of a failure; returns its name, and the seconds to wait."""
        now = time.monotonic()
        if now - self._opened > STEADY_SECONDS:
            self._failures = 0
        self._failures += 1
        self.tried.set()
        self._opened = math.inf
        self._heard = now
        delay = min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(self._failures - 1, 10))
        delay = max(delay * random.uniform(0.5, 1.0), error.retry_after or 0.0)  # noqa: S311
        expired = isinstance(error, GoneError)
        if expired or self._failures >= FAILURES_BEFORE_LIST:
            self._version = ""
        level = logging.INFO if expired else logging.WARNING
        _LOG.log(level, "watching %s failed, again in %.1f s: %s", self.name, delay, error)
        return ("expired" if expired else "failed"), delay

    async def _list(self) -> None:
        places: set[tuple[str, str]] = set()
        version = ""
        pages = self._api.list_pages(self._store.resource, self.namespace, labels=self._labels)
        async for page in pages:
            self._heard = time.monotonic()
            version = page["metadata"]["resourceVersion"]
            for document in page["items"]:
                self._store.restate(document, version)
                places.add((document["metadata"]["namespace"], document["metadata"]["name"]))
            page.clear()
        self._store.keep_only(self.namespace, places, version)
        self._version = version
        _LOG.debug("listed %s: %d at version %s", self.name, len(places), version)
        self.synced.set()
        self.tried.set()

    async def _watch(self) -> None:
        """Follow one watch until it ends in order."""
        began = time.monotonic()
        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(int(random.uniform(*WATCH_SECONDS))),  # noqa: S311
        }
        if self._labels:
            query["labelSelector"] = self._labels
        resource = self._store.resource
        async with self._transport.stream(
            resource.plural,
            resource.path(self.namespace),
            query,
            seconds=self._timeout,
            silence=self._silence,
        ) as lines:
            self._heard = self._opened = time.monotonic()
            async for line in lines:
                self._heard = time.monotonic()
                self._take(line)
                self._failures = 0
        if time.monotonic() - began < BRIEF_SECONDS:
            raise UnavailableError(200, "Brief", "the server ended the watch at once")

    def _take(self, line: bytes) -> None:
        """Bring one event into the store."""
        try:
            event: Document = json.loads(line)
            kind, document = event["type"], event["object"]
        except (ValueError, KeyError, TypeError):
            raise UnavailableError(200, "Unreadable", "a line of a watch is no event") from None
        if kind == "ERROR":
            raise api_error(int(document.get("code") or 500), document)
        if kind == "DELETED":
            self._store.discard(document)
        elif kind != "BOOKMARK":
            self._store.told(document)
        self._version = document["metadata"]["resourceVersion"]
