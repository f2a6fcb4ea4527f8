"""Which of several replicas acts: the one that holds a Lease, as client-go has it.

A leader renews the Lease every `retry_period` seconds. Others take it over when they have seen it
unchanged for `lease_duration` seconds. A leader that could not renew for `renew_deadline` seconds,
which is less, ends the process: nothing that it still had in mind is done. The same holds for one
that was paused and wakes: `fence` is asked before every attempt to write, whoever runs first.

    renewal is asked for ──── renew_deadline: no write begins or goes on ──── lease_duration: taken

Time is that of CLOCK_BOOTTIME, which goes on while the machine sleeps.
"""

import asyncio
import contextlib
import logging
import os
import random
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, NoReturn

from vaco.errors import EXIT_FAILURE

from vaco_operator.cluster.api_errors import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    NotFoundError,
)
from vaco_operator.cluster.lease import Candidate, Timing, holder, new_lease, released, renewed
from vaco_operator.cluster.resources import LEASES, Document
from vaco_operator.cluster.transport import Transport

_LOG = logging.getLogger(__name__)
_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def boot_time() -> float:
    """Return seconds since the machine started, its sleep included."""
    return time.clock_gettime(_CLOCK)


def end_process(reason: str) -> NoReturn:
    """End at once: no task, no handler and no destructor gets to write anything any more."""
    _LOG.critical("no longer the leader, ending: %s", reason)
    sys.stderr.flush()
    os._exit(EXIT_FAILURE)


class Election:
    """Takes part in the election for one Lease.

    Args:
        transport: reaches the API server; what is written here is not fenced.
        namespace: of the Lease.
        name: of the Lease.
        identity: of this replica; no other may have it, nor this one after a restart.
        timing: of the election.
        changed: told whether this replica leads.
        end: called when this process must not go on.
        clock: seconds.

    """

    def __init__(
        self,
        transport: Transport,
        namespace: str,
        name: str,
        identity: str,
        timing: Timing,
        changed: Callable[[bool], None],
        end: Callable[[str], NoReturn] = end_process,
        clock: Callable[[], float] = boot_time,
    ) -> None:
        self._transport = transport
        self._namespace, self._name = namespace, name
        self._identity = identity
        self._timing = timing
        self._changed = changed
        self._end = end
        self._clock = clock
        self._candidate = Candidate()
        # A request that hangs leaves time for two others before the deadline.
        self._seconds = timing.renew_deadline / 3
        self._ours: Document | None = None
        self._renewed: float | None = None

    def fence(self) -> float:
        """Return for how many seconds this replica may still write; ends the process if not."""
        if self._renewed is None:
            self._end("something was to be written without holding the Lease")
        ago = self._clock() - self._renewed
        if ago >= self._timing.renew_deadline:
            self._end(f"the Lease was renewed {ago:.1f} s ago, too long for a write to begin")
        return self._timing.renew_deadline - ago

    async def acquire(self) -> None:
        """Wait until this replica leads."""
        while True:
            if await self._attempt():
                break
            await asyncio.sleep(self._timing.retry_period * random.uniform(1.0, 1.2))  # noqa: S311
        self._changed(True)
        _LOG.info("leading as %s", self._identity)

    async def hold(self) -> NoReturn:
        """Renew until cancelled; ends the process when that was not possible in time."""
        while True:
            await asyncio.sleep(min(self._timing.retry_period, self.fence()))
            # An attempt that takes too long must not keep the process beyond its time.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.fence()):
                    await self._attempt()

    async def release(self) -> None:
        """Give the Lease back, so that no other has to wait; nothing may be written after."""
        self.fence()
        self._renewed = self._ours = None
        self._changed(False)
        try:
            # Read anew: a renewal that was cut short may have been written or not.
            lease = await self._request("get", "GET", self._path(), None)
            if holder(lease["spec"]) == self._identity:
                lease["spec"] = released(lease["spec"], datetime.now(UTC))
                await self._request("update", "PUT", self._path(), lease)
        except ApiError as error:
            _LOG.warning("the Lease was not given back, and will run out: %s", error)

    async def _attempt(self) -> bool:
        """Try to take or renew the Lease; returns whether it is ours."""
        asked = self._clock()
        try:
            self._ours = await self._take()
        except ApiError as error:
            self._ours = None
            _LOG.warning("the Lease was not reached: %s", error)
        if self._ours is None:
            return False
        # What counts is when it was asked for: others cannot have seen the renewal before.
        self._renewed = asked
        return True

    async def _take(self) -> Document | None:
        """Write the Lease in our name and return it; None: it is another's."""
        if self._ours is not None:
            try:
                return await self._renew(self._ours)
            except (ConflictError, NotFoundError):
                # Somebody wrote it, perhaps we: a renewal whose answer was lost.
                self._ours = None
        try:
            lease = await self._request("get", "GET", self._path(), None)
        except NotFoundError:
            return await self._create()
        name = holder(lease["spec"])
        if name != self._identity and not self._may_take(name, lease["spec"]):
            return None
        try:
            return await self._renew(lease)
        except ConflictError:
            return None

    def _may_take(self, name: str, spec: Document) -> bool:
        if self._renewed is not None and name:
            self._end(f"the Lease is held by {name}")
        return self._candidate.may_take(spec, self._clock())

    async def _renew(self, lease: Document) -> Document:
        spec = renewed(lease["spec"], self._identity, self._timing, datetime.now(UTC))
        return await self._request("update", "PUT", self._path(), {**lease, "spec": spec})

    async def _create(self) -> Document | None:
        lease = new_lease(
            self._namespace, self._name, self._identity, self._timing, datetime.now(UTC)
        )
        try:
            return await self._request("create", "POST", LEASES.path(self._namespace), lease)
        except AlreadyExistsError:
            return None

    def _path(self) -> str:
        return LEASES.path(self._namespace, self._name)

    async def _request(self, verb: str, method: str, path: str, body: Document | None) -> Document:
        return await self._transport.request(
            verb, LEASES.plural, method, path, body=body, seconds=self._seconds
        )
