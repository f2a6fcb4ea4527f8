"""What can go wrong with a call to the API server, and which calls it goes wrong with.

Kinds of faults: `refuse` (the server never sees the call), `lose_answer` (it does what is asked,
and nobody hears of it), `drop` (the connection is closed), `hang` (no answer ever), `delay`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

HANG_SECONDS: Final = 120.0
WRITES: Final = ("POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as far as faults look at it; `path` is of the URL."""

    method: str
    path: str
    watch: bool
    resource: str
    namespace: str
    name: str
    at: float = field(default_factory=time.monotonic, compare=False)

    @classmethod
    def of(cls, request: web.Request) -> Call:
        """Read it from a request."""
        parts = request.path.strip("/").split("/")
        rest = parts[2:] if parts[0] == "api" else parts[3:]
        namespace = ""
        if len(rest) > 2 and rest[0] == "namespaces":
            namespace, rest = rest[1], rest[2:]
        return cls(
            request.method,
            request.path,
            request.query.get("watch") in ("true", "1"),
            rest[0] if rest else "",
            namespace,
            rest[1] if len(rest) > 1 else "",
        )


When = Callable[[Call], bool]
Pass = Callable[[], Awaitable[web.StreamResponse]]
Act = Callable[[web.Request, Pass], Awaitable[web.StreamResponse]]


def aborted(request: web.Request) -> web.StreamResponse:
    """Close the connection of a request as if a cable were pulled."""
    if request.transport is not None:
        request.transport.abort()
    # Not sent: there is no connection any more.
    return web.Response()


def everything(call: Call) -> bool:
    """All calls but watches."""
    return not call.watch


def writes(resource: str = "") -> When:
    """Writes, of one resource or of all but Leases: an election is faulted on purpose only."""
    return lambda call: (
        call.method in WRITES
        and (call.resource == resource if resource else call.resource != "leases")
    )


def calls(method: str, resource: str, *, watch: bool = False) -> When:
    """Calls of one method to one resource."""
    return lambda call: (call.method, call.resource, call.watch) == (method, resource, watch)


def by_chance(share: float, seed: int, when: When = everything) -> When:
    """Some of the calls that `when` says, drawn by lot."""
    lots = random.Random(seed)
    return lambda call: when(call) and lots.random() < share


def refuse(status: int, reason: str = "", *, retry_after: int | None = None) -> Act:
    """Answer with an error, as a server that did not do what was asked."""
    document = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": status,
        "reason": reason,
        "message": f"injected {status}",
    }
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}

    async def act(_request: web.Request, _pass_on: Pass) -> web.StreamResponse:
        return web.json_response(document, status=status, headers=headers)

    return act


def lose_answer(status: int = 504) -> Act:
    """Have the server do what is asked, and answer with an error; not for watches (`when`)."""
    refused = refuse(status, "Timeout")

    async def act(request: web.Request, pass_on: Pass) -> web.StreamResponse:
        await pass_on()
        return await refused(request, pass_on)

    return act


def drop(*, after: bool = False) -> Act:
    """Close the connection without an answer; `after`: the server has done what was asked.

    With `after` it is not for watches: these have an answer already when they end.
    """

    async def act(request: web.Request, pass_on: Pass) -> web.StreamResponse:
        if after:
            await pass_on()
        return aborted(request)

    return act


async def hang(request: web.Request, _pass_on: Pass) -> web.StreamResponse:
    """Never answer; the connection stays."""
    await asyncio.sleep(HANG_SECONDS)
    return aborted(request)


def delay(seconds: float) -> Act:
    """Pass on late."""

    async def act(_request: web.Request, pass_on: Pass) -> web.StreamResponse:
        await asyncio.sleep(seconds)
        return await pass_on()

    return act


@dataclass(slots=True)
class Fault:
    """What happens to the calls that `when` says, so many times; `used` counts them."""

    act: Act
    when: When = everything
    times: int = 1
    used: int = 0
