"""Case 29: derived credentials at a real server: who is let in, who is refused, and renewal.

The files are those that a kubelet would write into the pods, from the Secret and the pod templates
that the operator makes.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc import aio
from vaco import channels
from vaco.channels import Security, aio_channel
from vaco.job import VACOJob
from vaco.v1 import learner_pb2, learner_pb2_grpc
from vaco_operator.cluster.credentials import EPOCH, derive, epoch_at
from vaco_operator.cluster.labels import Component, JobIdentity, learner_host
from vaco_operator.cluster.manifests.credentials_secret import credentials_secret, projected_items

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    Serve = Callable[..., AbstractAsyncContextManager[str]]

TIMEOUT = 20.0
REFUSED = grpc.StatusCode.UNAVAILABLE

MakeJob = Callable[..., VACOJob]
Mount = Callable[..., Security]


@pytest.fixture
def job(cluster_job: MakeJob) -> VACOJob:
    """A job in its epoch 2, of which the certificates of epochs 0 and 1 have not run out."""
    created = datetime.now(UTC) - 2 * EPOCH - timedelta(days=5)
    return cluster_job({"creationTimestamp": created.strftime("%Y-%m-%dT%H:%M:%SZ")})


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    """Writes what a pod of a role sees of a job's Secret; the folder is named after it."""

    def write(
        job: VACOJob, role: Component, folder: str = "", *, epoch: int | None = None,
        root: bytes = bytes(32),
    ) -> Security:  # fmt: skip
        identity = JobIdentity.of(job)
        now = epoch_at(identity.created, datetime.now(UTC))
        credentials = derive(root, identity, now if epoch is None else epoch, "cluster.local")
        data = credentials_secret(job, credentials)["data"]
        place = tmp_path / (folder or role)
        place.mkdir(exist_ok=True)
        for item in projected_items(role):
            (place / item["path"]).write_bytes(base64.b64decode(data[item["key"]]))
        return Security(*(place / name for name in ("ca.crt", "tls.crt", "tls.key", "token")))

    return write


@pytest.fixture(autouse=True)
def _loopback_has_the_learners_name(monkeypatch: pytest.MonkeyPatch, job: VACOJob) -> None:
    """Certificates name the Service, which only a cluster's DNS knows."""
    name = ("grpc.ssl_target_name_override", learner_host(JobIdentity.of(job)))
    monkeypatch.setattr(channels, "CHANNEL_OPTIONS", (*channels.CHANNEL_OPTIONS, name))


async def ask(address: str, security: Security) -> str | grpc.StatusCode:
    """What a call on a channel of its own answers, or the status it fails with."""
    async with aio_channel(address, security) as channel:
        return await ask_on(channel)


async def ask_on(channel: aio.Channel) -> str | grpc.StatusCode:
    stub = learner_pb2_grpc.LearnerServiceStub(channel)
    request = learner_pb2.GetStatusRequest()
    try:
        response = await stub.GetStatus(request, timeout=TIMEOUT)
    except aio.AioRpcError as error:
        return error.code()
    return str(response.job_uid)


def served(
    serve: Serve, security: Security, call: Callable[[str], Awaitable[str | grpc.StatusCode]]
) -> str | grpc.StatusCode:
    async def run() -> str | grpc.StatusCode:
        async with serve(security) as address:
            return await call(address)

    return asyncio.run(run())


@pytest.mark.parametrize("role", ["actor", "operator"])
def test_case_29_those_of_the_job_are_let_in(
    serve: Serve, mount: Mount, job: VACOJob, role: Component
) -> None:
    client = mount(job, role)
    assert served(serve, mount(job, "learner"), lambda a: ask(a, client)) == "job"


@pytest.mark.parametrize("part", ["ca", "cert", "token", "all"])
def test_case_29_what_is_another_jobs_is_refused(
    serve: Serve, mount: Mount, job: VACOJob, cluster_job: MakeJob, part: str
) -> None:
    """A namesake's: only the uid differs."""
    namesake = cluster_job({"uid": "another"}).metadata.model_copy(
        update={"creation_timestamp": job.metadata.creation_timestamp}
    )
    ours = mount(job, "actor")
    theirs = mount(job.model_copy(update={"metadata": namesake}), "actor", "namesake")
    mixed = {
        "ca": replace(ours, ca=theirs.ca),
        "cert": replace(ours, cert=theirs.cert, key=theirs.key),
        "token": replace(ours, token=theirs.token),
        "all": theirs,
    }
    expected = grpc.StatusCode.UNAUTHENTICATED if part == "token" else REFUSED
    assert served(serve, mount(job, "learner"), lambda a: ask(a, mixed[part])) == expected


def test_case_29_those_of_another_root_key_are_refused(
    serve: Serve, mount: Mount, job: VACOJob
) -> None:
    stranger = mount(job, "actor", "stranger", root=b"r" * 32)
    assert served(serve, mount(job, "learner"), lambda a: ask(a, stranger)) == REFUSED


def test_an_actor_cannot_play_the_learner(serve: Serve, mount: Mount, job: VACOJob) -> None:
    """It has a certificate of the job's, but not one for a server of that name."""
    client = mount(job, "actor", "client")
    assert served(serve, mount(job, "actor"), lambda a: ask(a, client)) == REFUSED


def test_the_learners_certificate_opens_no_door(serve: Serve, mount: Mount, job: VACOJob) -> None:
    client = mount(job, "learner", "client")
    assert served(serve, mount(job, "learner"), lambda a: ask(a, client)) == REFUSED


def test_files_of_a_new_epoch_are_taken_while_the_server_runs(
    serve: Serve, mount: Mount, job: VACOJob
) -> None:
    """Nobody is locked out meanwhile, whoever of the two gets the new files first."""
    before = mount(job, "actor", "before", epoch=1)
    after = mount(job, "actor", "after", epoch=2)
    # It would go on trusting the learner: only the learner can refuse it.
    long_before = replace(mount(job, "actor", "long-before", epoch=0), ca=after.ca)

    async def run() -> None:
        async with serve(mount(job, "learner", epoch=1)) as address:
            async with aio_channel(address, before) as channel:
                assert await ask_on(channel) == "job"
                assert await ask(address, long_before) == "job"
                assert await ask(address, after) == "job", "the actor's files are new first"
                mount(job, "learner", epoch=2)
                assert await ask(address, after) == "job"
                assert await ask(address, before) == "job", "the learner's files are new first"
                assert await ask_on(channel) == "job", "an open connection goes on"
            assert await ask(address, long_before) == REFUSED, "the new files are in force"

    asyncio.run(run())


@pytest.mark.parametrize("late", ["learner", "actor"])
def test_certificates_that_ran_out_are_refused(
    serve: Serve, mount: Mount, job: VACOJob, late: Component
) -> None:
    """A Secret that nobody renewed for 90 days opens nothing any more."""
    created = datetime.now(UTC) - 4 * EPOCH - timedelta(days=5)
    metadata = job.metadata.model_copy(
        update={"creation_timestamp": created.strftime("%Y-%m-%dT%H:%M:%SZ")}
    )
    old = job.model_copy(update={"metadata": metadata})
    server = mount(old, "learner", epoch=1 if late == "learner" else 2)
    client = mount(old, "actor", epoch=1 if late == "actor" else 2)
    assert served(serve, server, lambda a: ask(a, client)) == REFUSED
