"""A learner that only answers: a real gRPC server with the job's real credentials, and no training.

Simulated pods run nothing, so a test that needs a learner's answers says them here. The operator is
pointed to it by the file of VACO_LEARNER_ADDRESS_OVERRIDE_FILE and speaks to it as to any learner:
mutual TLS, the name in the certificate, the token.
"""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from grpc import aio
from vaco.channels import Security, TokenInterceptor, bind, server_options
from vaco.v1 import learner_pb2 as pb
from vaco.v1 import learner_pb2_grpc

if TYPE_CHECKING:
    from kube_harness.api import Api

OVERRIDES = "VACO_LEARNER_ADDRESS_OVERRIDE_FILE"
START_SECONDS = 20.0
NOBODY = "127.0.0.1:1"
"""Where no server ever listens: what is asked there is refused at once."""


class _Servicer(learner_pb2_grpc.LearnerServiceServicer):
    def __init__(self, double: LearnerDouble) -> None:
        self._double = double

    async def GetStatus(  # noqa: N802 - as the service is defined
        self, _request: pb.GetStatusRequest, _context: object
    ) -> pb.GetStatusResponse:
        self._double.asked += 1
        return self._double.status


class LearnerDouble:
    """Answers for the learner of one job.

    Attributes:
        status: what it answers.
        asked: how often it was.

    """

    def __init__(self, doubles: LearnerDoubles, api: Api, job: dict[str, Any]) -> None:
        metadata = job["metadata"]
        self.status = pb.GetStatusResponse(
            job_uid=metadata["uid"], phase=pb.LEARNER_PHASE_STARTING, incarnation=1
        )
        self.asked = 0
        self._doubles = doubles
        self._key = f"{metadata['namespace']}/{metadata['name']}"
        secret = api.wait_for("the job has credentials", lambda: _credentials(api, metadata))
        self._security = _written(doubles.folder / metadata["uid"], secret["data"])

    def say(self, **said: Any) -> None:
        """Answer this from now on, beside what was said before."""
        status = pb.GetStatusResponse()
        status.CopyFrom(self.status)
        status.MergeFrom(pb.GetStatusResponse(**said))
        if "actors" in said:
            del status.actors[:]
            status.actors.extend(said["actors"])
        self.status = status

    def train(self, *actors: str, **said: Any) -> None:
        """Answer that it trains with these actors, connected."""
        accounts = [pb.ActorAccount(actor_id=name, connected=True) for name in actors]
        self.say(**{"phase": pb.LEARNER_PHASE_TRAINING, "actors": accounts} | said)

    def heard(self) -> Callable[[], bool]:
        """Return what tells whether the operator knows by now what is said here at the moment.

        It asks one question at a time: when it asks the second, it has the answer to the first.
        """
        asked = self.asked
        return lambda: self.asked > asked + 1

    def listen(self) -> None:
        """Begin to answer, where the operator is pointed to."""
        self._doubles.run(self._start())

    def fall_silent(self) -> None:
        """Answer no more; the operator still asks here."""
        self._doubles.end(self._key)

    async def _start(self) -> None:
        server = aio.server(
            options=server_options(), interceptors=[TokenInterceptor(self._security)]
        )
        learner_pb2_grpc.add_LearnerServiceServicer_to_server(_Servicer(self), server)
        port = bind(server, "127.0.0.1:0", self._security)
        await server.start()
        self._doubles.begin(self._key, server, f"127.0.0.1:{port}")


class LearnerDoubles:
    """Makes doubles, and tells an operator where they are.

    Args:
        folder: gets credentials and the file of addresses.

    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.file = folder / "addresses.json"
        self._addresses: dict[str, str] = {}
        self._servers: dict[str, aio.Server] = {}
        # Addresses of simulated pods lead nowhere, or out of this machine.
        self._point("*", NOBODY)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="learner doubles")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for key in list(self._servers):
            self.end(key)
        # A server shuts down once more when it is collected, in the loop it was made in.
        gc.collect()
        self.run(_cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def of(self, api: Api, job: dict[str, Any]) -> LearnerDouble:
        """Make one that listens, for a job as the API server has it."""
        double = LearnerDouble(self, api, job)
        double.listen()
        return double

    def begin(self, key: str, server: aio.Server, address: str) -> None:
        """Keep a server that was started, and tell the operator where it is."""
        self._servers[key] = server
        self._point(key, address)

    def _point(self, key: str, address: str) -> None:
        self._addresses[key] = address
        written = self.file.with_suffix(".new")
        written.write_text(json.dumps(self._addresses))
        written.replace(self.file)

    def end(self, key: str) -> None:
        """Stop a server; the operator still asks there."""
        if server := self._servers.pop(key, None):
            self.run(server.stop(0))

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine in the loop of the doubles, and return its result."""
        future: Future[Any] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        return future.result(START_SECONDS)


def _credentials(api: Api, job: dict[str, Any]) -> dict[str, Any] | None:
    """Find the Secret of this very job: one of the same name may have left its own."""
    secret = api.find("v1", "Secret", f"{job['name']}-credentials", job["namespace"])
    owners = secret["metadata"].get("ownerReferences", []) if secret else []
    return secret if [owner["uid"] for owner in owners] == [job["uid"]] else None


def _written(folder: Path, data: dict[str, str]) -> Security:
    """Write a Secret's content into files, as the kubelet shows it to the learner."""
    folder.mkdir(exist_ok=True)
    names = {"ca.crt": "ca.crt", "learner.crt": "tls.crt", "learner.key": "tls.key"}
    for key, name in {**names, "token": "token"}.items():
        (folder / name).write_bytes(base64.b64decode(data[key]))
    return Security(folder / "ca.crt", folder / "tls.crt", folder / "tls.key", folder / "token")


async def _cancel_all() -> None:
    await asyncio.sleep(0)
    current = asyncio.current_task()
    tasks = [task for task in asyncio.all_tasks() if task is not current]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
