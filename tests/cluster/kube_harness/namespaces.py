"""The namespaces of a test node: network, processes, mounts, host name and IPC, all of its own.

Their first process only sleeps. When it goes, the kernel ends every other process in them
(containers and their shims too), and with the last process go the interfaces, the routes, the
packet filter and the mounts. So nothing has to be undone, whoever is killed.

What the kubelet writes to kernel settings of the whole machine ends in files mounted over them.
"""

from __future__ import annotations

from pathlib import Path

import psutil
from kube_harness.processes import Processes

NODE_ADDRESS = "172.30.0.2"
_NODE_GATEWAY = "172.30.0.1"
START_SECONDS = 20.0

# Programs put state at fixed places below these: what they write there goes to memory instead.
_COVERED = ("/var/lib", "/var/log")
_MACHINE_SETTINGS = (
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)


def enter_new(processes: Processes, state: Path) -> None:
    """Make the namespaces; all processes started from now on are in them."""
    unshare = ["unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "--kill-child"]
    # Ended children whose parent is gone become this process's, and vanish as it ignores them.
    first = ["--mount-proc", "env", "--ignore-signal=CHLD", "sleep", "infinity"]
    outer = processes.start("namespaces", [*unshare, *first]).popen.pid

    def sleeper() -> psutil.Process | None:
        children = psutil.Process(outer).children()
        return children[0] if children and children[0].name() == "sleep" else None

    target = processes.wait_until("the namespaces exist", sleeper, START_SECONDS).pid
    spaces = ["--net", "--pid", "--mount", "--uts", "--ipc"]
    processes.inside(["nsenter", "--target", str(target), *spaces, "--"])
    _mount(processes, state)
    _connect(processes)


def _mount(processes: Processes, state: Path) -> None:
    processes.run(["mount", "-t", "tmpfs", "tmpfs", "/run"])
    for folder in _COVERED:
        upper, work = f"/run/covered{folder}", f"/run/work{folder}"
        processes.run(["mkdir", "-p", upper, work])
        layers = f"lowerdir={folder},upperdir={upper},workdir={work}"
        processes.run(["mount", "-t", "overlay", "overlay", "-o", layers, folder])
    for setting in _MACHINE_SETTINGS:
        real = Path("/proc/sys") / setting
        stand_in = state / f"setting-{real.name}"
        stand_in.write_text(real.read_text())
        processes.run(["mount", "--bind", str(stand_in), str(real)])


def _connect(processes: Processes) -> None:
    """Give the node an address. A bridge without ports stands in for its network card."""
    for line in (
        "link set lo up",
        "link add node0 type bridge",
        f"address add {NODE_ADDRESS}/24 dev node0",
        "link set node0 up",
        f"route add default via {_NODE_GATEWAY}",
    ):
        processes.run(["ip", *line.split()])
    processes.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])
