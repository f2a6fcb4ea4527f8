"""The operator's process: what runs beside what, in which order it begins, and how it ends.

    every replica    health server, reflectors (stores filled and kept in step), loop lag
    the leader only  election (renews, or ends the process), event recorder, reconciler, workers

A replica leads once its stores are filled, of those namespaces that can be listed, and the Lease is
its own. On SIGTERM or SIGINT the workers finish what they are at, the reconciler is closed, the
last events are written, and the Lease is given back: another replica takes over within
`retry_period`.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterator
from typing import Any, Final

from prometheus_client import disable_created_metrics

from vaco_operator.cluster.api import KubeApi
from vaco_operator.cluster.connection import connected
from vaco_operator.cluster.contract import MakeReconciler, Reconciler, Surroundings
from vaco_operator.cluster.controller import Controller, stuck_workers
from vaco_operator.cluster.coverage import Coverage
from vaco_operator.cluster.election import Election
from vaco_operator.cluster.events import EventRecorder
from vaco_operator.cluster.health import HealthServer, LoopLag
from vaco_operator.cluster.labels import MANAGED_BY, MANAGER
from vaco_operator.cluster.lease import Timing
from vaco_operator.cluster.metrics import Metrics
from vaco_operator.cluster.reflector import Reflector
from vaco_operator.cluster.settings import Settings
from vaco_operator.cluster.transport import Transport
from vaco_operator.cluster.work_queue import WorkQueue

_LOG = logging.getLogger(__name__)

FINISH_SECONDS: Final = 15.0
"""What workers have to finish when the process is told to end; the chart's grace is longer."""
FAREWELL_SECONDS: Final = 2.0
"""What the last events have to be written."""


async def run(settings: Settings, make_reconciler: MakeReconciler) -> None:
    """Run until SIGTERM or SIGINT; a lost Lease ends the process.

    Args:
        settings: of this operator.
        make_reconciler: makes what brings jobs to where their manifests want them.

    Raises:
        UserError: the settings lead to no cluster, or to an address that cannot be had.

    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    # When a series began would be a second series for each, which nobody reads.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    metrics = Metrics()
    async with (
        connected(settings.kubeconfig, settings.context) as connection,
        Transport(connection, metrics.asked) as transport,
    ):
        operator = _Operator(settings, transport, metrics)
        await operator.run(make_reconciler, stop)


class _Operator:
    """The parts of one replica, and how they hang together."""

    def __init__(self, settings: Settings, transport: Transport, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self._queue = WorkQueue(metrics.waited)
        self._coverage = Coverage(self._queue, metrics.unlisted)
        self._stores = self._coverage.stores
        metrics.show(self._queue, self._stores)
        timing = Timing(settings.lease_duration, settings.renew_deadline, settings.retry_period)
        self._election = Election(
            transport,
            settings.namespace,
            settings.lease_name,
            settings.identity,
            timing,
            metrics.leads,
        )
        self._api = KubeApi(transport, self._election.fence, settings.request_timeout)
        for reflector in self._make_reflectors(transport):
            self._coverage.follow(reflector)
        self._lag = LoopLag(metrics.lagged)
        self._health = HealthServer(
            live=(self._stuck, self._lag.check),
            ready=(self._coverage.unusable,),
            registry=metrics.registry,
        )

    async def run(self, make_reconciler: MakeReconciler, stop: asyncio.Event) -> None:
        """Begin everything, wait for `stop`, and end everything."""
        settings = self._settings
        address = await self._health.start(settings.listen, settings.address_file)
        where = ", ".join(settings.watch_namespaces) or "all namespaces"
        _LOG.info("started as %s for jobs in %s, health at %s", settings.identity, where, address)
        try:
            async with _beside(self._lag.run(), self._coverage.run()):
                if await _unless(stop, self._ready_to_lead()):
                    await self._lead(make_reconciler, stop)
        finally:
            await self._health.stop()
        _LOG.info("ended in order")

    async def _ready_to_lead(self) -> None:
        await self._coverage.usable()
        await self._election.acquire()

    async def _lead(self, make_reconciler: MakeReconciler, stop: asyncio.Event) -> None:
        recorder = EventRecorder(self._api, self._settings.identity, self._metrics.event)
        surroundings = Surroundings(
            settings=self._settings,
            api=self._api,
            stores=self._stores,
            recorder=recorder,
            wake=self._queue.nudge,
        )
        async with _beside(self._election.hold()):
            async with _beside(recorder.run()):
                reconciler = make_reconciler(surroundings)
                await self._work(reconciler, stop)
                await reconciler.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(FAREWELL_SECONDS):
                    await recorder.write_all()
        await self._election.release()

    async def _work(self, reconciler: Reconciler, stop: asyncio.Event) -> None:
        """Reconcile until `stop`; what is begun then may be finished, but not for long."""
        settings, jobs = self._settings, self._stores.vaco_jobs
        controller = Controller(
            reconciler, self._queue, jobs, settings.resync_period, self._metrics
        )
        self._queue.open()
        self._coverage.add_all()
        workers = asyncio.create_task(controller.run(settings.workers))
        try:
            await _unless(stop, asyncio.shield(workers))
            self._queue.close()
            async with asyncio.timeout(FINISH_SECONDS):
                await workers
        except TimeoutError:
            _LOG.warning("a reconcile was not finished within %g s", FINISH_SECONDS)
        finally:
            workers.cancel()

    def _make_reflectors(self, transport: Transport) -> Iterator[Reflector]:
        """One for each kind of object and each namespace; or for the whole cluster."""
        settings, stores = self._settings, self._stores
        for namespace in settings.watch_namespaces or ("",):
            for store in (stores.vaco_jobs, *stores.children()):
                yield Reflector(
                    self._api,
                    transport,
                    store,
                    namespace,
                    "" if store is stores.vaco_jobs else f"{MANAGED_BY}={MANAGER}",
                    settings.watch_silence,
                    settings.request_timeout,
                    self._metrics.watch_restarted,
                )

    def _stuck(self) -> Iterator[str]:
        yield from stuck_workers(self._queue, self._settings.stuck_after)
        for reflector in self._coverage.reflectors:
            # A watch may be silent for so long before it is even suspected.
            patience = self._settings.watch_silence + self._settings.stuck_after
            if (silent := reflector.silent_for()) > patience:
                yield f"nothing was heard of {reflector.name} for {silent:.0f} s"


@contextlib.asynccontextmanager
async def _beside(*background: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run coroutines as long as the context lasts; one that fails ends it too."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(coroutine) for coroutine in background]
        yield
        for task in tasks:
            task.cancel()


async def _unless(stop: asyncio.Event, awaited: Awaitable[None]) -> bool:
    """Wait for `awaited`, unless `stop` comes first; returns whether it was done."""
    task = asyncio.ensure_future(awaited)
    stopped = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((task, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            return False
        await task
        return True
    finally:
        task.cancel()
        stopped.cancel()
