"""The terms on which entries are measured: alone on the machine, of one commit, in one group each.

Linux gives each session an equal share of the cores (`kernel.sched_autogroup_enabled`). A program
that starts sessions of its own, as `vaco run` does, then has several shares where others have one.
So all processes of an entry are in one control group, which has one share whatever is in it, and
within it every thread counts alike but for the priorities that the entry itself gives.
"""

from __future__ import annotations

import fcntl
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from vaco.errors import UserError

# Directories of the cpu controller, versions 1 and 2, with the file of a group's share and that of
# a group that nobody changed.
CONTROLLERS = (
    (Path("/sys/fs/cgroup/cpu"), "cpu.shares", 1024),
    (Path("/sys/fs/cgroup"), "cpu.weight", 100),
)
# By how much a step of nice changes a share (sched(7)).
NICE_STEP = 1.25
# One for the machine: two runs at once would measure each other, whatever they write to.
LOCK = Path(tempfile.gettempdir()) / "vaco-peers.lock"
# What cannot change a figure. The results themselves are among it: they change after every turn.
APART = (":!docs", ":!tests", ":!benchmarks/results", ":!*.md")


@contextmanager
def alone(path: Path = LOCK) -> Iterator[None]:
    """Hold the lock of the machine's one measurement.

    Raises:
        UserError: another measurement runs.

    """
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                str(path), "another run measures on this machine", "Wait for its end."
            ) from None
        yield


@contextmanager
def one_group(
    nice: int, controllers: Sequence[tuple[Path, str, int]] = CONTROLLERS
) -> Iterator[Path | None]:
    """Make the control group of entries, for one after the other; only root may do it.

    Args:
        nice: as which its share stands against those of other programs.
        controllers: where groups can be made, the file of their share, and the usual share.

    Yields: its directory; None: it could not be made.

    Raises:
        UserError: `nice` is not 0 and there is no group to have it.

    """
    for directory, file, usual in controllers:
        group = directory / "vaco-peers"
        with suppress(OSError):
            group.mkdir(exist_ok=True)
            if (group / file).exists():
                (group / file).write_text(str(max(2, round(usual * NICE_STEP**-nice))))
                break
            group.rmdir()
    else:
        if nice:
            raise UserError("--nice", f"{nice} needs a control group", "Be root.")
        yield None
        return
    try:
        yield group
    finally:
        # What is dead may take a moment to leave; an empty group does no harm.
        with suppress(OSError):
            group.rmdir()


def commit(root: Path) -> str:
    """Name the last commit of what can change a figure; `-dirty`: there are changes since."""
    last = _git(root, "log", "-1", "--format=%h", "--", ".", *APART).strip()
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", *APART)
    return f"{last}-dirty" if changed else last


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
    ).stdout
