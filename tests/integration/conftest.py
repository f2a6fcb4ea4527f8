"""`vaco run` as a process, and what can be seen of it from outside."""

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

# For `fault_watch`, which several tests have in common.
sys.path.insert(0, str(Path(__file__).parent))

VACO = str(Path(sys.executable).with_name("vaco"))
_POLL = threading.Event()


class Runner:
    """One `vaco run` of `job.yaml` in `root`, whose job is called `pole`."""

    def __init__(self, root: Path, *options: str) -> None:
        self.root = root / "runs" / "pole"
        self._output = root / "output.txt"
        with self._output.open("a") as output:
            command = [VACO, "run", "job.yaml", *options]
            self.process = psutil.Popen(command, cwd=root, stdout=output, stderr=output)

    def status(self) -> dict[str, Any]:
        try:
            document: dict[str, Any] = json.loads((self.root / "status.json").read_text())
        except FileNotFoundError:
            return {}
        return document

    def children(self) -> list[psutil.Process]:
        return [p for p in self.process.children(recursive=True) if p.is_running()]

    def named(self, log: str) -> psutil.Process:
        """Return the process that writes to this log."""
        wanted = str(self.root / "logs" / f"{log}.log")
        output = {str(Path(f"/proc/{p.pid}/fd/1").readlink()): p for p in self.children()}
        return output[wanted]

    def until(self, holds: Callable[[dict[str, Any]], Any], seconds: float = 240) -> dict[str, Any]:
        """Wait until the status is such; fail with the run's output when it ends before."""
        deadline = time.monotonic() + seconds
        while not ((status := self.status()) and holds(status)):
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, f"{status}\n{self.output()}"
            _POLL.wait(0.05)
        return status

    def end(self, by: signal.Signals | None = None, seconds: float = 300) -> int:
        """Send a signal, if one is given, wait for the end, and see that nothing is left."""
        children = self.children()
        if by is not None:
            self.process.send_signal(by)
        code = int(self.process.wait(timeout=seconds))
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive
        return code

    def output(self) -> str:
        return self._output.read_text()

    def events(self, kind: str) -> list[dict[str, Any]]:
        lines = (self.root / "events.jsonl").read_text().splitlines()
        return [event for line in lines if (event := json.loads(line))["event"] == kind]


@pytest.fixture
def start_run(tmp_path: Path) -> Iterator[Callable[..., Runner]]:
    """Return `start(manifest, *options)`; what still runs at the end is killed."""
    runners: list[Runner] = []

    def start(manifest: str, *options: str) -> Runner:
        (tmp_path / "job.yaml").write_text(manifest)
        runners.append(Runner(tmp_path, *options))
        return runners[-1]

    yield start
    for runner in runners:
        if runner.process.poll() is None:
            runner.end(signal.SIGKILL)
