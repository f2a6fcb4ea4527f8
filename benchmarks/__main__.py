"""Measure vaco's speed: `make bench`, or `python -m benchmarks [NAME ...]` for some of it.

Each benchmark is a function without arguments that returns its figures by name. The figures go to
the terminal and, under those names, to `benchmarks/results/latest.json`. Machines are shared and
noisy, so what can be compared is compared within one run and given as a ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path

RESULTS = Path(__file__).parent / "results" / "latest.json"
BENCHMARKS = ("trajectory", "cartpole", "halfcheetah")


def main() -> int:
    """Run the named benchmarks and write their figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (default: all)"
    )
    names = parser.parse_args().names or list(BENCHMARKS)
    if unknown := sorted(set(names) - set(BENCHMARKS)):
        parser.error(f"unknown benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")

    document = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    figures: dict[str, object] = document.get("figures", {})
    for name in names:
        print(f"== {name}", flush=True)
        measure: Callable[[], Mapping[str, object]] = import_module(f"benchmarks.{name}").measure
        for key, value in measure().items():
            figures[key] = value
            print(f"{key:48} {value}", flush=True)
        # Written after each one: a long run that is cut short keeps what it has measured.
        RESULTS.parent.mkdir(exist_ok=True)
        document = {"machine": machine(), "figures": dict(sorted(figures.items()))}
        RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    print(f"figures: {RESULTS.relative_to(Path.cwd())}")
    return 0


def machine() -> dict[str, object]:
    """Say where and when the figures were measured."""
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


if __name__ == "__main__":
    sys.exit(main())
