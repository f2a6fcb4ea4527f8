"""The memory of a process, with what it shares divided among those that share it."""

from __future__ import annotations

from pathlib import Path

import psutil

PSS, RSS = "PSS", "RSS"
_KIB = 2**10


def memory(process: psutil.Process) -> tuple[int, str]:
    """Give the bytes that a process holds, and by which count.

    `PSS` divides shared pages by how many processes share them. Where the kernel does not tell it,
    `RSS` counts them whole for each.

    Raises:
        psutil.NoSuchProcess: it has ended.

    """
    try:
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        return _KIB * pss_kib(rollup), PSS
    except (OSError, ValueError):
        held: int = process.memory_info().rss
        # One that is ending holds nothing and has no such file.
        return held, RSS if held else PSS


def pss_kib(rollup: str) -> int:
    """Read the line `Pss:` of `/proc/<pid>/smaps_rollup`.

    Raises:
        ValueError: there is none.

    """
    for line in rollup.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise ValueError("no line Pss:")
