"""Run a training script, watch its lines and its memory, and end it."""

from __future__ import annotations

import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.peers.lines import PIPE_VARIABLE, Line
from benchmarks.peers.memory import PSS, RSS, memory

ROOT = Path(__file__).parents[2]
THRESHOLD = 475.0
EPISODES = 100
POLL_SECONDS = 0.2
# Of memory. The kernel goes through all pages of a process for each.
SAMPLE_SECONDS = 1.0
# A script that says nothing for so long does not train.
SILENCE_SECONDS = 180.0
END_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a run goes on, in seconds since the first environment step.

    Attributes:
        warmup: before the window in which throughput is taken.
        window: its length.
        threshold: how long to wait for the threshold; zero: not at all.

    """

    warmup: float
    window: float
    threshold: float


@dataclass(frozen=True, slots=True)
class Timed:
    """A line and when it came, in seconds since the first environment step."""

    at: float
    line: Line


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run gave.

    Attributes:
        seconds_to_threshold: since the first environment step; None: not reached in time.
        steps_to_threshold: environment steps trained until then.
        steps_per_second: environment steps trained, in the window; None: too few lines in it.
        peak_mib: the most that all processes held together when looked at.
        memory: `PSS`, or `RSS` where that was not to be had: what is shared counts for each.
        seconds: until the last line.
        steps: environment steps trained by then.
        best_return: the highest mean over the last episodes, 100 at most.

    """

    seconds_to_threshold: float | None
    steps_to_threshold: int | None
    steps_per_second: float | None
    peak_mib: float
    memory: str
    seconds: float
    steps: int
    best_return: float | None


class FailedError(Exception):
    """A run that gave no figures."""


class Watch:
    """A started script: its lines by the harness's clock, and the memory of all its processes."""

    def __init__(self, command: list[str], directory: Path, group: Path | None = None) -> None:
        self._pipe_path = directory / "lines"
        os.mkfifo(self._pipe_path)
        # Also open for writing: it never ends between two writers of the script.
        self._pipe = os.open(self._pipe_path, os.O_RDWR | os.O_NONBLOCK)
        self.log = directory / "log"
        environment = os.environ | {
            PIPE_VARIABLE: str(self._pipe_path),
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(directory),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
        }
        with self.log.open("wb") as log:
            self._process = psutil.Popen(
                command if group is None else _within(group, command),
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=ROOT,
            )
        self._seen: dict[int, psutil.Process] = {}
        self._rest = b""
        self._start: float | None = None
        self._sampled = 0.0
        self.peak_bytes = 0
        self.memory = PSS

    @property
    def started(self) -> bool:
        """Whether the first environment step has been."""
        return self._start is not None

    @property
    def elapsed(self) -> float:
        """Seconds since the first environment step."""
        return 0.0 if self._start is None else time.monotonic() - self._start

    def read(self) -> list[Timed]:
        """Wait up to `POLL_SECONDS` for lines; takes a sample of the memory once a second.

        Raises:
            ValueError: a line is malformed.

        """
        select.select([self._pipe], [], [], POLL_SECONDS)
        try:
            data = os.read(self._pipe, 1 << 16)
        except BlockingIOError:
            data = b""
        now = time.monotonic()
        if now - self._sampled >= SAMPLE_SECONDS:
            self._sampled = now
            self._sample()
        *texts, self._rest = (self._rest + data).split(b"\n")
        lines = [Line.parse(text.decode()) for text in texts]
        if lines and self._start is None:
            self._start = now - lines[0].seconds
        return [Timed(now - (self._start or now), line) for line in lines]

    def exit_status(self) -> int | None:
        """Give the exit status of a script that ended by itself."""
        status: int | None = self._process.poll()
        return status

    def end(self) -> None:
        """End all processes of the script, also those that left its tree."""
        self._sample()
        self._end_with(psutil.Process.terminate)
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(PIPE_VARIABLE) == str(self._pipe_path):
                    self._seen[process.pid] = process
        self._end_with(psutil.Process.kill)
        os.close(self._pipe)

    def _end_with(self, signal: Callable[[psutil.Process], None]) -> None:
        for process in self._seen.values():
            with suppress(psutil.NoSuchProcess):
                signal(process)
        _, alive = psutil.wait_procs(self._seen.values(), timeout=END_SECONDS)
        self._seen = {process.pid: process for process in alive}

    def _sample(self) -> None:
        with suppress(psutil.NoSuchProcess):
            tree = [self._process, *self._process.children(recursive=True)]
            for process in tree:
                self._seen.setdefault(process.pid, process)
        held = 0
        for process in list(self._seen.values()):
            try:
                held_by_it, count = memory(process)
            except psutil.NoSuchProcess:
                del self._seen[process.pid]
                continue
            held += held_by_it
            if count == RSS:
                self.memory = RSS
        self.peak_bytes = max(self.peak_bytes, held)


def _within(group: Path, command: list[str]) -> list[str]:
    """Have a command enter a control group by itself, before it starts others: all are in it."""
    enter = 'echo $$ > "$0" && exec "$@"'
    return ["/bin/sh", "-c", enter, str(group / "cgroup.procs"), *command]


def measure(command: list[str], limits: Limits, group: Path | None = None) -> Figures:
    """Run a script until its figures are complete.

    Args:
        command: of the script.
        limits: how long to wait for what.
        group: control group of all its processes.

    Raises:
        FailedError: it did not train; the end of its output is in the message.

    """
    # A short name: sockets of Ray lie below.
    with tempfile.TemporaryDirectory(prefix="p-") as directory:
        watch = Watch(command, Path(directory), group)
        try:
            timed = _follow(watch, limits)
        except (FailedError, ValueError) as error:
            output = watch.log.read_text(errors="replace")[-1500:]
            raise FailedError(f"{error}\n{output}") from error
        finally:
            watch.end()
        return figures(timed, limits, watch.peak_bytes, watch.memory)


def _follow(watch: Watch, limits: Limits) -> list[Timed]:
    timed: list[Timed] = []
    heard = time.monotonic()
    while True:
        ended = watch.exit_status()
        if lines := watch.read():
            timed += lines
            heard = time.monotonic()
        elif ended is not None:
            if ended != 0 or not timed:
                raise FailedError(f"ended with exit status {ended}")
            return timed
        elif time.monotonic() - heard > SILENCE_SECONDS:
            raise FailedError(f"said nothing for {SILENCE_SECONDS:.0f} s")
        if watch.elapsed > limits.warmup + limits.window and (
            watch.elapsed > limits.threshold or any(map(_is_there, timed))
        ):
            return timed


def _is_there(timed: Timed) -> bool:
    line = timed.line
    return (
        line.episodes >= EPISODES and line.mean_return is not None and line.mean_return >= THRESHOLD
    )


def figures(timed: Sequence[Timed], limits: Limits, peak_bytes: int, memory: str = PSS) -> Figures:
    """Take a run's figures from its lines.

    Throughput is between the first and the last line within the window. Steps come in batches, so
    lines that cover less than half of the window give none.
    """
    reached = next((each for each in timed if _is_there(each)), None)
    if reached is not None and reached.at > limits.threshold:
        reached = None
    end = limits.warmup + limits.window
    within = [each for each in timed if limits.warmup <= each.at <= end]
    speed = None
    if within and (seconds := within[-1].at - within[0].at) >= limits.window / 2:
        speed = (within[-1].line.steps - within[0].line.steps) / seconds
    returns = [each.line.mean_return for each in timed if each.line.mean_return is not None]
    return Figures(
        seconds_to_threshold=None if reached is None else reached.at,
        steps_to_threshold=None if reached is None else reached.line.steps,
        steps_per_second=speed,
        peak_mib=peak_bytes / 2**20,
        memory=memory,
        seconds=timed[-1].at,
        steps=timed[-1].line.steps,
        best_return=max(returns, default=None),
    )
