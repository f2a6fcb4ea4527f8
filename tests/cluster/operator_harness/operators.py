"""Operators as real processes: started, asked, paused, ended; none outlives its test."""

from __future__ import annotations

import json
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from kube_harness.processes import Processes, Running
from prometheus_client.parser import text_string_to_metric_families

OPERATOR: Final = ("-m", "vaco_operator.cluster")
SMALL_OPERATOR: Final = (str(Path(__file__).parent / "small_operator.py"),)
START_SECONDS: Final = 40.0
STOP_SECONDS: Final = 30.0
POLL_SECONDS: Final = 0.05


class Operator:
    """One replica.

    Args:
        running: its process.
        address_file: where it says at which address it answers.

    """

    def __init__(self, running: Running, address_file: Path) -> None:
        self._running = running
        self._address_file = address_file

    @property
    def pid(self) -> int:
        """Its process."""
        return self._running.popen.pid

    @property
    def exit_status(self) -> int | None:
        """How it ended; None: it runs."""
        return self._running.popen.poll()

    def ask(self, path: str) -> tuple[int, str]:
        """Ask its health server; returns HTTP's status and the text; status 0: no answer."""
        try:
            address = self._address_file.read_text()
            with urllib.request.urlopen(f"http://{address}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def ready(self) -> bool:
        """Whether its stores are filled."""
        return self.ask("/readyz")[0] == 200

    def leading(self) -> bool:
        """Whether it holds the Lease."""
        return self.metric("vaco_operator_leader") == 1

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels; 0: there are none."""
        status, text = self.ask("/metrics")
        if status != 200:
            return 0.0
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def wait_until_ready(self) -> None:
        """Wait until its stores are filled."""
        self._wait("the operator is ready", self.ready, START_SECONDS)

    def wait_until_leading(self) -> None:
        """Wait until it holds the Lease."""
        self._wait("the operator leads", self.leading, START_SECONDS)

    def wait_for_end(self, seconds: float = STOP_SECONDS) -> int:
        """Wait until it has ended; returns its exit status.

        Raises:
            subprocess.TimeoutExpired: it has not.

        """
        return self._running.popen.wait(seconds)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal: SIGSTOP pauses, SIGCONT wakes, SIGTERM ends it in order."""
        self._running.popen.send_signal(number)

    def stop(self) -> int:
        """End it in order; returns its exit status."""
        self.signal(signal.SIGTERM)
        return self.wait_for_end()

    def log(self) -> list[dict[str, Any]]:
        """What it has logged; a line that is no JSON (a traceback of Python's own) as `text`."""
        lines = self._running.log.read_text(errors="replace").splitlines()
        return [json.loads(line) if line.startswith("{") else {"text": line} for line in lines]

    def resident_bytes(self) -> int:
        """Return the memory it has in use (VmRSS)."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise ProcessLookupError(self.pid)

    def _wait(self, what: str, probe: Any, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not probe():
            if self.exit_status is not None or time.monotonic() > deadline:
                words = self._running.last_words()
                raise AssertionError(f"not so: {what}; status {self.exit_status}:\n{words}")
            time.sleep(POLL_SECONDS)


class Operators:
    """Starts replicas; `folder` gets their logs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes = Processes(folder)

    def start(
        self,
        kubeconfig: Path,
        namespace: str,
        *,
        name: str = "operator",
        watch: Sequence[str] = (),
        program: Sequence[str] = OPERATOR,
        settings: dict[str, str] | None = None,
        environment: dict[str, str] | None = None,
    ) -> Operator:
        """Start a replica; it is not ready yet.

        Args:
            kubeconfig: who it is, and where the API server is.
            namespace: its own.
            name: of its log and in its identity; each replica needs another.
            watch: the namespaces it looks after; empty: the whole cluster.
            program: what Python is to run: the operator, or the small one of these tests.
            settings: more flags, without their dashes.
            environment: more variables.

        """
        address_file = self._folder / f"{name}.address"
        address_file.unlink(missing_ok=True)
        flags = {
            "kubeconfig": str(kubeconfig),
            "namespace": namespace,
            "watch-namespaces": ",".join(watch),
            "learner-image": "vaco-learner:test",
            "actor-image": "vaco-actor:test",
            "identity": name,
            "listen": "127.0.0.1:0",
            "address-file": str(address_file),
            "log-level": "debug",
            **(settings or {}),
        }
        command = [sys.executable, *program, *(f"--{k}={v}" for k, v in flags.items())]
        running = self._processes.start(name, command, environment=environment)
        return Operator(running, address_file)

    def kill_all(self) -> None:
        """End all at once."""
        self._processes.kill_all()


@contextmanager
def operators(folder: Path) -> Iterator[Operators]:
    """Replicas for the duration of the block."""
    folder.mkdir(exist_ok=True)
    started = Operators(folder)
    try:
        yield started
    finally:
        started.kill_all()
