"""Which jobs need a look: each at most once in the queue, and with at most one worker.

    add ──> ready ──take──> worked on ──done──> (added meanwhile? ready again)
              ^                 │
              └──── timer <─────┴── later, retry

A job that is added while somebody works on it runs once more afterwards, as what was read may be
from before the change. A job that is taken loses its timer: whoever looks at it now says anew when
to look again. So there is never more than one entry and one timer for a job, whatever happens.

It begins closed and takes nothing: a replica that does not lead hears of changes for weeks, and
when it leads, every job needs a look anyway.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final

from vaco_operator.cluster.store import JobKey

FIRST_RETRY_SECONDS: Final = 0.2
MAX_RETRY_SECONDS: Final = 60.0

Waited = Callable[[float], None]


class WorkQueue:
    """Hands jobs to workers; lives in one event loop.

    Args:
        waited: told for how many seconds a job was ready before it was taken.

    """

    def __init__(self, waited: Waited) -> None:
        self._waited = waited
        self._loop = asyncio.get_running_loop()
        self._order: asyncio.Queue[JobKey | None] = asyncio.Queue()
        self._ready: dict[JobKey, float] = {}
        self._working: dict[JobKey, float] = {}
        self._again: set[JobKey] = set()
        self._timers: dict[JobKey, asyncio.TimerHandle] = {}
        self._failures: dict[JobKey, int] = {}
        self._open = False
        self.adds = 0
        self.retries = 0

    def __len__(self) -> int:
        """Return how many jobs are ready and not taken."""
        return len(self._ready)

    def open(self) -> None:
        """Take jobs from now on."""
        self._open = True

    def add(self, key: JobKey) -> None:
        """Have a job looked at as soon as a worker is free."""
        if not self._open:
            return
        if key in self._working:
            self._again.add(key)
        elif key not in self._ready:
            self.adds += 1
            self._ready[key] = self._loop.time()
            self._order.put_nowait(key)

    def nudge(self, key: JobKey) -> None:
        """Have a job looked at, unless it failed and is to be left alone for a while."""
        if key not in self._failures:
            self.add(key)

    def later(self, key: JobKey, seconds: float) -> None:
        """Have a job looked at after so long; of two timers of a job, the earlier one stays."""
        if not self._open:
            return
        timer = self._timers.get(key)
        when = self._loop.time() + seconds
        if timer is not None:
            if timer.when() <= when:
                return
            timer.cancel()
        self._timers[key] = self._loop.call_at(when, self._due, key)

    def retry(self, key: JobKey, at_least: float = 0.0) -> float:
        """Have a job looked at again after a failure, and return in how many seconds.

        The delay doubles with each failure since `forget`; half of it is drawn by lot.
        """
        self.retries += 1
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        # The exponent is bounded, or a job that fails for weeks would overflow it.
        delay = min(MAX_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(failures - 1, 20))
        delay = max(at_least, delay * random.uniform(0.5, 1.0))  # noqa: S311
        self.later(key, delay)
        return delay

    def forget(self, key: JobKey) -> None:
        """Forget a job's failures: it went well."""
        self._failures.pop(key, None)

    async def take(self) -> JobKey | None:
        """Wait for a job, and take it until `done`; None: the queue is closed."""
        key = await self._order.get()
        if key is None:
            # The next worker shall see it too.
            self._order.put_nowait(None)
            return None
        now = self._loop.time()
        self._waited(now - self._ready.pop(key))
        self._working[key] = now
        if timer := self._timers.pop(key, None):
            timer.cancel()
        return key

    def done(self, key: JobKey) -> None:
        """Give a job back."""
        del self._working[key]
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def close(self) -> None:
        """Hand out no more, and take no more; who works goes on."""
        self._open = False
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        while not self._order.empty():
            self._order.get_nowait()
        self._order.put_nowait(None)

    def longest(self) -> tuple[JobKey, float] | None:
        """Return the job that was taken first of those worked on, and for how many seconds."""
        if not self._working:
            return None
        # A dict keeps its order, and jobs are taken one after the other.
        key, since = next(iter(self._working.items()))
        return key, self._loop.time() - since

    def _due(self, key: JobKey) -> None:
        del self._timers[key]
        self.add(key)
