"""What happened to a job, for its users: `kubectl describe vj` and `kubectl get events`.

Events are of core/v1, whose `count` and times every kubectl shows as "x12 over 5m". The same event
again (same object, kind, reason and message) raises the count of the one that is there, which is
written at most once a minute. New ones of one object are bounded too: a burst, and then a few a
minute; more are dropped. Events are written in the background, and what goes wrong with one never
reaches a reconcile: they tell what was done, and nothing depends on them.
"""

import asyncio
import contextlib
import json
import logging
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from vaco_operator.cluster.api import FIELD_MANAGER, KubeApi
from vaco_operator.cluster.api_errors import AlreadyExistsError, ApiError, NotFoundError
from vaco_operator.cluster.resources import EVENTS, Document

_LOG = logging.getLogger(__name__)

MAX_SERIES: Final = 1024
"""Different events that are remembered; the least recently seen is forgotten first."""
MAX_OBJECTS: Final = 4096
COUNT_SECONDS: Final = 60.0
"""Between two writes of one event's count."""
BURST: Final = 25
REFILL_SECONDS: Final = 20.0
"""For one more new event of an object."""
MAX_MESSAGE: Final = 1024

Kind = Literal["Normal", "Warning"]
_Key = tuple[str, Kind, str, str]


@dataclass(slots=True)
class _Series:
    """One event, and how often it happened.

    `text` is its document as JSON, which takes a third of the memory.
    """

    text: bytes
    last: datetime
    count: int = 1
    written: int = 0
    due: float = 0.0

    @property
    def document(self) -> Document:
        """Read it, without what changes with every time it happens."""
        document: Document = json.loads(self.text)
        return document

    def counted(self) -> Document:
        """Return what changes with every time it happens."""
        return {"count": self.count, "lastTimestamp": _written(self.last)}


class EventRecorder:
    """Takes events at once, and writes them when it can.

    Args:
        api: creates and patches events.
        identity: of this replica.
        counted: told whether an event was `written`, `failed` or `dropped`.
        clock: monotonic seconds.

    """

    def __init__(
        self,
        api: KubeApi,
        identity: str,
        counted: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._identity = identity
        self._counted = counted
        self._clock = clock
        self._series: OrderedDict[_Key, _Series] = OrderedDict()
        self._unwritten: OrderedDict[_Key, _Series] = OrderedDict()
        self._budgets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._news = asyncio.Event()

    def record(self, about: Document, kind: Kind, reason: str, message: str) -> None:
        """Have an event written about an object; see `contract.Recorder`."""
        message = message if len(message) <= MAX_MESSAGE else f"{message[: MAX_MESSAGE - 1]}…"
        uid = about["metadata"]["uid"]
        key = (uid, kind, reason, message)
        series = self._series.get(key)
        now = datetime.now(UTC)
        if series is not None:
            series.count += 1
            series.last = now
            self._series.move_to_end(key)
        elif self._may_begin(uid):
            text = json.dumps(self._document(about, kind, reason, message, now)).encode()
            series = self._series[key] = _Series(text, now)
            if len(self._series) > MAX_SERIES:
                self._series.popitem(last=False)
        else:
            self._counted("dropped")
            return
        self._unwritten[key] = series
        self._news.set()

    async def run(self) -> None:
        """Write what is due, until cancelled."""
        while True:
            wait = await self._write_due()
            self._news.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._news.wait()
            except TimeoutError:
                continue

    async def write_all(self) -> None:
        """Write what is not written yet, although it may not be due: nobody will later."""
        await self._write_until(math.inf)

    async def _write_due(self) -> float | None:
        """Write what is due; returns the seconds until more is, None: there is nothing."""
        await self._write_until(self._clock())
        if not self._unwritten:
            return None
        soonest = min(series.due for series in self._unwritten.values())
        return max(0.0, soonest - self._clock())

    async def _write_until(self, moment: float) -> None:
        for key, series in list(self._unwritten.items()):
            if series.due <= moment:
                self._unwritten.pop(key, None)
                await self._write(key, series)

    async def _write(self, key: _Key, series: _Series) -> None:
        series.due = self._clock() + COUNT_SECONDS
        count, change = series.count, series.counted()
        try:
            if not series.written or not await self._recount(series.document, change):
                await self._create({**series.document, **change})
        except ApiError as error:
            _LOG.warning("an event was not written (%s: %s): %s", key[2], key[3], error)
            self._counted("failed")
            # When it happens again it is a new one.
            self._series.pop(key, None)
            return
        series.written = count
        self._counted("written")

    async def _create(self, document: Document) -> None:
        # It is there already when the answer to an earlier attempt was lost.
        with contextlib.suppress(AlreadyExistsError):
            await self._api.create(EVENTS, document)

    async def _recount(self, document: Document, change: Document) -> bool:
        """Write a new count; returns whether the event still was there: it is kept for an hour."""
        metadata = document["metadata"]
        try:
            await self._api.patch(EVENTS, metadata["namespace"], metadata["name"], change)
        except NotFoundError:
            return False
        return True

    def _document(
        self, about: Document, kind: Kind, reason: str, message: str, now: datetime
    ) -> Document:
        metadata = about["metadata"]
        return {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {
                "namespace": metadata["namespace"],
                "name": f"{metadata['name']}.{secrets.token_hex(8)}",
            },
            "involvedObject": {
                "apiVersion": about["apiVersion"],
                "kind": about["kind"],
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
                "resourceVersion": metadata.get("resourceVersion", ""),
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "firstTimestamp": _written(now),
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": FIELD_MANAGER,
            "reportingInstance": self._identity,
        }

    def _may_begin(self, uid: str) -> bool:
        """Take one event from an object's budget, if there is one left."""
        now = self._clock()
        left, since = self._budgets.pop(uid, (float(BURST), now))
        left = min(float(BURST), left + (now - since) / REFILL_SECONDS)
        allowed = left >= 1
        self._budgets[uid] = (left - allowed, now)
        if len(self._budgets) > MAX_OBJECTS:
            self._budgets.popitem(last=False)
        return allowed


def _written(now: datetime) -> str:
    return now.strftime("%Y-%m-%dT%H:%M:%SZ")
