"""Where and when figures come from."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path


def commit() -> str:
    """Return the commit of the code that trains, `-dirty` if it differs; `unknown` elsewhere."""
    root = Path(__file__).parents[2]
    head = _git(root, "rev-parse", "--short", "HEAD")
    if not head:
        return "unknown"
    changed = _git(root, "status", "--porcelain", "--", "protos", "actor", "learner", "lab")
    return f"{head}-dirty" if changed else head


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
