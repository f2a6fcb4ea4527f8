"""Builds the pinned programs into `.tools/`, once for each state of their go.mod and go.sum."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kube_harness.errors import ClusterError, Unavailable
from kube_harness.programs import BUILD_FLAGS, CACHE, GO_SERIES, GO_TOOLCHAIN, KEPT_BUILDS, Program

BUILD_SECONDS = 3600.0
LOCK_SECONDS = 2 * BUILD_SECONDS
PROGRESS_SECONDS = 30.0

Say = Callable[[str], None]


def missing(programs: Iterable[Program]) -> list[Program]:
    """Those that are not built yet."""
    return [program for program in programs if not program.path().exists()]


def ensure(programs: Iterable[Program], say: Say) -> None:
    """Build what is missing; what other sessions of this checkout build meanwhile is waited for.

    Raises:
        Unavailable: something must be built and there is no Go here.
        ClusterError: a build failed or took longer than an hour.
    """
    wanted = list(programs)
    if not missing(wanted):
        return
    go = find_go()
    CACHE.mkdir(exist_ok=True)
    with _only_builder(say):
        to_do = missing(wanted)
        for number, program in enumerate(to_do, start=1):
            _build(go, program, f"{program.name} {program.version()} ({number}/{len(to_do)})", say)
            _prune(program)


def find_go() -> str:
    """The go command; its version does not matter, it fetches the pinned one when it differs."""
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if go is None:
        raise Unavailable("Go is not installed: the cluster's programs are built with it (1.26)")
    return go


@contextmanager
def _only_builder(say: Say) -> Iterator[None]:
    deadline = time.monotonic() + LOCK_SECONDS
    with (CACHE / ".lock").open("w") as lock:
        told = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ClusterError("another session has been building for two hours") from None
            if not told:
                say("another session is building the cluster's programs: waiting for it")
                told = True
            time.sleep(0.5)
        yield


def _environment(go: str, folder: Path) -> dict[str, str]:
    environment = os.environ | {
        "CGO_ENABLED": "0",
        "GOFLAGS": " ".join(BUILD_FLAGS),
        "GOWORK": "off",
    }
    answer = subprocess.run(
        [go, "env", "GOVERSION"], cwd=folder, env=environment, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    series = answer.stdout.strip()
    if series != GO_SERIES and not series.startswith(f"{GO_SERIES}."):
        environment["GOTOOLCHAIN"] = GO_TOOLCHAIN
    return environment


def _build(go: str, program: Program, title: str, say: Say) -> None:
    target = program.path()
    target.parent.mkdir(exist_ok=True)
    started = time.monotonic()
    say(f"building {title}")
    with tempfile.TemporaryDirectory(dir=CACHE, prefix=".building-") as folder:
        output = Path(folder) / program.name
        log = Path(folder) / "log"
        command = [
            "nice",
            "-n",
            "10",
            go,
            "build",
            "-tags",
            program.tags,
            "-ldflags",
            program.link_flags(),
            "-o",
            str(output),
        ]
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*command, program.package],
                cwd=program.folder,
                env=_environment(go, program.folder),
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                _wait(process, title, started, say)
            finally:
                _end_group(process)
        if process.returncode != 0:
            raise ClusterError(f"cannot build {title}:\n{log.read_text()[-4000:]}")
        output.rename(target)
    say(f"built {title} in {time.monotonic() - started:.0f} s")


def _wait(process: subprocess.Popen[bytes], title: str, started: float, say: Say) -> None:
    while True:
        try:
            process.wait(PROGRESS_SECONDS)
            return
        except subprocess.TimeoutExpired:
            elapsed = time.monotonic() - started
            if elapsed > BUILD_SECONDS:
                raise ClusterError(f"building {title} took over {BUILD_SECONDS:.0f} s") from None
            say(f"  still building {title}: {elapsed:.0f} s")


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """The go command starts compilers; they all are in the session made for it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def _prune(program: Program) -> None:
    """Keep the newest builds of a module: switching branches back and forth stays cheap."""
    builds = sorted(CACHE.glob(f"{program.module}-v*"), key=lambda path: path.stat().st_mtime)
    for old in builds[:-KEPT_BUILDS]:
        shutil.rmtree(old)
