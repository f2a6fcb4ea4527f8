"""The queue of jobs: each at most once, never with two workers, back-off, timers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from vaco_operator.cluster.store import JobKey
from vaco_operator.cluster.work_queue import FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS, WorkQueue

A, B = JobKey("ns", "a"), JobKey("ns", "b")
BOUND_SECONDS = 10.0


def run(test: Callable[[WorkQueue], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(BOUND_SECONDS):
            queue = WorkQueue(lambda _seconds: None)
            queue.open()
            await test(queue)

    asyncio.run(bounded())


def test_jobs_come_in_the_order_they_were_added_and_once() -> None:
    async def test(queue: WorkQueue) -> None:
        for key in (A, B, A, A):
            queue.add(key)
        assert len(queue) == 2
        assert [await queue.take(), await queue.take()] == [A, B]
        assert len(queue) == 0

    run(test)


def test_a_job_added_while_it_is_worked_on_runs_once_more_and_not_beside() -> None:
    async def test(queue: WorkQueue) -> None:
        queue.add(A)
        assert await queue.take() == A
        queue.add(A)
        queue.add(A)
        queue.add(B)
        # A second worker gets the other job, although the first was added before.
        assert await queue.take() == B
        assert len(queue) == 0
        queue.done(A)
        assert await queue.take() == A
        queue.done(A)
        assert len(queue) == 0

    run(test)


def test_many_workers_never_have_the_same_job() -> None:
    async def test(queue: WorkQueue) -> None:
        keys = [JobKey("ns", str(number)) for number in range(5)]
        busy: set[JobKey] = set()
        looks = 0

        async def work() -> None:
            nonlocal looks
            while (key := await queue.take()) is not None:
                assert key not in busy
                busy.add(key)
                for other in keys:
                    queue.add(other)
                await asyncio.sleep(0)
                busy.discard(key)
                queue.done(key)
                looks += 1
                if looks == 500:
                    queue.close()

        queue.add(keys[0])
        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(work())
        assert looks >= 500

    run(test)


def test_of_two_timers_the_earlier_stays_and_taking_a_job_stops_it() -> None:
    async def test(queue: WorkQueue) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        queue.later(A, 3600)
        queue.later(A, 0.05)
        queue.later(A, 3600)
        assert await queue.take() == A
        assert loop.time() - began < 5

        queue.later(B, 0.01)
        queue.add(B)
        assert await queue.take() == B
        queue.done(B)
        # Had its timer gone on, the job would come again.
        queue.later(A, 0.05)
        queue.done(A)
        assert await queue.take() == A
        assert len(queue) == 0

    run(test)


def test_the_back_off_doubles_with_a_lot_has_a_bound_and_is_forgotten() -> None:
    async def test(queue: WorkQueue) -> None:
        delays = []
        for _ in range(30):
            delays.append(queue.retry(A))
            queue.close()
        for number, delay in enumerate(delays):
            full = min(MAX_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2**number)
            assert full / 2 <= delay <= full
        assert len({round(delay, 6) for delay in delays[-10:]}) > 1, "no lot was drawn"
        assert queue.retry(B) <= FIRST_RETRY_SECONDS, "each job has failures of its own"
        queue.forget(A)
        assert queue.retry(A) <= FIRST_RETRY_SECONDS
        queue.close()

    run(test)


def test_a_retry_is_never_sooner_than_the_server_asked() -> None:
    async def test(queue: WorkQueue) -> None:
        assert queue.retry(A, at_least=90) == 90
        queue.close()

    run(test)


def test_a_closed_queue_lets_all_workers_go() -> None:
    async def test(queue: WorkQueue) -> None:
        queue.add(A)
        queue.later(B, 0.0)
        waiting = [asyncio.create_task(queue.take()) for _ in range(3)]
        await asyncio.sleep(0)
        assert await waiting[0] == A
        queue.close()
        queue.add(A)
        queue.done(A)
        assert await asyncio.gather(*waiting[1:]) == [None, None]

    run(test)


def test_the_job_worked_on_for_longest_is_known() -> None:
    async def test(queue: WorkQueue) -> None:
        assert queue.longest() is None
        queue.add(A)
        queue.add(B)
        await queue.take()
        await queue.take()
        longest = queue.longest()
        assert longest is not None
        assert longest[0] == A
        queue.done(A)
        longest = queue.longest()
        assert longest is not None
        assert longest[0] == B

    run(test)


def test_a_queue_that_is_not_opened_yet_keeps_nothing() -> None:
    """A replica that stands by hears of every change, and nobody takes a job from its queue."""

    async def test() -> None:
        waits: list[float] = []
        queue = WorkQueue(waits.append)
        queue.add(A)
        queue.nudge(A)
        queue.later(A, 0.0)
        assert (len(queue), queue.adds) == (0, 0)
        queue.open()
        queue.add(B)
        assert await queue.take() == B
        assert len(queue) == 0

    asyncio.run(asyncio.wait_for(test(), BOUND_SECONDS))


@pytest.mark.parametrize("workers", [1, 3])
def test_what_waited_is_measured(workers: int) -> None:
    waits: list[float] = []

    async def test() -> None:
        queue = WorkQueue(waits.append)
        queue.open()
        for number in range(workers):
            queue.add(JobKey("ns", str(number)))
        for _ in range(workers):
            await queue.take()

    asyncio.run(test())
    assert len(waits) == workers
    assert all(0 <= wait < BOUND_SECONDS for wait in waits)


def test_a_nudge_does_not_shorten_the_wait_after_a_failure() -> None:
    async def test(queue: WorkQueue) -> None:
        queue.add(A)
        assert await queue.take() == A
        queue.retry(A, at_least=BOUND_SECONDS)
        queue.done(A)
        queue.nudge(A)
        assert len(queue) == 0
        queue.add(A)
        assert await queue.take() == A
        queue.forget(A)
        queue.done(A)
        queue.nudge(A)
        assert len(queue) == 1

    run(test)
