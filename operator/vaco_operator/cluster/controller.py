"""Workers that take jobs from the queue, have them reconciled, and say when they come back.

After a success a job comes back when the reconcile wished for it, and at the latest after about the
resync period, spread so that not all jobs come at once. After a failure it comes back with a delay
that doubles; what was not done is decided anew then, from what is so then.
"""

import asyncio
import logging
import random
import time
from collections.abc import Iterable
from typing import Final

from vaco.errors import UserError

from vaco_operator.cluster.api_errors import ApiError
from vaco_operator.cluster.contract import Reconciler
from vaco_operator.cluster.logs import reconciling
from vaco_operator.cluster.metrics import Metrics
from vaco_operator.cluster.store import JobKey, Store
from vaco_operator.cluster.work_queue import WorkQueue

_LOG = logging.getLogger(__name__)

SOONEST_SECONDS: Final = 0.1
"""A reconcile that wishes to come back at once must not starve the others."""


class Controller:
    """Runs a reconciler.

    Args:
        reconciler: does the work.
        queue: of jobs that need a look.
        jobs: all jobs there are.
        resync: seconds after which a job is looked at although nothing happened.
        metrics: count.

    """

    def __init__(
        self,
        reconciler: Reconciler,
        queue: WorkQueue,
        jobs: Store,
        resync: float,
        metrics: Metrics,
    ) -> None:
        self._reconciler = reconciler
        self._queue = queue
        self._jobs = jobs
        self._resync = resync
        self._metrics = metrics

    async def run(self, workers: int) -> None:
        """Work with so many workers until the queue is closed; what is begun is finished."""
        async with asyncio.TaskGroup() as group:
            for _ in range(workers):
                group.create_task(self._work())

    async def _work(self) -> None:
        while (key := await self._queue.take()) is not None:
            try:
                with reconciling(key):
                    await self._look(key)
            finally:
                self._queue.done(key)
            # A look that wrote nothing waited for nothing: now Lease and probes have a turn.
            await asyncio.sleep(0)

    async def _look(self, key: JobKey) -> None:
        began = time.monotonic()
        try:
            wish = await self._reconciler.reconcile(key)
        except ApiError as error:
            result = "api_error"
            delay = self._queue.retry(key, error.retry_after or 0.0)
            _LOG.warning("again in %.1f s: %s", delay, error)
        except UserError as error:
            # Of the operator's own set-up, which somebody can mend; a job's are in its status.
            result = "misconfigured"
            delay = self._queue.retry(key)
            _LOG.error("again in %.1f s: %s", delay, error)
        except Exception:
            # A fault of ours: it must cost this job its turn, and no other job anything.
            result = "fault"
            delay = self._queue.retry(key)
            _LOG.exception("a fault of the operator, again in %.1f s", delay)
        else:
            result = "success"
            self._queue.forget(key)
            if key in self._jobs:
                self._queue.later(key, self._next_look(wish))
        seconds = time.monotonic() - began
        self._metrics.reconciled(result, seconds)
        _LOG.debug("%s in %.3f s", result, seconds)

    def _next_look(self, wish: float | None) -> float:
        resync = self._resync * random.uniform(0.8, 1.2)  # noqa: S311
        return resync if wish is None else min(resync, max(wish, SOONEST_SECONDS))


def stuck_workers(queue: WorkQueue, limit: float) -> Iterable[str]:
    """Say which job a worker has been on for more than `limit` seconds."""
    longest = queue.longest()
    if longest is not None and longest[1] > limit:
        yield f"a worker has been on job {longest[0]} for {longest[1]:.0f} s"
