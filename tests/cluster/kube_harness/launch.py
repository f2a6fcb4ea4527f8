"""Holds a cluster for a test session: it lives in a process of its own, tied to ours by a pipe.

When the pipe ends, because the session is over or because pytest was killed, that process removes
the cluster.
"""

from __future__ import annotations

import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from kube_harness.cluster import Cluster
from kube_harness.errors import ClusterError, Unavailable

COMMAND = Path(__file__).resolve().parents[1] / "start.py"
UNAVAILABLE_STATUS = 4
START_SECONDS = 150.0
STOP_SECONDS = 60.0


class Launched:
    """A running cluster of another process; `keep_logs` before the end keeps its logs."""

    def __init__(self, process: subprocess.Popen[str], cluster: Cluster, said: IO[str]) -> None:
        self._process = process
        self._said = said
        self.cluster = cluster
        self.pid = process.pid
        self.keep_logs = False

    def stop(self) -> None:
        """End it and wait until nothing is left.

        Raises:
            ClusterError: it had ended by itself, or does not end.
        """
        early = self._process.poll() is not None
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            status = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise ClusterError(f"the cluster did not end in {STOP_SECONDS:.0f} s") from None
        if early or status != 0:
            raise ClusterError(f"the cluster ended by itself: {_read(self._said)}")
        if self.cluster.logs is not None and not self.keep_logs:
            shutil.rmtree(self.cluster.logs)


@contextmanager
def launched(tier: str) -> Iterator[Launched]:
    """A cluster of that tier for the duration of the block; its programs should be built before.

    Raises:
        Unavailable: this machine cannot have one.
        ClusterError: it did not come up, or ended by itself.
    """
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, str(COMMAND), "run", tier, "--until-eof"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            start_new_session=True,
        )
        with process:
            held = Launched(process, _first_line(process, said), said)
            try:
                yield held
            finally:
                held.stop()


def _read(said: IO[str]) -> str:
    said.seek(0)
    return said.read().strip()


def _first_line(process: subprocess.Popen[str], said: IO[str]) -> Cluster:
    """Wait for the description that the process prints once the cluster is up."""
    if process.stdout is None or process.stdin is None:
        raise ClusterError("started without pipes")
    ready, _, _ = select.select([process.stdout], [], [], START_SECONDS)
    line = process.stdout.readline() if ready else ""
    if line:
        return Cluster.from_json(line)
    process.stdin.close()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
    words = _read(said)
    if process.returncode == UNAVAILABLE_STATUS:
        raise Unavailable(words.splitlines()[-1])
    raise ClusterError(f"the cluster did not come up:\n{words}")
