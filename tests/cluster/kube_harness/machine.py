"""Whether this machine can have a real node, asked before anything is built for one.

Continuous integration often runs in containers: root there may neither make namespaces nor mount,
and finds its control groups read-only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from kube_harness import cgroups
from kube_harness.debian import Found
from kube_harness.errors import Unavailable

_COMMANDS = ("unshare", "nsenter", "ip", "mount")
_PROBE_SECONDS = 30


def check() -> None:
    """Raise Unavailable, naming what is missing, when there can be no node here."""
    if sys.platform != "linux":
        raise Unavailable("a real node needs Linux")
    if os.getuid() != 0:
        raise Unavailable("a real node needs root")
    for command in _COMMANDS:
        if shutil.which(command) is None:
            raise Unavailable(f"a real node needs the command {command}")
    if not Path("/dev/kmsg").exists():
        raise Unavailable("a real node needs /dev/kmsg: the kubelet reads it")
    for hierarchy in cgroups.hierarchies():
        if not os.access(hierarchy, os.W_OK):
            raise Unavailable(f"a real node needs to write to {hierarchy}")
    spaces = ["--net", "--mount", "--pid", "--fork", "--mount-proc"]
    _probe("namespaces and mounts", ["unshare", *spaces, "mount", "-t", "tmpfs", "tmpfs", "/run"])


def check_packet_filter(found: Found) -> None:
    """Raise Unavailable when the kernel has no nftables."""
    command = ["unshare", "--net", str(found.nft), "add", "table", "ip", "probe"]
    _probe("nftables", command, found.environment())


def _probe(what: str, command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(
        command, env=os.environ | (environment or {}), capture_output=True, text=True,
        timeout=_PROBE_SECONDS, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise Unavailable(f"a real node needs {what}: {done.stderr.strip()}")
