"""One HTTP request to the API server: one attempt, bounded in time, counted.

Answers become plain dicts, failures become `ApiError`. Attempts are made again by `KubeApi`, and
watches by `Reflector`: both know what may be repeated, this does not.
"""

import asyncio
import contextlib
import json
import time
from asyncio import sslproto
from collections.abc import AsyncIterator, Callable, Mapping
from importlib.metadata import version
from types import TracebackType
from typing import Final, Self

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from vaco_operator.cluster.api_errors import ApiError, UnavailableError, api_error
from vaco_operator.cluster.connection import Connection
from vaco_operator.cluster.resources import Document

MAX_LINE_BYTES: Final = 8 << 20
"""Longer than any event of a watch: etcd takes objects of at most 1.5 MiB."""

TLS_BUFFER_BYTES: Final = 1 << 16
"""For each connection to read into; Python's 256 KiB would be 8 MB for those of a busy moment."""

MAX_RETRY_AFTER_SECONDS: Final = 300.0
"""Whatever a server (or a proxy before it) asks for: somebody looks again after five minutes."""
USER_AGENT: Final = f"vaco-operator/{version('vaco')}"

Counted = Callable[[str, str, str, float], None]
"""Told of each attempt: the verb, the resource, HTTP's status (or `Timeout`), seconds."""


Fence = Callable[[], float]
"""Returns for how many seconds this process may still write; does not return if it may not."""


class Transport:
    """Keeps connections to one API server.

    Args:
        connection: to which.
        counted: told of each attempt.

    """

    def __init__(self, connection: Connection, counted: Counted) -> None:
        self._connection = connection
        self._counted = counted
        # There is no other way to say so; a connection takes it when it is made.
        sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES
        self._session = aiohttp.ClientSession(
            # A watch holds its connection, and workers are few: there is nothing to limit.
            connector=aiohttp.TCPConnector(limit=0, ssl=connection.tls or False),
            headers={"User-Agent": USER_AGENT, "Accept": "application/json"},
            read_bufsize=1 << 18,
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def request(
        self,
        verb: str,
        resource: str,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Document | None = None,
        content_type: str = "application/json",
        seconds: float,
        fence: Fence | None = None,
    ) -> Document:
        """Make one attempt, and return the answer's document.

        Args:
            verb: the API's word for it (`get`, `apply`), for the metrics.
            resource: plural, with its subresource if there is one, for the metrics.
            method: HTTP's.
            path: of the URL.
            query: of the URL.
            body: sent as JSON; None: no body.
            content_type: of the body.
            seconds: for all of it.
            fence: asked once more at the last moment before the request leaves.

        Raises:
            ApiError: the answer is not 2xx; `UnavailableError` if there was none in time.

        """
        began, code = time.monotonic(), "Error"
        data = None if body is None else _Body(body, content_type, fence)
        try:
            async with self._send(
                method, path, query, data, aiohttp.ClientTimeout(total=seconds)
            ) as answer:
                code = str(answer.status)
                text = await answer.read()
                return _understood(answer, text)
        except TimeoutError:
            code = "Timeout"
            raise UnavailableError(0, code, f"no answer within {seconds:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            code = "Disconnected"
            raise UnavailableError(0, code, f"the connection failed: {error!r}") from None
        finally:
            self._counted(verb, resource, code, time.monotonic() - began)

    @contextlib.asynccontextmanager
    async def stream(
        self, resource: str, path: str, query: Mapping[str, str], *, seconds: float, silence: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a watch, and yield the lines of its answer, as long as it lasts.

        A last line without an end is not passed on: the connection was cut within it.

        Args:
            resource: plural, for the metrics.
            path: of the URL.
            query: of the URL.
            seconds: until the answer begins.
            silence: seconds without a byte after which the connection is taken to be dead.

        Raises:
            ApiError: the answer is not 2xx; `UnavailableError` if it ended other than in order.

        """
        began, code = time.monotonic(), "Error"
        limits = aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=silence)
        try:
            async with contextlib.AsyncExitStack() as stack:
                sent = self._send("GET", path, query, None, limits)
                async with asyncio.timeout(seconds):
                    answer = await stack.enter_async_context(sent)
                code = str(answer.status)
                self._counted("watch", resource, code, time.monotonic() - began)
                if answer.status != 200:
                    _understood(answer, await answer.read())
                yield _lines(answer.content)
        except TimeoutError:
            raise UnavailableError(0, "Timeout", f"nothing was heard for {silence:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise UnavailableError(0, "Disconnected", f"the watch was cut: {error!r}") from None

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        data: "_Body | None",
        limits: aiohttp.ClientTimeout,
    ) -> "aiohttp.client._RequestContextManager":
        headers = {}
        if authorization := self._connection.authorization():
            headers["Authorization"] = authorization
        return self._session.request(
            method,
            self._connection.url + path,
            params=query,
            data=data,
            headers=headers,
            timeout=limits,
            allow_redirects=False,
            server_hostname=self._connection.server_name,
            proxy=self._connection.proxy,
        )


class _Body(aiohttp.BytesPayload):
    """A document that asks the fence when it is written, with the headers, to the connection.

    A process may be paused at any moment, also between its decision to write and this one.
    """

    def __init__(self, document: Document, content_type: str, fence: Fence | None) -> None:
        text = json.dumps(document, separators=(",", ":")).encode()
        super().__init__(text, content_type=content_type)
        self._fence = fence

    async def write_with_length(
        self, writer: AbstractStreamWriter, content_length: int | None
    ) -> None:
        if self._fence is not None:
            self._fence()
        await super().write_with_length(writer, content_length)


def _understood(answer: aiohttp.ClientResponse, text: bytes) -> Document:
    """Return the document of a good answer.

    Raises:
        ApiError: it is not one.

    """
    try:
        parsed = json.loads(text) if text else {}
    except ValueError:
        parsed = None
    document = parsed if isinstance(parsed, dict) else {}
    if not 200 <= answer.status < 300:
        raise api_error(answer.status, document, _retry_after(answer))
    if parsed is None:
        raise UnavailableError(answer.status, "Unreadable", "the answer is not JSON")
    return document


def _retry_after(answer: aiohttp.ClientResponse) -> float | None:
    """Return the header's seconds; a date in it, which Kubernetes never sends, is no answer."""
    try:
        return min(MAX_RETRY_AFTER_SECONDS, max(0.0, float(answer.headers["Retry-After"])))
    except (KeyError, ValueError):
        return None


async def _lines(content: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    kept = b""
    async for chunk in content.iter_any():
        *lines, kept = (kept + chunk).split(b"\n")
        for line in lines:
            yield line
        if len(kept) > MAX_LINE_BYTES:
            raise ApiError(200, "TooLong", f"a line of a watch has over {MAX_LINE_BYTES} bytes")
