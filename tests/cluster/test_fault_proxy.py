"""The fault proxy leaves no connection behind. It needs a server that talks TLS, and no cluster."""

from __future__ import annotations

import base64
import contextlib
import gc
import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from kube_harness.pki import Authority
from operator_harness.fault_proxy import FaultProxy

BOUND_SECONDS = 10.0
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


class Rude:
    """Answers over TLS, once for each connection, and never says goodbye."""

    def __init__(self, folder: Path) -> None:
        authority = Authority(folder / "pki")
        pair = authority.issue("rude", hosts=["127.0.0.1"])
        self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._tls.load_cert_chain(pair.cert, pair.key)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.kept: list[ssl.SSLSocket] = []
        certificate = base64.b64encode(authority.files.cert.read_bytes()).decode()
        host, port = self._server.getsockname()
        cluster = {
            "server": f"https://{host}:{port}",
            "certificate-authority-data": certificate,
        }
        self.kubeconfig = folder / "rude.kubeconfig"
        self.kubeconfig.write_text(
            yaml.safe_dump({"clusters": [{"name": "x", "cluster": cluster}]})
        )
        self._thread = threading.Thread(target=self._serve, name="rude server")

    def _serve(self) -> None:
        # It ends when the listening socket is shut down.
        with contextlib.suppress(OSError):
            while True:
                plain, _ = self._server.accept()
                plain.settimeout(BOUND_SECONDS)
                connection = self._tls.wrap_socket(plain, server_side=True)
                self.kept.append(connection)
                connection.recv(1 << 16)
                connection.sendall(ANSWER)

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        self._thread.start()
        try:
            yield
        finally:
            self._server.shutdown(socket.SHUT_RDWR)
            self._thread.join(BOUND_SECONDS)
            for each in (self._server, *self.kept):
                each.close()


@pytest.fixture
def rude(tmp_path: Path) -> Iterator[Rude]:
    server = Rude(tmp_path)
    with server.serving():
        yield server


def test_connections_that_wait_for_the_servers_goodbye_are_closed(
    rude: Rude, tmp_path: Path
) -> None:
    with FaultProxy(rude.kubeconfig, tmp_path / "proxy") as proxy:
        cluster = yaml.safe_load(proxy.kubeconfig.read_text())["clusters"][0]["cluster"]
        trusted = ssl.create_default_context(cafile=cluster["certificate-authority"])
        netloc = urlsplit(cluster["server"]).netloc
        for _ in range(3):
            client = http.client.HTTPSConnection(netloc, context=trusted, timeout=BOUND_SECONDS)
            client.request("GET", "/api/v1/pods")
            assert client.getresponse().read() == b"ok"
            client.close()
    assert len(rude.kept) == 3
    # What was left open would be told now, and fail this test.
    gc.collect()
