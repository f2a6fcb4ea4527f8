"""The file of figures: for every benchmark its own, and where and when those were measured.

Benchmarks are measured on different days; each keeps the date, the commit and the machine of its
figures until it is measured again.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path


def record(path: Path, name: str, figures: Mapping[str, object]) -> None:
    """Replace what `path` holds of the benchmark `name`; what it holds of others stays."""
    document = json.loads(path.read_text()) if path.exists() else {}
    document[name] = {"machine": machine(), "figures": dict(sorted(figures.items()))}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(dict(sorted(document.items())), indent=2) + "\n")


def machine() -> dict[str, object]:
    """Say where and when figures are measured."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memoryGiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("torch", "grpcio", "gymnasium")},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
