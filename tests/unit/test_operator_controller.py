"""Workers: what becomes of a job after a success, a fault, and when it is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from vaco.errors import UserError
from vaco_operator.cluster.api_errors import UnavailableError
from vaco_operator.cluster.contract import Reconciler
from vaco_operator.cluster.controller import Controller
from vaco_operator.cluster.metrics import Metrics
from vaco_operator.cluster.resources import Document
from vaco_operator.cluster.store import JobKey, Stores
from vaco_operator.cluster.work_queue import WorkQueue

KEY = JobKey("ns", "run")


def job(name: str = "run") -> Document:
    return {
        "apiVersion": "training.vaco.dev/v1alpha1",
        "kind": "VACOJob",
        "metadata": {
            "namespace": "ns",
            "name": name,
            "uid": f"uid-{name}",
            "resourceVersion": "1",
        },
        "status": {"phase": "Running"},
    }


class Scripted:
    """A reconciler that does what a test says."""

    def __init__(self, script: list[Callable[[], float | None]], enough: int) -> None:
        self._script = script
        self._enough = enough
        self.looks: list[JobKey] = []
        self.looked_enough = asyncio.Event()

    async def reconcile(self, key: JobKey) -> float | None:
        self.looks.append(key)
        if len(self.looks) == self._enough:
            self.looked_enough.set()
        return self._script[min(len(self.looks), len(self._script)) - 1]()

    async def close(self) -> None:
        """Nothing to end."""


def look(
    script: list[Callable[[], float | None]], looks: int, resync: float = 3600.0
) -> tuple[Scripted, WorkQueue]:
    """Have one job looked at so many times, beginning with one change of it."""

    async def test() -> tuple[Scripted, WorkQueue]:
        metrics = Metrics()
        queue = WorkQueue(metrics.waited)
        queue.open()
        stores = Stores.make(queue.add)
        reconciler = Scripted(script, looks)
        typed: Reconciler = reconciler
        controller = Controller(typed, queue, stores.vaco_jobs, resync, metrics)
        stores.vaco_jobs.told(job())
        working = asyncio.create_task(controller.run(2))
        async with asyncio.timeout(20):
            await reconciler.looked_enough.wait()
        queue.close()
        await working
        return reconciler, queue

    return asyncio.run(test())


def fault() -> float | None:
    raise ZeroDivisionError


def test_a_fault_costs_a_job_its_turn_and_it_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    reconciler, queue = look([fault, lambda: None], looks=2)
    assert reconciler.looks == [KEY, KEY]
    assert queue.retries == 1
    assert "a fault of the operator" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_what_is_wrong_with_the_operators_own_setup_is_said_without_a_trace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def wrong() -> float | None:
        raise UserError("Secret vaco/root", "holds no key of 32 bytes", "Delete it.")

    reconciler, queue = look([wrong, lambda: None], looks=2)
    assert (len(reconciler.looks), queue.retries) == (2, 1)
    assert "`Secret vaco/root`: holds no key of 32 bytes. Delete it." in caplog.text
    assert "Traceback" not in caplog.text


def busy() -> float | None:
    raise UnavailableError(429, "TooManyRequests", "later", retry_after=0.4)


def test_a_job_whose_call_was_refused_comes_back_not_before_the_server_asked() -> None:
    began = time.monotonic()
    reconciler, queue = look([busy, lambda: None], looks=2)
    assert time.monotonic() - began >= 0.4
    assert (len(reconciler.looks), queue.retries) == (2, 1)


def test_a_job_comes_back_when_it_wished_to_and_at_the_resync() -> None:
    wished, _ = look([lambda: 0.0, lambda: 0.2, lambda: None], looks=3)
    assert len(wished.looks) == 3
    resynced, _ = look([lambda: None], looks=3, resync=0.1)
    assert len(resynced.looks) == 3


def test_a_job_that_is_gone_does_not_come_back() -> None:
    async def test() -> int:
        metrics = Metrics()
        queue = WorkQueue(metrics.waited)
        queue.open()
        stores = Stores.make(queue.add)
        reconciler = Scripted([lambda: 0.0], 1)
        controller = Controller(reconciler, queue, stores.vaco_jobs, 0.05, metrics)
        queue.add(KEY)
        working = asyncio.create_task(controller.run(1))
        # Nothing is to happen: five resync periods are long enough to see it.
        await asyncio.sleep(0.25)
        queue.close()
        await working
        return len(reconciler.looks)

    assert asyncio.run(test()) == 1


def test_looks_that_wait_for_nothing_let_others_have_their_turn() -> None:
    class Greedy:
        """Adds another job at every look, and notes how often others had a turn."""

        def __init__(self, queue: WorkQueue) -> None:
            self.queue, self.looks, self.turns = queue, 0, 0

        async def reconcile(self, key: JobKey) -> float | None:  # noqa: ARG002
            self.looks += 1
            if self.looks < 100:
                self.queue.add(JobKey("ns", str(self.looks)))
            else:
                self.queue.close()
            return None

        async def close(self) -> None:
            """Nothing to end."""

    async def test() -> Greedy:
        metrics = Metrics()
        queue = WorkQueue(metrics.waited)
        queue.open()
        greedy = Greedy(queue)
        stores = Stores.make(queue.add)
        controller = Controller(greedy, queue, stores.vaco_jobs, 3600.0, metrics)
        queue.add(KEY)
        working = asyncio.create_task(controller.run(1))
        while not working.done():
            greedy.turns += 1
            await asyncio.sleep(0)
        return greedy

    greedy = asyncio.run(test())
    assert greedy.looks == 100
    assert greedy.turns >= 100
