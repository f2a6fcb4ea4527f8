"""Where a cluster keeps its files, and how what a killed one left is found and removed.

State (keys, etcd's data, images) lives in a folder of the system's temporary directory that is
locked for as long as its cluster's process lives: a folder whose lock is free is abandoned. Logs
live in the project's `.tools/logs/`, so that they survive the cluster.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from typing import IO

from kube_harness import cgroups
from kube_harness.programs import CACHE

PREFIX = "vaco-cluster-"
KEPT_LOGS = 8


class Workplace:
    """The folders of one cluster. Creating one removes what abandoned clusters left."""

    def __init__(self, tier: str) -> None:
        sweep()
        self.id = secrets.token_hex(4)
        self.name = f"{PREFIX}{self.id}"
        self.state, self._lock = _locked_folder(self.name)
        self.logs = CACHE / "logs" / f"{time.strftime('%Y%m%dT%H%M%S')}-{tier}-{self.id}"
        self.logs.mkdir(parents=True)
        _forget_old_logs()

    def remove(self) -> None:
        """Remove the state and the control groups; the logs stay."""
        _remove(self.state)
        self._lock.close()


def sweep() -> None:
    """Remove the state of clusters whose process is gone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if folder.lstat().st_uid != os.getuid():
            continue
        with (folder / "lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            _remove(folder)


def _locked_folder(name: str) -> tuple[Path, IO[str]]:
    # Locked under another name first: a sweep never sees it unlocked.
    folder = Path(tempfile.mkdtemp(prefix="vaco-new-cluster-"))
    lock = (folder / "lock").open("a")
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return folder.rename(folder.with_name(name)), lock


def _remove(folder: Path) -> None:
    cgroups.remove(folder.name)
    shutil.rmtree(folder)


def _forget_old_logs() -> None:
    for old in sorted((CACHE / "logs").iterdir())[:-KEPT_LOGS]:
        shutil.rmtree(old)
