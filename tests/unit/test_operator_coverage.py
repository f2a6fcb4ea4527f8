"""Namespaces that cannot be listed: their jobs wait, and nobody else's do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import pytest
from vaco_operator.cluster import reflector
from vaco_operator.cluster.api import KubeApi
from vaco_operator.cluster.api_errors import ApiError
from vaco_operator.cluster.coverage import Coverage
from vaco_operator.cluster.reflector import Reflector
from vaco_operator.cluster.store import JobKey
from vaco_operator.cluster.transport import Transport
from vaco_operator.cluster.work_queue import WorkQueue

BOUND_SECONDS = 10.0


class Server:
    """Lists one VACOJob in each namespace, unless it is forbidden; its watches tell nothing."""

    def __init__(self, *forbidden: str) -> None:
        self.forbidden = set(forbidden)

    async def request(
        self, _verb: str, resource: str, _method: str, path: str, **_more: Any
    ) -> dict[str, Any]:
        namespace = path.split("/")[-2] if "/namespaces/" in path else "anywhere"
        # A Role that has lost one of its rules.
        if namespace in self.forbidden and resource == "pods":
            raise ApiError(403, "Forbidden", "no role binds you here")
        metadata = {
            "namespace": namespace,
            "name": "run",
            "uid": f"uid-{namespace}",
            "resourceVersion": "1",
        }
        items = [{"metadata": metadata}] if resource == "vacojobs" else []
        return {"metadata": {"resourceVersion": "1"}, "items": items}

    @contextlib.asynccontextmanager
    async def stream(self, *_asked: Any, **_more: Any) -> AsyncIterator[AsyncIterator[bytes]]:
        async def nothing() -> AsyncIterator[bytes]:
            await asyncio.Event().wait()
            yield b""

        yield nothing()


class Scene:
    """The reflectors of some namespaces, and what reaches the queue."""

    def __init__(self, server: Server, namespaces: tuple[str, ...]) -> None:
        self.queue = WorkQueue(lambda _seconds: None)
        self.waiting: list[int] = []
        self.coverage = Coverage(self.queue, self.waiting.append)
        transport = cast("Transport", server)
        api = KubeApi(transport, lambda: 1.0, 1.0)
        for namespace in namespaces:
            for store in (self.coverage.stores.vaco_jobs, *self.coverage.stores.children()):
                one = Reflector(api, transport, store, namespace, "", 60.0, 1.0, lambda *_: None)
                self.coverage.follow(one)

    async def taken(self, count: int) -> set[JobKey]:
        return {cast("JobKey", await self.queue.take()) for _ in range(count)}


def run(scene: Callable[[], Scene], test: Callable[[Scene], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND_SECONDS):
            made = scene()
            running = asyncio.create_task(made.coverage.run())
            await test(made)
            running.cancel()

    asyncio.run(bounded())


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again at once."""
    monkeypatch.setattr(reflector, "FIRST_DELAY_SECONDS", 0.001)
    monkeypatch.setattr(reflector, "MAX_DELAY_SECONDS", 0.01)


def test_one_namespace_that_cannot_be_listed_keeps_only_its_own_jobs_waiting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Server("team-b")

    async def test(scene: Scene) -> None:
        assert list(scene.coverage.unusable()), "nothing was tried yet"
        with caplog.at_level(logging.INFO):
            await scene.coverage.usable()
        assert list(scene.coverage.unusable()) == []
        assert "jobs in team-b wait" in caplog.text
        assert scene.waiting[-1] == 1

        scene.queue.open()
        scene.coverage.add_all()
        assert await scene.taken(1) == {JobKey("team-a", "run")}
        assert len(scene.queue) == 0
        # Its job is known, and changes: it waits all the same.
        assert ("team-b", "run") in scene.coverage.stores.vaco_jobs
        job = scene.coverage.stores.vaco_jobs.get("team-b", "run")
        assert job is not None
        job["metadata"]["resourceVersion"] = "2"
        scene.coverage.stores.vaco_jobs.told(job)
        assert len(scene.queue) == 0

        server.forbidden.clear()
        assert await scene.taken(1) == {JobKey("team-b", "run")}
        assert scene.waiting[-1] == 0

    run(lambda: Scene(server, ("team-a", "team-b")), test)


@pytest.mark.parametrize("namespaces", [("team-a", "team-b"), ("",)])
def test_a_replica_that_can_list_nothing_altogether_does_not_lead(
    namespaces: tuple[str, ...],
) -> None:
    server = Server("team-a", "team-b", "anywhere")

    async def test(scene: Scene) -> None:
        usable = asyncio.create_task(scene.coverage.usable())
        for each in scene.coverage.reflectors:
            await each.tried.wait()
        assert not usable.done()
        assert all("pods of" in said for said in scene.coverage.unusable())

        server.forbidden.clear()
        await usable
        assert list(scene.coverage.unusable()) == []

    run(lambda: Scene(server, namespaces), test)


def test_a_watch_of_the_whole_cluster_covers_every_namespace() -> None:
    async def test(scene: Scene) -> None:
        await scene.coverage.usable()
        scene.queue.open()
        scene.coverage.add_all()
        assert await scene.taken(1) == {JobKey("anywhere", "run")}
        assert scene.waiting[-1] == 0

    run(lambda: Scene(Server(), ("",)), test)
