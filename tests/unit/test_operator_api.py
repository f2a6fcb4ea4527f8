"""What the operator makes of answers of an API server: errors, retries, the fence, watches.

The server here is a small one on loopback that says what a test has it say: it stands for answers
that a real API server does not give on demand. tests/cluster has the real one.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from asyncio import sslproto
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import Any, NoReturn

import pytest
from aiohttp import web
from vaco_operator.cluster import api as api_module
from vaco_operator.cluster.api import ATTEMPTS, PATIENCE_SECONDS, KubeApi, retry_delay
from vaco_operator.cluster.api_errors import (
    AlreadyExistsError,
    ApiError,
    ConflictError,
    ForbiddenError,
    GoneError,
    InvalidError,
    NotFoundError,
    QuotaExceededError,
    UnavailableError,
    api_error,
)
from vaco_operator.cluster.connection import Connection
from vaco_operator.cluster.resources import CONFIG_MAPS, JOBS, LEASES, VACO_JOBS
from vaco_operator.cluster.transport import TLS_BUFFER_BYTES, Transport

CONFIG = {"metadata": {"namespace": "ns", "name": "one"}, "data": {"a": "1"}}
FAR_SECONDS = 60.0


class Refused(Exception):  # noqa: N818
    """A fence that ends no process, but the call."""


class Server:
    """Answers requests with what `script` has next; the last entry repeats."""

    def __init__(
        self, script: list[Callable[[web.Request], Awaitable[web.StreamResponse]]]
    ) -> None:
        self._script = script
        self.asked: list[tuple[str, str, dict[str, Any] | None]] = []
        self.headers: list[dict[str, str]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        text = await request.text()
        self.asked.append((request.method, request.path_qs, json.loads(text) if text else None))
        self.headers.append(dict(request.headers))
        turn = min(len(self.asked), len(self._script)) - 1
        return await self._script[turn](request)


def says(
    status: int, document: dict[str, Any] | None = None, **headers: str
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(_request: web.Request) -> web.StreamResponse:
        body = {} if document is None else document
        return web.json_response(body, status=status, headers=headers)

    return answer


def with_api(
    server: Server,
    test: Callable[[KubeApi, Transport], Awaitable[None]],
    fence: Callable[[], float] = lambda: FAR_SECONDS,
    timeout: float = 5.0,
) -> list[float]:
    """Run a test against the server; returns how long the API would have slept between attempts."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def main() -> None:
        async with AsyncExitStack() as stack:
            application = web.Application()
            application.router.add_route("*", "/{path:.*}", server.handle)
            runner = web.AppRunner(application)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=0.1).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            connection = Connection(url, None, lambda: "Bearer secret")
            transport = await stack.enter_async_context(
                Transport(connection, lambda *_counted: None)
            )
            async with asyncio.timeout(30):
                await test(KubeApi(transport, fence, timeout, sleep), transport)

    asyncio.run(main())
    return slept


@pytest.mark.parametrize(
    ("status", "document", "kind"),
    [
        (404, {"reason": "NotFound"}, NotFoundError),
        (409, {"reason": "Conflict"}, ConflictError),
        (409, {"reason": "AlreadyExists"}, AlreadyExistsError),
        (410, {"reason": "Expired"}, GoneError),
        (400, {}, InvalidError),
        (422, {"reason": "Invalid"}, InvalidError),
        (401, {}, UnavailableError),
        (403, {"message": "no role allows it"}, ForbiddenError),
        (403, {"message": "forbidden: exceeded quota: small, requested: ..."}, QuotaExceededError),
        (429, {}, UnavailableError),
        (500, {}, UnavailableError),
        (504, {}, UnavailableError),
        (418, {}, ApiError),
    ],
)
def test_answers_become_errors_by_what_can_be_done(
    status: int, document: dict[str, Any], kind: type[ApiError]
) -> None:
    error = api_error(status, document)
    assert type(error) is kind
    assert error.status == status
    assert str(status) in str(error)


def test_an_error_has_the_servers_words_and_the_fields() -> None:
    causes = [{"reason": "FieldValueInvalid", "field": "spec.x"}]
    document = {"reason": "Invalid", "message": "spec.x: no", "details": {"causes": causes}}
    error = api_error(422, document)
    assert (error.reason, error.message, error.details["causes"]) == (
        "Invalid",
        "spec.x: no",
        causes,
    )
    assert api_error(418, {}).reason == "I'maTeapot"
    assert api_error(599, {"details": "strange"}).details == {}


def test_delays_double_with_a_lot_and_have_a_bound() -> None:
    error = api_error(500, {})
    for attempt, full in [(1, 0.2), (2, 0.4), (3, 0.8), (10, 5.0)]:
        delays = [retry_delay(error, attempt) for _ in range(200)]
        assert full / 2 <= min(delays) < max(delays) <= full
    asked = [retry_delay(api_error(429, {}, 3.0), 1) for _ in range(200)]
    assert 3.0 <= min(asked) < max(asked) <= 3.3


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_write_is_repeated_as_it_was(status: int) -> None:
    server = Server([says(status), says(status), says(200, CONFIG)])

    async def test(api: KubeApi, _transport: Transport) -> None:
        assert await api.apply(CONFIG_MAPS, CONFIG) == CONFIG

    assert len(with_api(server, test)) == 2
    assert server.asked == [server.asked[0]] * 3
    method, path, body = server.asked[0]
    assert (method, path) == (
        "PATCH",
        "/api/v1/namespaces/ns/configmaps/one?fieldManager=vaco-operator&force=true",
    )
    assert body == {"apiVersion": "v1", "kind": "ConfigMap", **CONFIG}
    assert server.headers[0]["Content-Type"] == "application/apply-patch+yaml"
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_attempts_have_a_bound_and_the_last_error_is_raised() -> None:
    server = Server([says(503, {"message": "busy"})])

    async def test(api: KubeApi, _transport: Transport) -> None:
        with pytest.raises(UnavailableError, match="busy"):
            await api.apply(CONFIG_MAPS, CONFIG)

    assert len(with_api(server, test)) == ATTEMPTS - 1
    assert len(server.asked) == ATTEMPTS


def test_a_worker_repeats_what_fails_quickly_and_leaves_what_hangs_to_the_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(_request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    server = Server([says(500), never])
    monkeypatch.setattr(api_module, "WORKER_SECONDS", 0.9)

    async def test(api: KubeApi, _transport: Transport) -> None:
        with pytest.raises(UnavailableError, match="no answer within 1 s"):
            await api.for_workers().apply(CONFIG_MAPS, CONFIG)

    assert len(with_api(server, test, timeout=1)) == 1
    assert len(server.asked) == 2


def test_a_worker_does_not_wait_for_as_long_as_a_server_asks_for() -> None:
    server = Server([says(429, **{"Retry-After": "2"})])

    async def test(api: KubeApi, _transport: Transport) -> None:
        with pytest.raises(UnavailableError):
            await api.for_workers().apply(CONFIG_MAPS, CONFIG)

    assert with_api(server, test) == []


def test_what_is_refused_for_good_is_not_repeated() -> None:
    server = Server([says(422, {"reason": "Invalid"})])

    async def test(api: KubeApi, _transport: Transport) -> None:
        with pytest.raises(InvalidError):
            await api.apply(CONFIG_MAPS, CONFIG)

    assert with_api(server, test) == []
    assert len(server.asked) == 1


def test_a_retry_after_is_waited_for_unless_it_is_too_long() -> None:
    long = str(int(PATIENCE_SECONDS) + 1)
    server = Server([says(429, **{"Retry-After": "2"}), says(429, **{"Retry-After": long})])

    async def test(api: KubeApi, _transport: Transport) -> None:
        with pytest.raises(UnavailableError) as raised:
            await api.apply(CONFIG_MAPS, CONFIG)
        assert raised.value.retry_after == float(long)

    (slept,) = with_api(server, test)
    assert 2.0 <= slept <= 2.2
    assert len(server.asked) == 2


def test_a_retry_after_has_a_bound_and_nonsense_in_it_is_ignored() -> None:
    server = Server([says(429, **{"Retry-After": text}) for text in ("1e12", "-3", "tomorrow")])
    asked: list[float | None] = []

    async def test(_api: KubeApi, transport: Transport) -> None:
        for _ in range(3):
            with pytest.raises(UnavailableError) as raised:
                await transport.request("get", "pods", "GET", "/", seconds=5)
            asked.append(raised.value.retry_after)

    with_api(server, test)
    assert asked == [300.0, 0.0, None]


def test_a_patch_of_another_object_is_not_repeated() -> None:
    server = Server([says(409, {"reason": "Conflict"})])

    async def test(api: KubeApi, _transport: Transport) -> None:
        with pytest.raises(ConflictError):
            await api.patch(JOBS, "ns", "one", {"metadata": {"uid": "u-1", "labels": {}}})

    assert with_api(server, test) == []
    assert len(server.asked) == 1


@pytest.mark.parametrize(("version", "attempts"), [("", 2), ("7", 1)])
def test_a_conflict_is_repeated_unless_a_version_was_named(version: str, attempts: int) -> None:
    server = Server([says(409, {"reason": "Conflict"}), says(200, {})])
    raised: list[ConflictError] = []

    async def test(api: KubeApi, _transport: Transport) -> None:
        try:
            await api.patch_status(VACO_JOBS, "ns", "one", {"message": "m"}, version)
        except ConflictError as error:
            raised.append(error)

    with_api(server, test)
    assert len(server.asked) == attempts
    assert len(raised) == 2 - attempts
    assert server.asked[0][1].startswith(
        "/apis/training.vaco.dev/v1alpha1/namespaces/ns/vacojobs/one/status?"
    )
    expected = {"metadata": {"resourceVersion": version}} if version else {}
    assert server.asked[0][2] == {"status": {"message": "m"}, **expected}


def test_a_server_that_does_not_answer_in_time_is_unavailable() -> None:
    async def never(_request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    async def test(api: KubeApi, _transport: Transport) -> None:
        with pytest.raises(UnavailableError) as raised:
            await api.get(LEASES, "ns", "one")
        assert (raised.value.status, raised.value.reason) == (0, "Timeout")

    with_api(Server([never]), test, timeout=0.1)


def test_a_server_that_is_not_there_is_unavailable() -> None:
    async def test(_api: KubeApi, _transport: Transport) -> None:
        nowhere = Connection("http://127.0.0.1:1", None, lambda: "")
        async with Transport(nowhere, lambda *_counted: None) as other:
            with pytest.raises(UnavailableError) as raised:
                await other.request("get", "pods", "GET", "/", seconds=5)
        assert (raised.value.status, raised.value.reason) == (0, "Disconnected")

    with_api(Server([says(200)]), test)


def test_deleting_what_is_gone_is_done_and_says_which_object_is_meant() -> None:
    server = Server([says(404, {"reason": "NotFound"})])

    async def test(api: KubeApi, _transport: Transport) -> None:
        await api.delete(JOBS, "ns", "one", uid="u-1", propagation="Foreground", grace_seconds=0)

    with_api(server, test)
    assert server.asked[0][:2] == ("DELETE", "/apis/batch/v1/namespaces/ns/jobs/one")
    assert server.asked[0][2] == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "propagationPolicy": "Foreground",
        "preconditions": {"uid": "u-1"},
        "gracePeriodSeconds": 0,
    }


def test_a_list_is_read_page_by_page() -> None:
    pages = [
        {"metadata": {"resourceVersion": "5", "continue": "next"}, "items": [1]},
        {"metadata": {"resourceVersion": "5"}, "items": [2]},
    ]
    server = Server([says(200, pages[0]), says(200, pages[1])])

    async def test(api: KubeApi, _transport: Transport) -> None:
        read = []
        async for page in api.list_pages(CONFIG_MAPS, "ns", labels="a=b"):
            read.append(dict(page))
            # Whoever has read one lets go of it before the next one comes.
            page.clear()
        assert read == pages

    with_api(server, test)
    assert [path for _, path, _ in server.asked] == [
        "/api/v1/namespaces/ns/configmaps?limit=25&labelSelector=a%3Db",
        "/api/v1/namespaces/ns/configmaps?limit=25&labelSelector=a%3Db&continue=next",
    ]


def test_a_fence_that_is_closed_lets_no_write_begin_and_reads_pass() -> None:
    server = Server([says(200, CONFIG)])

    def closed() -> NoReturn:
        raise Refused

    async def test(api: KubeApi, _transport: Transport) -> None:
        await api.get(LEASES, "ns", "one")
        for write in (
            api.apply(CONFIG_MAPS, CONFIG),
            api.create(CONFIG_MAPS, CONFIG),
            api.patch(CONFIG_MAPS, "ns", "one", {}),
            api.delete(CONFIG_MAPS, "ns", "one"),
        ):
            with pytest.raises(Refused):
                await write

    with_api(server, test, fence=closed)
    assert [method for method, _, _ in server.asked] == ["GET"]


def test_a_fence_that_closes_after_the_decision_stops_the_write_at_the_last_moment() -> None:
    server = Server([says(200, CONFIG)])
    asked = 0

    def closes_after_the_first_question() -> float:
        nonlocal asked
        asked += 1
        if asked > 1:
            raise Refused
        return FAR_SECONDS

    async def test(api: KubeApi, _transport: Transport) -> None:
        with pytest.raises(Refused):
            await api.apply(CONFIG_MAPS, CONFIG)

    with_api(server, test, fence=closes_after_the_first_question)
    assert asked >= 2
    assert server.asked == []


def test_a_fence_is_asked_before_every_attempt() -> None:
    server = Server([says(500), says(200, CONFIG)])
    answers: Iterator[float] = iter([FAR_SECONDS, FAR_SECONDS])

    def closes_after_one_attempt() -> float:
        left = next(answers, None)
        if left is None:
            raise Refused
        return left

    async def test(api: KubeApi, _transport: Transport) -> None:
        with pytest.raises(Refused):
            await api.apply(CONFIG_MAPS, CONFIG)

    with_api(server, test, fence=closes_after_one_attempt)
    assert len(server.asked) == 1


def test_a_write_is_given_no_more_time_than_the_lease_has() -> None:
    async def never(_request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    async def test(api: KubeApi, _transport: Transport) -> None:
        with pytest.raises(UnavailableError, match=r"within 0\.05 s"):
            await api.apply(CONFIG_MAPS, CONFIG)

    with_api(Server([never]), test, fence=lambda: 0.05)


def test_lines_of_a_watch_are_whole_however_they_are_cut_up() -> None:
    events = [json.dumps({"type": "ADDED", "object": {"n": n, "x": "é" * 50}}) for n in range(20)]
    text = "".join(f"{event}\n" for event in events).encode() + b'{"type": "MODI'

    async def in_pieces(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(text), 37):
            await response.write(text[start : start + 37])
            await asyncio.sleep(0)
        return response

    async def test(_api: KubeApi, transport: Transport) -> None:
        async with transport.stream("pods", "/", {}, seconds=5, silence=5) as lines:
            read = [line.decode() async for line in lines]
        assert read == events

    with_api(Server([in_pieces]), test)


def test_a_watch_that_is_silent_is_given_up() -> None:
    async def silent(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"{}\n")
        await asyncio.sleep(30)
        return response

    async def test(_api: KubeApi, transport: Transport) -> None:
        read = []

        async def follow() -> None:
            async with transport.stream("pods", "/", {}, seconds=5, silence=0.1) as lines:
                async for line in lines:
                    read.append(line)

        with pytest.raises(UnavailableError, match="nothing was heard"):
            await follow()
        assert read == [b"{}"]

    with_api(Server([silent]), test)


def test_a_watch_that_is_refused_says_why() -> None:
    async def test(_api: KubeApi, transport: Transport) -> None:
        with pytest.raises(GoneError):
            async with transport.stream("pods", "/", {}, seconds=5, silence=5):
                pytest.fail("there is nothing to read")

    with_api(Server([says(410, {"reason": "Expired"})]), test)


def test_a_tls_connection_has_a_buffer_as_small_as_we_say() -> None:
    async def test(_api: KubeApi, _transport: Transport) -> None:
        # As asyncio makes one for each connection. There is no official way to set its size, so a
        # Python that reads it from elsewhere has to be noticed.
        loop = asyncio.get_running_loop()
        made = sslproto.SSLProtocol(loop, asyncio.Protocol(), ssl.create_default_context(), None)
        assert len(made._ssl_buffer) == TLS_BUFFER_BYTES
        made._get_app_transport().close()

    with_api(Server([says(200, CONFIG)]), test)
