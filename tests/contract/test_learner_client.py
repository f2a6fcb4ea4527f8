"""The operator asks learners: real servers with the jobs' real credentials, asked as pods are."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from grpc import aio
from vaco.channels import Security, TokenInterceptor, bind, server_options
from vaco.v1 import learner_pb2 as pb
from vaco.v1 import learner_pb2_grpc
from vaco_operator.cluster import learner_client
from vaco_operator.cluster.credentials import EPOCH, derive
from vaco_operator.cluster.labels import JobIdentity, learner_host
from vaco_operator.cluster.learner_client import MAX_AT_ONCE, Acquaintance, LearnerClient
from vaco_operator.cluster.steps import LearnerAddress
from vaco_operator.cluster.store import JobKey

SECONDS = 20.0
DAY = timedelta(days=1)
ROOT = bytes(32)


class Learner(learner_pb2_grpc.LearnerServiceServicer):
    """Answers; `hangs`: not at all."""

    def __init__(self, uid: str, *, hangs: bool = False) -> None:
        self.status = pb.GetStatusResponse(job_uid=uid, version=1)
        self.asked = 0
        self._hangs = hangs

    async def GetStatus(  # noqa: N802 - as the service is defined
        self, _request: pb.GetStatusRequest, _context: object
    ) -> pb.GetStatusResponse:
        self.asked += 1
        if self._hangs:
            await asyncio.Event().wait()
        return self.status


def identity(name: str) -> JobIdentity:
    """A job in its second epoch, of which the certificates of the first have not run out."""
    return JobIdentity(name, "research", f"uid-of-{name}", datetime.now(UTC) - EPOCH - DAY)


class Rig:
    """A client, and where it is told that learners are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.woken: list[JobKey] = []
        self.file = folder / "addresses.json"
        self.addresses: dict[str, str] = {}
        self.pods: set[tuple[str, str]] = set()
        self.client = LearnerClient(self.woken.append, self.pods.__contains__, self.file)

    def key(self, name: str) -> JobKey:
        return JobKey("research", name)

    def point(self, name: str, address: str) -> None:
        self.addresses[str(self.key(name))] = address
        self.file.write_text(json.dumps(self.addresses))

    def follow(self, name: str, pod: str = "pod-1", epoch: int = 0) -> None:
        who = identity(name)
        address = LearnerAddress(pod, "192.0.2.1", 0.05)
        derived = partial(derive, ROOT, who, epoch, "cluster.local")
        self.client.follow(self.key(name), Acquaintance(address, learner_host(who), epoch, derived))

    @asynccontextmanager
    async def serving(self, name: str, learner: Learner, whose: str = "") -> AsyncIterator[None]:
        """Serve as the learner of `name`, with the credentials of `whose` job."""
        security = self._security(whose or name)
        server = aio.server(options=server_options(), interceptors=[TokenInterceptor(security)])
        learner_pb2_grpc.add_LearnerServiceServicer_to_server(learner, server)
        self.point(name, f"127.0.0.1:{bind(server, '127.0.0.1:0', security)}")
        await server.start()
        try:
            yield
        finally:
            await server.stop(0)

    def _security(self, name: str) -> Security:
        credentials = derive(ROOT, identity(name), 0, "cluster.local")
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        security = Security(*(folder / n for n in ("ca.crt", "tls.crt", "tls.key", "token")))
        security.ca.write_bytes(credentials.authorities)
        security.cert.write_bytes(credentials.learner.certificate)
        security.key.write_bytes(credentials.learner.key)
        security.token.write_text(credentials.token)
        return security

    def version(self, name: str) -> int:
        answer = self.client.latest(self.key(name))
        return answer.status.version if answer else 0


async def until(what: str, probe: Callable[[], object]) -> None:
    """Wait until it is so, within a bound."""
    try:
        async with asyncio.timeout(SECONDS):
            while not probe():  # noqa: ASYNC110 - a learner in a test tells nobody
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not so after {SECONDS:g} s: {what}") from None


def run(scenario: Callable[[Rig], object], tmp_path: Path) -> None:
    async def with_rig() -> None:
        rig = Rig(tmp_path)
        try:
            await scenario(rig)  # type: ignore[misc]
        finally:
            await rig.client.close()

    asyncio.run(with_rig())


def test_a_learner_is_asked_again_and_again_and_each_answer_wakes_its_job(tmp_path):
    async def scenario(rig: Rig) -> None:
        learner = Learner("uid-of-pole")
        async with rig.serving("pole", learner):
            rig.follow("pole")
            await until("it is heard", lambda: rig.version("pole") == 1)
            learner.status.version = 2
            await until("it is heard again", lambda: rig.version("pole") == 2)
            answer = rig.client.latest(rig.key("pole"))
            assert answer is not None
            assert answer.pod == "pod-1"
            assert set(rig.woken) == {rig.key("pole")}
            assert len(rig.woken) >= 2

    run(scenario, tmp_path)


def test_a_learner_that_comes_late_is_heard(tmp_path):
    async def scenario(rig: Rig) -> None:
        rig.point("pole", "127.0.0.1:1")
        rig.follow("pole")
        await asyncio.sleep(0)
        async with rig.serving("pole", Learner("uid-of-pole")):
            await until("it is heard", lambda: rig.version("pole") == 1)

    run(scenario, tmp_path)


def test_case_29_a_learner_with_another_jobs_credentials_is_not_heard(tmp_path):
    async def scenario(rig: Rig) -> None:
        right, wrong = Learner("uid-of-pole"), Learner("uid-of-pole")
        async with rig.serving("pole", right), rig.serving("cart", wrong, whose="pole"):
            rig.follow("cart")
            rig.follow("pole")
            await until("the right one is heard often", lambda: right.asked > 30)
            assert rig.client.latest(rig.key("cart")) is None
            assert wrong.asked == 0

    run(scenario, tmp_path)


def test_learners_that_hang_keep_nobody_from_being_heard(tmp_path, monkeypatch):
    monkeypatch.setattr(learner_client, "ANSWER_SECONDS", 0.2)

    async def scenario(rig: Rig) -> None:
        names = [f"hangs-{i}" for i in range(2 * MAX_AT_ONCE)]
        hanging, lively = Learner("uid", hangs=True), Learner("uid-of-pole")
        async with rig.serving("hangs", hanging), rig.serving("pole", lively):
            for name in names:
                rig.point(name, rig.addresses["research/hangs"])
                rig.follow(name)
            rig.follow("pole")
            await until("it is heard often", lambda: lively.asked > 5)

    run(scenario, tmp_path)


def test_learners_that_cannot_be_reached_take_nobodys_turn(tmp_path, monkeypatch):
    monkeypatch.setattr(learner_client, "ANSWER_SECONDS", 2 * SECONDS)

    async def scenario(rig: Rig) -> None:
        lively = Learner("uid-of-pole")
        # The kernel takes connections, and nobody ever says a word.
        with socket.create_server(("127.0.0.1", 0), backlog=512) as dead:
            async with rig.serving("pole", lively):
                for name in (f"dead-{i}" for i in range(2 * MAX_AT_ONCE)):
                    rig.point(name, f"127.0.0.1:{dead.getsockname()[1]}")
                    rig.follow(name)
                rig.follow("pole")
                await until("it is heard often", lambda: lively.asked > 5)

    run(scenario, tmp_path)


@pytest.mark.parametrize("spoil", ["lag", "evaluation", "size"])
def test_an_answer_that_no_status_can_tell_is_none(tmp_path, spoil):
    async def scenario(rig: Rig) -> None:
        learner = Learner("uid-of-pole")
        if spoil == "lag":
            learner.status.lag.p50 = -1
        elif spoil == "evaluation":
            learner.status.evaluation.episodes = 0
        else:
            learner.status.message = "x" * (1 << 19)
        async with rig.serving("pole", learner):
            rig.follow("pole")
            await until("it is asked again", lambda: learner.asked > 1)
            assert rig.client.latest(rig.key("pole")) is None
            learner.status = pb.GetStatusResponse(job_uid="uid-of-pole", version=7)
            await until("it is heard", lambda: rig.version("pole") == 7)

    run(scenario, tmp_path)


def test_of_an_answer_accounts_are_kept_of_pods_in_the_jobs_namespace_only(tmp_path):
    async def scenario(rig: Rig) -> None:
        learner = Learner("uid-of-pole")
        rig.pods.update({("research", "pole-actors-a"), ("elsewhere", "pole-actors-b")})
        for name in ("pole-actors-a", "pole-actors-b", "nobody"):
            learner.status.actors.append(pb.ActorAccount(actor_id=name))
        async with rig.serving("pole", learner):
            rig.follow("pole")
            await until("it is heard", lambda: rig.version("pole") == 1)
            answer = rig.client.latest(rig.key("pole"))
            assert answer is not None
            assert [account.actor_id for account in answer.status.actors] == ["pole-actors-a"]

    run(scenario, tmp_path)


def test_what_a_pod_said_is_forgotten_with_the_pod(tmp_path):
    async def scenario(rig: Rig) -> None:
        learner = Learner("uid-of-pole")
        async with rig.serving("pole", learner):
            rig.follow("pole")
            await until("it is heard", lambda: rig.version("pole") == 1)
            rig.follow("pole", pod="pod-2")
            assert rig.client.latest(rig.key("pole")) is None
            await until("the next is heard", lambda: rig.version("pole") == 1)
            answer = rig.client.latest(rig.key("pole"))
            assert answer is not None
            assert answer.pod == "pod-2"

    run(scenario, tmp_path)


def test_a_job_that_is_forgotten_is_asked_no_more(tmp_path):
    async def scenario(rig: Rig) -> None:
        first, other = Learner("uid-of-pole"), Learner("uid-of-cart")
        async with rig.serving("pole", first), rig.serving("cart", other):
            rig.follow("pole")
            rig.follow("cart")
            await until("both are heard", lambda: rig.version("pole") and rig.version("cart"))
            rig.client.forget(rig.key("pole"))
            asked, later = first.asked, other.asked
            await until("the other is asked on", lambda: other.asked > later + 20)
            assert first.asked <= asked + 1
            assert rig.client.latest(rig.key("pole")) is None

    run(scenario, tmp_path)


def test_in_another_epoch_it_is_asked_with_new_credentials(tmp_path):
    async def scenario(rig: Rig) -> None:
        async with rig.serving("pole", Learner("uid-of-pole")):
            rig.follow("pole")
            await until("it is heard", lambda: rig.version("pole") == 1)
            # Learners trust the authority of the epoch after theirs, and the operator theirs.
            rig.follow("pole", epoch=1)
            await until("it is heard", lambda: rig.version("pole") == 1)

    run(scenario, tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"research/pole": 5}'])
def test_a_file_of_addresses_that_makes_no_sense_ends_nothing(tmp_path, text):
    async def scenario(rig: Rig) -> None:
        rig.file.write_text(text)
        rig.follow("pole")
        await asyncio.sleep(0)
        async with rig.serving("pole", Learner("uid-of-pole")):
            await until("it is heard", lambda: rig.version("pole") == 1)

    run(scenario, tmp_path)
