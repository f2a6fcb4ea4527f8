"""Nothing of a cluster outlives the test session that started it, not even one that was killed."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]  # two clusters are started

GONE_SECONDS = 60.0

# What a session does that dies before any teardown: hold a cluster, say so, wait.
SESSION = """
import sys
sys.path.insert(0, {folder!r})
from kube_harness import launch
with launch.launched({tier!r}) as held:
    print(held.pid, held.cluster.name, held.cluster.kubeconfig, flush=True)
    sys.stdin.read()
"""


def _wait_until(what: str, probe: Callable[[], bool]) -> None:
    deadline = time.monotonic() + GONE_SECONDS
    while not probe():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def _machine_settings() -> dict[str, str]:
    names = ("kernel/panic", "kernel/panic_on_oops", "vm/overcommit_memory", "vm/panic_on_oom")
    keys = ("kernel/keys/root_maxkeys", "net/netfilter/nf_conntrack_max", "net/ipv4/ip_forward")
    paths = [Path("/proc/sys") / name for name in names + keys]
    return {str(path): path.read_text() for path in paths if path.exists()}


def _interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


@pytest.mark.parametrize("killed", ["session", "holder"])
@pytest.mark.parametrize("tier", ["control_plane", "node"])
def test_a_killed_session_leaves_nothing(
    tier: str, killed: str, request: pytest.FixtureRequest
) -> None:
    cluster = request.getfixturevalue(tier)  # skips where there is no such cluster
    if cluster.tier == "existing":
        pytest.skip("the cluster given is not ours to end")
    before = (_machine_settings(), _interfaces())
    source = SESSION.format(folder=str(Path(__file__).parent), tier=tier.replace("_", "-"))
    with subprocess.Popen(
        [sys.executable, "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as session:
        assert session.stdout is not None
        words = session.stdout.readline().split()
        assert len(words) == 3, "the second cluster did not come up"
        holder, name, state = psutil.Process(int(words[0])), words[1], Path(words[2]).parent
        family = holder.children(recursive=True)
        assert len(family) >= 5
        assert state.exists()
        (session if killed == "session" else holder).send_signal(signal.SIGKILL)
        session.communicate(timeout=30)

    _wait_until("its processes end", lambda: not any(map(_lives, [*family, holder])))
    if killed == "holder":
        from kube_harness import workplace

        workplace.sweep()
    _wait_until(f"{state} is removed", lambda: not state.exists())
    assert [path for path in Path("/sys/fs/cgroup").glob(f"*/{name}") if path.exists()] == []
    assert name not in Path("/proc/self/mounts").read_text()
    assert (_machine_settings(), _interfaces()) == before
    assert not _speaks_of(name)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _speaks_of(name: str) -> list[int]:
    """Processes, of whatever parent, that were started with a path of that cluster."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if any(name in word for word in process.info["cmdline"] or [])
    ]
