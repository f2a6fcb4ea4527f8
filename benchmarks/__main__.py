"""Measure vaco's speed: `make bench`, or `python -m benchmarks [NAME ...]` for some of it.

Each benchmark is a function without arguments that returns its figures by name. The figures go to
the terminal and, under those names, to `benchmarks/results/latest.json`. Machines are shared and
noisy, so what can be compared is compared within one run and given as a ratio.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from benchmarks.results_file import machine, record

__all__ = ["machine", "main"]

RESULTS = Path(__file__).parent / "results" / "latest.json"
BENCHMARKS = ("trajectory", "weights", "cartpole", "halfcheetah")


def main() -> int:
    """Run the named benchmarks and write their figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)} (default: all)"
    )
    names = parser.parse_args().names or list(BENCHMARKS)
    if unknown := sorted(set(names) - set(BENCHMARKS)):
        parser.error(f"unknown benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")

    for name in names:
        print(f"== {name}", flush=True)
        measure: Callable[[], Mapping[str, object]] = import_module(f"benchmarks.{name}").measure
        figures = measure()
        for key, value in figures.items():
            print(f"{key:48} {value}", flush=True)
        # Written after each one: a long run that is cut short keeps what it has measured.
        record(RESULTS, name, figures)
    print(f"figures: {RESULTS.relative_to(Path.cwd())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
