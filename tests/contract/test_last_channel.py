"""Closing the last channel of a process leaves the process alive, whoever else wants its lock.

In a process of its own: what is guarded against stops every thread of Python, a test's time limit
included.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from vaco.channels import Security

WriteSecurity = Callable[..., Security]

CLOSINGS = 1000
SECONDS = 100.0
PROGRAM = """
import asyncio, sys
from pathlib import Path

from grpc import aio
from vaco.channels import Security, aio_channel, bind, server_options
from vaco.v1 import learner_pb2, learner_pb2_grpc

def security(folder):
    return Security(*(Path(folder, n) for n in ("ca.pem", "cert.pem", "key.pem", "token")))

async def be_refused(server_security, client_security):
    server = aio.server(options=server_options())
    port = bind(server, "127.0.0.1:0", server_security)
    await server.start()
    async with aio_channel(f"localhost:{port}", client_security) as channel:
        stub = learner_pb2_grpc.LearnerServiceStub(channel)
        try:
            await stub.GetStatus(learner_pb2.GetStatusRequest(), timeout=20)
        except aio.AioRpcError:
            pass
    await server.stop(0)

for _ in range(int(sys.argv[1])):
    asyncio.run(be_refused(security(sys.argv[2]), security(sys.argv[3])))
print("alive")
"""


def test_a_process_goes_on_after_its_last_channel(
    security: Security, write_security: WriteSecurity, tmp_path: Path
) -> None:
    """Its client is refused again and again: then channels are let go of by gRPC's own threads."""
    stranger = write_security(tmp_path / "stranger", authority="another")
    shutil.copy(security.ca, stranger.ca)
    command = [sys.executable, "-c", PROGRAM, str(CLOSINGS), str(security.ca.parent)]
    done = subprocess.run(
        [*command, str(stranger.ca.parent)],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.stdout == "alive\n", done.stderr[-2000:]
