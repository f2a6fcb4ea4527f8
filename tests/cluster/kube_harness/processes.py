"""The processes of one cluster: started with a log file each, watched, and ended by their ids.

The kernel ends them when the process that started them dies, so not even a SIGKILL of the harness
leaves one behind. A guard sees to that, as for the processes of a run: with Python between fork
and exec gRPC's threads, which run in the harness too, can end the child before it is a program.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from kube_harness.errors import ClusterError
from vaco_operator.local import _guard

T = TypeVar("T")
LAST_WORDS = 2000
POLL_SECONDS = 0.05


@dataclass(slots=True)
class Running:
    """A started process and its log."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def last_words(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-LAST_WORDS:]


class Processes:
    """The processes of a cluster, in the order they were started; their logs are in `logs`."""

    def __init__(self, logs: Path) -> None:
        self.logs = logs
        self._prefix: list[str] = []
        self._running: list[Running] = []

    def inside(self, prefix: Sequence[str]) -> None:
        """Put `prefix` before all commands from now on: it enters the namespaces of a node."""
        self._prefix = list(prefix)

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> Running:
        """Start `command`; what it prints goes to `<name>.log`."""
        log = self.logs / f"{name}.log"
        with log.open("ab") as stream:
            popen = subprocess.Popen(
                _guard.guarded([*self._prefix, *command]),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=os.environ | dict(environment or {}),
                pass_fds=pass_fds,
                start_new_session=True,
            )
        running = Running(name, popen, log)
        self._running.append(running)
        return running

    def run(self, command: Sequence[str], *, seconds: float = 60.0) -> str:
        """Run a command to its end, in the same place, and return what it printed."""
        line = [*self._prefix, *command]
        done = subprocess.run(
            line, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds,
            check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise ClusterError(f"`{' '.join(line)}` failed: {done.stderr.strip()[-LAST_WORDS:]}")
        return done.stdout

    def check(self) -> None:
        """Raise ClusterError when a process has ended by itself."""
        for running in self._running:
            status = running.popen.poll()
            if status is not None:
                words = running.last_words()
                raise ClusterError(f"{running.name} ended with status {status}:\n{words}")

    def wait_until(self, what: str, probe: Callable[[], T | None], seconds: float) -> T:
        """Poll until `probe` returns something true, and return that.

        Raises:
            ClusterError: a process ended meanwhile, or the time is over.
        """
        deadline = time.monotonic() + seconds
        while not (answer := probe()):
            self.check()
            if time.monotonic() > deadline:
                last = self._running[-1]
                raise ClusterError(
                    f"{what}: not so after {seconds:.0f} s. {last.name}:\n{last.last_words()}"
                )
            time.sleep(POLL_SECONDS)
        return answer

    def kill_all(self) -> None:
        """End all, newest first, at once: their data is thrown away with them."""
        for running in reversed(self._running):
            if running.popen.poll() is None:
                running.popen.send_signal(signal.SIGKILL)
        for running in reversed(self._running):
            running.popen.wait(10)
        self._running.clear()
