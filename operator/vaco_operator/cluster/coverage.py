"""Which jobs may be worked on: those of namespaces of which everything was listed.

A reconcile that knew only some of a job's children would take the others to be missing. So the jobs
of a namespace wait until all its reflectors have their lists. One that is gone, or whose
RoleBinding is, never has them: its jobs wait on, and nobody else's do.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator

from vaco_operator.cluster.reflector import Reflector
from vaco_operator.cluster.store import JobKey, Stores
from vaco_operator.cluster.work_queue import WorkQueue

_LOG = logging.getLogger(__name__)


class Coverage:
    """Fills the stores, and lets jobs into the queue namespace by namespace.

    Args:
        queue: gets the jobs.
        waiting: told how many namespaces are not listed.

    """

    def __init__(self, queue: WorkQueue, waiting: Callable[[int], None]) -> None:
        self.stores = Stores.make(self._changed)
        self._queue = queue
        self._waiting = waiting
        self._reflectors: dict[str, list[Reflector]] = {}
        self._listed: set[str] = set()
        self._some = asyncio.Event()

    def follow(self, reflector: Reflector) -> None:
        """Have a reflector of `stores` run too; all are given before `run`."""
        self._reflectors.setdefault(reflector.namespace, []).append(reflector)
        self._waiting(len(self._reflectors))

    @property
    def reflectors(self) -> Iterator[Reflector]:
        """All of them."""
        for reflectors in self._reflectors.values():
            yield from reflectors

    async def run(self) -> None:
        """List and watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            for reflector in self.reflectors:
                group.create_task(reflector.run())
            for namespace in self._reflectors:
                group.create_task(self._admit(namespace))

    async def usable(self) -> None:
        """Wait until every list was tried, and all of one namespace at least are there."""
        for reflector in self.reflectors:
            await reflector.tried.wait()
        await self._some.wait()
        if missing := sorted(self._reflectors.keys() - self._listed):
            _LOG.warning("jobs in %s wait: not everything there can be listed", ", ".join(missing))

    def unusable(self) -> Iterator[str]:
        """Say what is not listed yet, as long as `usable` waits."""
        if self._some.is_set() and all(reflector.tried.is_set() for reflector in self.reflectors):
            return
        for reflector in self.reflectors:
            if not reflector.synced.is_set():
                yield f"{reflector.name} are not listed yet"

    def add_all(self) -> None:
        """Have every job looked at that may be."""
        for key in self.stores.vaco_jobs.job_keys():
            self._changed(key)

    async def _admit(self, namespace: str) -> None:
        for reflector in self._reflectors[namespace]:
            await reflector.synced.wait()
        self._listed.add(namespace)
        self._waiting(len(self._reflectors) - len(self._listed))
        self._some.set()
        _LOG.info("all of %s is listed", namespace or "the cluster")
        self.add_all()

    def _changed(self, key: JobKey) -> None:
        if not self._listed.isdisjoint((key.namespace, "")):
            self._queue.add(key)
