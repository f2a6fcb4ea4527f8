"""Where and when figures come from."""

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Self

_CODE = ("protos", "actor", "learner", "operator", "lab", "constraints.txt")


@dataclass(frozen=True, slots=True)
class Provenance:
    """What ran some cells.

    Attributes:
        commit: Of the code; `unknown` where it is not a git repository.
        dirty: Whether the code differed from that commit.
        machine: See `machine`.
        python: Version, like the next two.
        torch: Its version.
        numpy: Its version.
        workers: Cells that ran at once.
        command: As the user typed it.

    """

    commit: str
    dirty: bool
    machine: str
    python: str
    torch: str
    numpy: str
    workers: int
    command: str

    @classmethod
    def here(cls, workers: int, command: str) -> Self:
        """Return that of this process."""
        root = Path(__file__).parents[2]
        return cls(
            commit=_git(root, "rev-parse", "--short", "HEAD") or "unknown",
            dirty=bool(_git(root, "status", "--porcelain", "--", *_CODE)),
            machine=machine(),
            python=platform.python_version(),
            torch=metadata.version("torch"),
            numpy=metadata.version("numpy"),
            workers=workers,
            command=command,
        )


def _git(root: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    try:
        done = subprocess.run(  # noqa: S603
            command, cwd=root, capture_output=True, text=True, check=False
        )
    except OSError:
        return ""
    return done.stdout.strip()


def machine() -> str:
    """Return the machine and the versions in a sentence."""
    memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "gymnasium"))
    return (
        f"{os.cpu_count()} cores ({_processor()}), {memory} GiB, Python "
        f"{platform.python_version()}, {versions}"
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
