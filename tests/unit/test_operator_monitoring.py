"""Health, logs and metrics of the operator's process."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import urllib.error
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from vaco.errors import UserError
from vaco_operator.cluster import logs
from vaco_operator.cluster.controller import stuck_workers
from vaco_operator.cluster.health import MAX_LAG_SECONDS, HealthServer, LoopLag
from vaco_operator.cluster.metrics import MAX_JOB_SERIES, Metrics
from vaco_operator.cluster.resources import Document
from vaco_operator.cluster.store import JobKey, Stores
from vaco_operator.cluster.work_queue import WorkQueue

KEY = JobKey("ns", "run")


def job(name: str = "run", phase: str = "Running") -> Document:
    return {
        "apiVersion": "training.vaco.dev/v1alpha1",
        "kind": "VACOJob",
        "metadata": {
            "namespace": "ns",
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": "1",
        },
        "status": {"phase": phase},
    }


def ask(address: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_health_says_what_is_wrong(tmp_path: Path) -> None:
    problems: list[str] = []

    def check() -> Iterable[str]:
        return problems

    async def test() -> None:
        metrics = Metrics()
        metrics.leads(leading=True)
        server = HealthServer(live=(check,), ready=(list, check), registry=metrics.registry)
        address = await server.start("127.0.0.1:0", tmp_path / "address")
        assert (tmp_path / "address").read_text() == address
        try:
            assert await asyncio.to_thread(ask, address, "/livez") == (200, "ok\n")
            problems.extend(["one is stuck", "another too"])
            expected = (500, "one is stuck\nanother too\n")
            assert await asyncio.to_thread(ask, address, "/livez") == expected
            assert await asyncio.to_thread(ask, address, "/readyz") == expected
            problems.clear()
            assert await asyncio.to_thread(ask, address, "/readyz") == (200, "ok\n")
            status, text = await asyncio.to_thread(ask, address, "/metrics")
            assert status == 200
            assert "vaco_operator_leader 1.0" in text
            assert "process_resident_memory_bytes" in text
        finally:
            await server.stop()

    asyncio.run(test())


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="needs IPv6")
@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])  # noqa: S104 - what is tested
def test_everywhere_is_every_address_of_either_family(host: str) -> None:
    with socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True) as taken:
        port = taken.getsockname()[1]

    async def test() -> None:
        server = HealthServer((), (), Metrics().registry)
        await server.start(f"{host}:{port}", None)
        try:
            for at in ("127.0.0.1", "[::1]"):
                assert await asyncio.to_thread(ask, f"{at}:{port}", "/livez") == (200, "ok\n")
        finally:
            await server.stop()

    asyncio.run(test())


@pytest.mark.parametrize("listen", ["8080", "127.0.0.1:http", "192.0.2.1:0"])
def test_an_address_that_cannot_be_had_is_refused(listen: str) -> None:
    async def test() -> None:
        server = HealthServer((), (), Metrics().registry)
        try:
            with pytest.raises(UserError, match="--listen"):
                await server.start(listen, None)
        finally:
            await server.stop()

    asyncio.run(test())


def test_a_loop_that_was_blocked_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    lags: list[float] = []

    async def test() -> None:
        loop = asyncio.get_running_loop()
        real = loop.time
        measured = asyncio.Event()

        def told(seconds: float) -> None:
            lags.append(seconds)
            measured.set()

        lag = LoopLag(told)
        measuring = asyncio.create_task(lag.run())
        await asyncio.sleep(0)
        # As if the process had been blocked for so long: the clock is ahead at once.
        monkeypatch.setattr(loop, "time", lambda: real() + MAX_LAG_SECONDS + 2)
        async with asyncio.timeout_at(real() + 60):
            await measured.wait()
        assert "the event loop is" in "".join(lag.check())
        measuring.cancel()

    asyncio.run(test())
    assert lags[0] > MAX_LAG_SECONDS


def test_a_worker_that_is_stuck_is_named() -> None:
    async def test() -> None:
        queue = WorkQueue(lambda _seconds: None)
        queue.open()
        queue.add(KEY)
        await queue.take()
        assert list(stuck_workers(queue, limit=1000)) == []
        (said,) = stuck_workers(queue, limit=-1)
        assert "a worker has been on job ns/run" in said

    asyncio.run(test())


def test_logs_are_lines_of_json_with_the_job_and_the_fault(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    logs.configure("info")
    logger = logging.getLogger("vaco_operator.cluster.test")
    logger.info("outside, %s", "ünïcode\nof two lines")
    with logs.reconciling(KEY):
        logger.debug("not said")
        try:
            raise ValueError("broken")
        except ValueError:
            logger.exception("inside")
    logging.getLogger("aiohttp").info("of a library, not said")

    outside, inside = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert outside["message"] == "outside, ünïcode\nof two lines"
    assert outside["level"] == "info"
    assert "job" not in outside
    assert inside["job"] == "ns/run"
    assert len(inside["reconcile"]) == 8
    assert "ValueError: broken" in inside["error"]
    logging.getLogger("vaco_operator").setLevel(logging.NOTSET)


def test_series_of_single_jobs_have_a_bound() -> None:
    async def test() -> dict[str, list[Any]]:
        metrics = Metrics()
        queue = WorkQueue(metrics.waited)
        queue.open()
        stores = Stores.make(queue.add)
        metrics.show(queue, stores)
        for number in range(MAX_JOB_SERIES + 5):
            phase = "Failed" if number == 3 else "Running"
            stores.vaco_jobs.told(job(f"run-{number}", phase=phase))
        families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
        return {family.name: family.samples for family in families}

    samples = asyncio.run(test())
    each = samples["vaco_job_phase"]
    assert len(each) == MAX_JOB_SERIES
    assert each[3].labels == {"namespace": "ns", "name": "run-3", "phase": "Failed"}
    totals = {sample.labels["phase"]: sample.value for sample in samples["vaco_jobs"]}
    assert totals == {"Failed": 1, "Running": MAX_JOB_SERIES + 4}
    assert samples["vaco_jobs_without_series"][0].value == 5
    assert samples["vaco_operator_queue_depth"][0].value == MAX_JOB_SERIES + 5
    objects = {s.labels["resource"]: s.value for s in samples["vaco_operator_watched_objects"]}
    assert objects["vacojobs"] == MAX_JOB_SERIES + 5
