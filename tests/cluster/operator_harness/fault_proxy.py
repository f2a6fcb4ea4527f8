"""Stands between the operator and the API server, and does what networks and servers do at worst.

It is an HTTPS proxy that passes everything on, unless a fault (`faults`) says otherwise. A fault
names the calls it is for, and how often it happens. It only damages what the real API server does:
nothing here answers in its place, but with refusals. So what a program makes of faults is measured
at the real server, by its objects and its audit log.

    with FaultProxy(kubeconfig, folder) as proxy:
        proxy.add(Fault(refuse(429, retry_after=1), when=writes("configmaps"), times=2))
        start_the_program(proxy.kubeconfig)
        proxy.damage_watches(CUT, "pods")
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Coroutine
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import aiohttp
import yaml
from aiohttp import AddrInfoType, web
from kube_harness.pki import Authority
from operator_harness.faults import Call, Fault, When, aborted, everything, hang

T = TypeVar("T")
_Answer = contextlib.AbstractAsyncContextManager[aiohttp.ClientResponse]
START_SECONDS: Final = 10.0
STOP_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.01
HOP_HEADERS: Final = ("Host", "Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive")
_EXPIRED: Final = (
    json.dumps(
        {
            "type": "ERROR",
            "object": {
                "kind": "Status",
                "apiVersion": "v1",
                "status": "Failure",
                "reason": "Expired",
                "message": "injected: too old resource version",
                "code": 410,
            },
        }
    ).encode()
    + b"\n"
)


class Damage(Enum):
    """What can happen to a watch that goes on."""

    CUT = "the connection breaks in the middle of the next event"
    END = "the answer ends in the middle of the next event, as if it were complete"
    MUTE = "the connection stays, and nothing comes any more"
    EXPIRE = "the server says 410 and ends it"


@dataclass(eq=False, slots=True)
class _Watch:
    """A watch that goes on, and what is to happen to it."""

    call: Call
    damage: asyncio.Future[Damage]


class FaultProxy:
    """Passes on what reaches it to the API server of a kubeconfig that authenticates by token.

    Args:
        kubeconfig: of the program under test.
        folder: for keys and for the kubeconfig that leads here instead.

    """

    def __init__(self, kubeconfig: Path, folder: Path) -> None:
        self._document = yaml.safe_load(kubeconfig.read_text())
        self._cluster = self._document["clusters"][0]["cluster"]
        self._upstream: str = self._cluster["server"]
        folder.mkdir(exist_ok=True)
        self._authority = Authority(folder / "proxy-pki")
        self.kubeconfig = folder / "through-proxy.kubeconfig"
        self._faults: list[Fault] = []
        self._watches: set[_Watch] = set()
        self._calls: list[Call] = []
        self._clients: set[asyncio.BaseTransport] = set()
        self._upstream_sockets: list[socket.socket] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault proxy")
        self._stack = contextlib.AsyncExitStack()

    def __enter__(self) -> Self:
        self._thread.start()
        port = self._run(self._start())
        cluster = {
            "server": f"https://127.0.0.1:{port}",
            "certificate-authority": str(self._authority.files.cert),
        }
        clusters = [{"name": self._document["clusters"][0]["name"], "cluster": cluster}]
        self.kubeconfig.write_text(yaml.safe_dump({**self._document, "clusters": clusters}))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_SECONDS)
        self._loop.close()

    def add(self, fault: Fault) -> Fault:
        """Have a fault happen to calls from now on; of several, the first added that applies."""
        self._loop.call_soon_threadsafe(self._faults.append, fault)
        return fault

    def heal(self) -> None:
        """Remove all faults; what hangs, hangs on."""
        self._loop.call_soon_threadsafe(self._faults.clear)

    def calls(self, when: When = everything) -> list[Call]:
        """The calls of that kind that came in until now."""
        return [call for call in list(self._calls) if when(call)]

    def watches(self, resource: str = "") -> int:
        """How many watches go on."""
        return len([w for w in list(self._watches) if resource in ("", w.call.resource)])

    def damage_watches(self, damage: Damage, resource: str = "") -> int:
        """Damage the watches of a resource, or all; returns how many there were."""

        async def damage_them() -> int:
            damaged = [w for w in self._watches if resource in ("", w.call.resource)]
            for watch in damaged:
                if not watch.damage.done():
                    watch.damage.set_result(damage)
            return len(damaged)

        return self._run(damage_them())

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(START_SECONDS)

    async def _start(self) -> int:
        trusted = ssl.create_default_context(
            cadata=base64.b64decode(self._cluster["certificate-authority-data"]).decode()
        )
        self._session = await self._stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    ssl=trusted, limit=0, socket_factory=self._upstream_socket
                ),
                timeout=aiohttp.ClientTimeout(total=None),
                auto_decompress=False,
            )
        )
        application = web.Application(client_max_size=1 << 24)
        application.router.add_route("*", "/{path:.*}", self._handle)
        # A client that leaves ends what is done for it: watches, above all.
        runner = web.AppRunner(application, access_log=None, handler_cancellation=True)
        await runner.setup()
        if runner.server is None:
            raise RuntimeError("the proxy has no server")
        self._server = runner.server
        self._stack.push_async_callback(runner.cleanup)
        pair = self._authority.issue("fault-proxy", hosts=["127.0.0.1"])
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(pair.cert, pair.key)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls, shutdown_timeout=0.1).start()
        port: int = runner.addresses[0][1]
        return port

    async def _stop(self) -> None:
        """Close everything at once: nobody waits here for a client to say goodbye."""
        idle = [handler.transport for handler in self._server.connections]
        for client in (*self._clients, *idle):
            if isinstance(client, asyncio.Transport):
                client.abort()
        await self._stack.aclose()
        # The session has let go of connections that still wait for the server's goodbye.
        for upstream in self._upstream_sockets:
            with contextlib.suppress(OSError):
                upstream.shutdown(socket.SHUT_RDWR)
        async with asyncio.timeout(STOP_SECONDS):
            # A socket tells nobody that it is closed.
            while any(each.fileno() >= 0 for each in self._upstream_sockets):  # noqa: ASYNC110
                await asyncio.sleep(POLL_SECONDS)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        call = Call.of(request)
        self._calls.append(call)
        if request.transport is not None:
            self._clients.add(request.transport)
        body = await request.read()

        async def pass_on() -> web.StreamResponse:
            if call.watch:
                return await self._pass_watch(request, call)
            async with self._asked(request, body) as answer:
                return web.Response(
                    status=answer.status, headers=_without_hop(answer), body=await answer.read()
                )

        for fault in self._faults:
            if fault.used < fault.times and fault.when(call):
                fault.used += 1
                return await fault.act(request, pass_on)
        return await pass_on()

    def _upstream_socket(self, address: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        self._upstream_sockets.append(made)
        return made

    def _asked(self, request: web.Request, body: bytes) -> _Answer:
        headers = {k: v for k, v in request.headers.items() if k not in HOP_HEADERS}
        return self._session.request(
            request.method, self._upstream + request.path_qs, headers=headers, data=body
        )

    async def _pass_watch(self, request: web.Request, call: Call) -> web.StreamResponse:
        watch = _Watch(call, self._loop.create_future())
        async with self._asked(request, b"") as answer:
            response = web.StreamResponse(status=answer.status, headers=_without_hop(answer))
            await response.prepare(request)
            self._watches.add(watch)
            try:
                return await _pass_events(watch, answer.content, request, response)
            finally:
                self._watches.discard(watch)


async def _pass_events(
    watch: _Watch,
    events: aiohttp.StreamReader,
    request: web.Request,
    response: web.StreamResponse,
) -> web.StreamResponse:
    """Pass on events until the server ends the watch, or until it is damaged."""
    while True:
        reading = asyncio.ensure_future(events.readany())
        try:
            await asyncio.wait((reading, watch.damage), return_when=asyncio.FIRST_COMPLETED)
            damage = watch.damage.result() if watch.damage.done() else None
            if damage is Damage.EXPIRE:
                await response.write(_EXPIRED)
                return response
            if damage is Damage.MUTE:
                return await hang(request, _nothing)
            chunk = await reading
        finally:
            reading.cancel()
        if not chunk:
            return response
        if damage is None:
            await response.write(chunk)
            continue
        await response.write(chunk[: len(chunk) // 2])
        return response if damage is Damage.END else aborted(request)


async def _nothing() -> web.StreamResponse:
    return web.Response()


def _without_hop(answer: aiohttp.ClientResponse) -> dict[str, str]:
    return {k: v for k, v in answer.headers.items() if k not in HOP_HEADERS}
