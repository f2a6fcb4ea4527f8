"""The control groups below which a test node puts its pods, in every hierarchy that is mounted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from kube_harness.errors import ClusterError

MOUNT = Path("/sys/fs/cgroup")
EMPTY_SECONDS = 10.0
WANTED_CONTROLLERS = {"cpu", "cpuset", "hugetlb", "memory", "pids"}


def create(name: str) -> None:
    """Make the group `name` in each hierarchy: the kubelet wants its root group to exist."""
    for hierarchy in hierarchies():
        _enable_controllers(hierarchy)
        (hierarchy / name).mkdir(exist_ok=True)
        _inherit_cpuset(hierarchy / name)


def remove(name: str) -> None:
    """Remove the group and all below; its processes are ending, which the kernel needs time for.

    Raises:
        ClusterError: a process is still in one of the groups after ten seconds.
    """
    deadline = time.monotonic() + EMPTY_SECONDS
    for hierarchy in hierarchies():
        root = hierarchy / name
        while root.exists():
            for group in sorted(_groups(root), key=lambda path: -len(path.parts)):
                _remove_if_empty(group)
            if root.exists() and time.monotonic() > deadline:
                raise ClusterError(f"{root} still holds processes")


def _remove_if_empty(group: Path) -> None:
    try:
        group.rmdir()
    except OSError:
        time.sleep(0.02)


def _groups(root: Path) -> Iterator[Path]:
    yield root
    for path in root.rglob("*"):
        if path.is_dir():
            yield path


def hierarchies() -> list[Path]:
    """The mounted hierarchies: one of version 2, or several of version 1."""
    if not MOUNT.exists():
        return []
    if (MOUNT / "cgroup.controllers").exists():
        return [MOUNT]
    return [path for path in MOUNT.iterdir() if path.is_dir() and not path.is_symlink()]


def _enable_controllers(hierarchy: Path) -> None:
    """In version 2 a group has the controllers that its parent hands on."""
    if (hierarchy / "cgroup.controllers").exists():
        offered = set((hierarchy / "cgroup.controllers").read_text().split())
        handed_on = set((hierarchy / "cgroup.subtree_control").read_text().split())
        for controller in sorted(offered & WANTED_CONTROLLERS - handed_on):
            (hierarchy / "cgroup.subtree_control").write_text(f"+{controller}")


def _inherit_cpuset(group: Path) -> None:
    """In version 1 a new cpuset is empty, and no process can enter it."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if (group / name).exists() and (group.parent / "cgroup.procs").exists():
            value = (group.parent / name).read_text()
            if value.strip() and not (group / name).read_text().strip():
                (group / name).write_text(value)
