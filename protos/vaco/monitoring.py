"""What a kubelet and a monitoring system ask of a program over HTTP.

    GET /livez     200 ok, or 503 and which thread is stuck: a restart would help
    GET /readyz    200 ok, or 503 and what is missing
    GET /metrics   the program's figures, as Prometheus reads them

Plain text without credentials: nothing here changes anything, and a kubelet has none. What one
client can take up is bounded: the seconds of a request, and how many there are at once.
"""

import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from vaco.errors import UserError
from vaco.vital import Vitals

REQUEST_SECONDS: Final = 10.0
MAX_REQUESTS: Final = 16


class MonitoringServer:
    """Answers in threads of its own until `close`.

    Args:
        host: to listen on; `0.0.0.0` and `::` mean every address, of either family.
        port: 0 lets the system choose.
        metrics: answers whatever is neither /livez nor /readyz.
        vitals: whether the program is alive and ready.

    Attributes:
        address: host and port listened on.

    Raises:
        UserError: it cannot listen there.

    """

    def __init__(self, host: str, port: int, metrics: WSGIApplication, vitals: Vitals) -> None:
        try:
            self._server = _Server(host, port, _routes(metrics, vitals))
        except OSError as error:
            problem = f"cannot serve metrics at {host}:{port}: {error.strerror}"
            raise UserError("--metrics-port", problem, "Choose another, or 0 for any.") from error
        self.address = f"{host}:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="monitoring", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _routes(metrics: WSGIApplication, vitals: Vitals) -> WSGIApplication:
    probes: dict[str, Callable[[], str]] = {"/livez": vitals.stuck, "/readyz": vitals.unready}

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        probe = probes.get(environ["PATH_INFO"])
        if probe is None:
            return metrics(environ, start_response)
        complaint = probe()
        status = "503 Service Unavailable" if complaint else "200 OK"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{complaint or 'ok'}\n".encode()]

    return answer


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base calls it
        """Say nothing: probes come every few seconds."""


class _Server(ThreadingMixIn, WSGIServer):
    """Answers each request in a thread of its own, and only so many at once."""

    daemon_threads = True

    def __init__(self, host: str, port: int, application: WSGIApplication) -> None:
        if host in ("0.0.0.0", "::") and socket.has_dualstack_ipv6():  # noqa: S104 - compared
            host = "::"
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._free = threading.BoundedSemaphore(MAX_REQUESTS)
        super().__init__((host, port), _Handler)
        self.set_app(application)

    def server_bind(self) -> None:
        """Take IPv4 as well on an IPv6 wildcard; and ask no name server for our own name."""
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002
        """Turn away what is too many."""
        return self._free.acquire(blocking=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begin to serve a request that was not turned away."""
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # there can be no more threads
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one request, then make room for another."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()
