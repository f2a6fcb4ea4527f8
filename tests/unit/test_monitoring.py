"""What a kubelet is told of a program's life, over real HTTP."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.error import HTTPError
from urllib.request import urlopen
from wsgiref.types import WSGIApplication

import pytest
from prometheus_client import CollectorRegistry, Counter, make_wsgi_app
from vaco.errors import UserError
from vaco.monitoring import MAX_REQUESTS, MonitoringServer
from vaco.vital import STUCK_SECONDS, Vitals, stuck_seconds

SECONDS = 10


class Program:
    """What is asked, on a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.missing = ""
        self.vitals = Vitals(60.0, lambda: self.missing, lambda: self.now)


@pytest.fixture
def program() -> Program:
    return Program()


@pytest.fixture
def metrics() -> WSGIApplication:
    registry = CollectorRegistry()
    Counter("turns", "Turns.", registry=registry).inc(3)
    return make_wsgi_app(registry)  # type: ignore[no-any-return]


@pytest.fixture
def serve(program: Program, metrics: WSGIApplication) -> Iterator[Callable[..., MonitoringServer]]:
    with ExitStack() as stack:

        def begin(host: str = "127.0.0.1", port: int = 0) -> MonitoringServer:
            server = MonitoringServer(host, port, metrics, program.vitals)
            stack.callback(server.close)
            return server

        yield begin


def ask(address: str, path: str) -> tuple[int, str]:
    try:
        with urlopen(f"http://{address}{path}", timeout=SECONDS) as answer:
            return answer.status, answer.read().decode().strip()
    except HTTPError as error:
        return error.code, error.read().decode().strip()


def test_it_is_alive_while_every_thread_beats_or_rests(
    program: Program, serve: Callable[..., MonitoringServer]
) -> None:
    address = serve().address
    training, ingest = program.vitals.pulse("training"), program.vitals.pulse("ingest")
    assert ask(address, "/livez") == (200, "ok")
    training.beat()
    ingest.beat()
    program.now += 60
    assert ask(address, "/livez") == (200, "ok")
    program.now += 1
    ingest.beat()
    told = "training has not moved for 61 s, of 60 s at most"
    assert ask(address, "/livez") == (503, told)
    training.rest()
    program.now += 1000
    assert ask(address, "/livez")[1].startswith("ingest has not moved for 1000 s")
    ingest.beat()
    assert ask(address, "/livez") == (200, "ok")


def test_it_is_ready_when_nothing_is_missing(
    program: Program, serve: Callable[..., MonitoringServer]
) -> None:
    address = serve().address
    program.missing = "no learner"
    assert ask(address, "/readyz") == (503, "no learner")
    assert ask(address, "/livez") == (200, "ok")
    program.missing = ""
    assert ask(address, "/readyz") == (200, "ok")


def test_metrics_are_beside_the_probes(serve: Callable[..., MonitoringServer]) -> None:
    status, text = ask(serve().address, "/metrics")
    assert status == 200
    assert "turns_total 3.0" in text


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104 - what is tested
def test_every_address_of_either_family_answers(
    serve: Callable[..., MonitoringServer], host: str
) -> None:
    port = serve(host).address.rpartition(":")[2]
    assert ask(f"127.0.0.1:{port}", "/livez") == (200, "ok")
    if socket.has_dualstack_ipv6():
        assert ask(f"[::1]:{port}", "/livez") == (200, "ok")


def test_idle_connections_do_not_pile_up(serve: Callable[..., MonitoringServer]) -> None:
    """Who says nothing takes up a place; who comes when all are taken is turned away."""
    host, _, port = serve().address.rpartition(":")
    with ExitStack() as stack:
        for _ in range(MAX_REQUESTS):
            stack.enter_context(socket.create_connection((host, int(port)), SECONDS))
        refused = stack.enter_context(socket.create_connection((host, int(port)), SECONDS))
        assert refused.recv(1) == b""


def test_a_port_that_is_taken_names_the_option(serve: Callable[..., MonitoringServer]) -> None:
    port = int(serve().address.rpartition(":")[2])
    with pytest.raises(UserError, match=rf"--metrics-port.*127.0.0.1:{port}.*Choose another"):
        serve(port=port)


def test_the_bound_can_be_set_and_must_be_a_positive_number() -> None:
    assert stuck_seconds({}) == STUCK_SECONDS
    assert stuck_seconds({"VACO_STUCK_SECONDS": "7.5"}) == 7.5
    for wrong in ("0", "-1", "nan", "inf", "soon"):
        with pytest.raises(UserError, match=r"VACO_STUCK_SECONDS.*positive number"):
            stuck_seconds({"VACO_STUCK_SECONDS": wrong})
