"""Who may hold a Lease, and for how long its holder may write, by clocks that tests turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NoReturn

import pytest
from vaco_operator.cluster.api_errors import ApiError, api_error
from vaco_operator.cluster.election import Election, boot_time
from vaco_operator.cluster.lease import Candidate, Timing, holder, new_lease, released, renewed

TIMING = Timing(lease_duration=15, renew_deadline=10, retry_period=2)
NOW = datetime(2026, 11, 25, 12, 0, 0, 500, tzinfo=UTC)


def held(by: str, renewal: str = "first", seconds: int = 15) -> dict[str, Any]:
    return {"holderIdentity": by, "leaseDurationSeconds": seconds, "renewTime": renewal}


def test_a_lease_is_taken_when_it_did_not_change_for_its_duration_on_ones_own_clock() -> None:
    candidate = Candidate()
    assert not candidate.may_take(held("other"), now=100)
    assert not candidate.may_take(held("other"), now=115)
    assert candidate.may_take(held("other"), now=115.1)


def test_a_renewal_begins_the_wait_anew() -> None:
    candidate = Candidate()
    assert not candidate.may_take(held("other"), now=100)
    assert not candidate.may_take(held("other", "second"), now=200)
    assert not candidate.may_take(held("other", "second"), now=215)
    assert candidate.may_take(held("other", "second"), now=216)


def test_the_holders_own_duration_counts() -> None:
    candidate = Candidate()
    assert not candidate.may_take(held("other", seconds=60), now=0)
    assert not candidate.may_take(held("other", seconds=60), now=59)
    assert candidate.may_take(held("other", seconds=60), now=61)


@pytest.mark.parametrize("name", ["", None])
def test_a_lease_that_was_given_back_is_free_at_once(name: str | None) -> None:
    assert Candidate().may_take({"holderIdentity": name}, now=0)


def test_a_new_lease_a_renewal_a_takeover_and_a_release() -> None:
    lease = new_lease("ns", "name", "a", Timing(15.5, 10, 2), NOW)
    first = lease["spec"]
    assert lease["metadata"] == {"namespace": "ns", "name": "name"}
    assert first["leaseDurationSeconds"] == 16, "rounded up: others rather wait too long"
    assert first["renewTime"] == first["acquireTime"] == "2026-11-25T12:00:00.000500Z"
    assert first["leaseTransitions"] == 0

    second = renewed(first | {"strategy": "kept"}, "a", TIMING, NOW.replace(hour=13))
    assert second["acquireTime"] == first["acquireTime"]
    assert second["renewTime"] > first["renewTime"]
    assert second["strategy"] == "kept"

    taken = renewed(second, "b", TIMING, NOW.replace(hour=14))
    assert (holder(taken), taken["leaseTransitions"]) == ("b", 1)
    assert taken["acquireTime"] == taken["renewTime"]

    free = released(taken, NOW)
    assert holder(free) == ""
    assert free["leaseDurationSeconds"] > 0, "the API refuses 0"
    assert renewed(free, "c", TIMING, NOW)["leaseTransitions"] == 2


class Ended(Exception):  # noqa: N818
    """Stands for the end of the process."""


def end(reason: str) -> NoReturn:
    raise Ended(reason)


class LeaseServer:
    """One Lease with resource versions, and faults: answers that are late, or errors.

    It takes the place of `Transport`, as no real API server answers on a clock that tests turn.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.lease: dict[str, Any] | None = None
        self.late = 0.0
        self.errors: list[ApiError] = []
        self.lost_answers = 0
        self.hang = False
        self.changes: list[bool] = []

    async def request(
        self, _verb: str, _resource: str, method: str, _path: str, **given: Any
    ) -> dict[str, Any]:
        if self.hang:
            await asyncio.Event().wait()
        if self.errors:
            raise self.errors.pop(0)
        answer = self._do(method, given["body"])
        self.now += self.late
        if self.lost_answers and method != "GET":
            self.lost_answers -= 1
            raise api_error(504, {})
        return answer

    def _do(self, method: str, body: dict[str, Any] | None) -> dict[str, Any]:
        if method == "GET":
            if self.lease is None:
                raise api_error(404, {"reason": "NotFound"})
            return self.lease
        assert body is not None
        if method == "POST":
            if self.lease is not None:
                raise api_error(409, {"reason": "AlreadyExists"})
            version = 1
        else:
            if self.lease is None:
                raise api_error(404, {"reason": "NotFound"})
            version = int(self.lease["metadata"]["resourceVersion"])
            if body["metadata"]["resourceVersion"] != str(version):
                raise api_error(409, {"reason": "Conflict"})
            version += 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(version)}}
        return self.lease

    def election(
        self,
        identity: str = "me",
        timing: Timing = TIMING,
        clock: Callable[[], float] | None = None,
    ) -> Election:
        return Election(
            self,  # type: ignore[arg-type]
            "ns",
            "lease",
            identity,
            timing,
            self.changes.append,
            end,
            clock or (lambda: self.now),
        )

    @property
    def holder(self) -> str:
        assert self.lease is not None
        return holder(self.lease["spec"])


def run(test: Callable[[LeaseServer], Any]) -> None:
    async def main() -> None:
        async with asyncio.timeout(10):
            await test(LeaseServer())

    asyncio.run(main())


async def attempt(election: Election) -> bool:
    return await election._attempt()


def test_the_first_takes_it_and_the_second_waits_for_the_duration() -> None:
    async def test(server: LeaseServer) -> None:
        first, second = server.election("first"), server.election("second")
        await first.acquire()
        assert (server.holder, server.changes) == ("first", [True])
        for _ in range(7):
            assert not await attempt(second)
            server.now += 2
        server.now += 1.5
        assert await attempt(second)
        assert server.holder == "second"

    run(test)


def test_a_leader_may_write_until_the_renew_deadline_and_not_a_moment_longer() -> None:
    async def test(server: LeaseServer) -> None:
        election = server.election()
        await election.acquire()
        assert election.fence() == 10
        server.now += 9.5
        assert election.fence() == 0.5
        server.now += 0.5
        with pytest.raises(Ended, match=r"renewed 10\.0 s ago"):
            election.fence()

    run(test)


def test_who_does_not_lead_may_not_write() -> None:
    async def test(server: LeaseServer) -> None:
        election = server.election()
        with pytest.raises(Ended, match="without holding"):
            election.fence()
        await election.acquire()
        await election.release()
        assert server.holder == ""
        assert server.changes == [True, False]
        with pytest.raises(Ended, match="without holding"):
            election.fence()

    run(test)


def test_a_renewal_counts_from_when_it_was_asked_for() -> None:
    async def test(server: LeaseServer) -> None:
        election = server.election()
        await election.acquire()
        server.now += 2
        # Others may have seen the renewal as soon as it was written, 3 s before the answer came.
        server.late = 3
        assert await attempt(election)
        assert election.fence() == 7

    run(test)


def test_a_leader_whose_renewals_hang_ends_at_the_deadline() -> None:
    async def test(server: LeaseServer) -> None:
        quick = Timing(lease_duration=1.5, renew_deadline=0.6, retry_period=0.1)
        election = server.election(timing=quick, clock=boot_time)
        await election.acquire()
        began = boot_time()
        # Each attempt takes longer than all the time there is.
        server.hang = True
        with pytest.raises(Ended, match="renewed"):
            await election.hold()
        assert 0.5 <= boot_time() - began < 1.5

    run(test)


def test_failed_renewals_are_made_good_as_long_as_there_is_time() -> None:
    async def test(server: LeaseServer) -> None:
        election = server.election()
        await election.acquire()
        server.errors = [api_error(500, {}), api_error(0, {"reason": "Timeout"})]
        for _ in range(2):
            server.now += 2
            assert not await attempt(election)
        assert election.fence() == 6
        server.now += 2
        assert await attempt(election)
        assert election.fence() == 10

    run(test)


def test_a_renewal_whose_answer_was_lost_is_recognised_as_ones_own() -> None:
    async def test(server: LeaseServer) -> None:
        election = server.election()
        await election.acquire()
        server.lost_answers = 1
        assert not await attempt(election)
        assert await attempt(election)
        assert server.holder == "me"

    run(test)


def test_a_lease_that_somebody_deleted_or_touched_is_taken_again() -> None:
    async def test(server: LeaseServer) -> None:
        election = server.election()
        await election.acquire()
        server.lease = None
        assert await attempt(election)
        assert server.holder == "me"
        assert server.lease is not None
        server.lease["metadata"] = {**server.lease["metadata"], "resourceVersion": "77"}
        assert await attempt(election)

    run(test)


def test_a_leader_that_finds_another_name_in_the_lease_ends() -> None:
    async def test(server: LeaseServer) -> None:
        election = server.election()
        await election.acquire()
        assert server.lease is not None
        spec = {**server.lease["spec"], "holderIdentity": "rival", "renewTime": "long ago"}
        server.lease = {"metadata": {"resourceVersion": "9"}, "spec": spec}
        # However long ago the rival renewed: it may have written meanwhile.
        server.now += 8
        with pytest.raises(Ended, match="held by rival"):
            await attempt(election)

    run(test)


def test_a_lease_of_another_is_not_given_back() -> None:
    async def test(server: LeaseServer) -> None:
        election = server.election()
        await election.acquire()
        assert server.lease is not None
        spec = {**server.lease["spec"], "holderIdentity": "rival"}
        server.lease = {"metadata": {"resourceVersion": "9"}, "spec": spec}
        await election.release()
        assert server.holder == "rival"

    run(test)


def test_the_clock_goes_on_while_the_machine_sleeps_and_never_back() -> None:
    readings = [boot_time() for _ in range(100)]
    assert readings == sorted(readings)
