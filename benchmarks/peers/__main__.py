"""Measure vaco beside its peers, in one run on one machine: `python -m benchmarks.peers`.

Every peer has an environment of its own, made by uv from exact pins. Entries take turns, once a
seed. A turn with their `own` settings gives the time to the threshold, throughput and memory, one
with `wide` settings throughput and memory. The figures go to `benchmarks/results/peers.json` and
the page to `docs/results/peers.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.peers.entries import ENTRIES, KINDS, Entry
from benchmarks.peers.environments import interpreter, version
from benchmarks.peers.page import Record, page
from benchmarks.peers.run import ROOT, FailedError, Limits, measure
from benchmarks.results_file import machine

RESULTS = ROOT / "benchmarks" / "results" / "peers.json"
PAGE = ROOT / "docs" / "results" / "peers.md"


def main() -> int:
    """Measure, write the figures, write the page."""
    options = _options()
    if not options.page:
        _measure(options)
        if options.results != RESULTS:
            return 0
    document = json.loads(RESULTS.read_text())
    PAGE.write_text(page(document))
    print(f"figures: {RESULTS.relative_to(ROOT)}, page: {PAGE.relative_to(ROOT)}")
    return 0


def _measure(options: argparse.Namespace) -> None:
    entries = [entry for entry in ENTRIES if entry.directory in options.entries]
    limits = {
        "own": Limits(options.warmup, options.window, options.threshold_seconds),
        "wide": Limits(options.warmup, options.window, 0.0),
    }
    document = _document(options, {kind: asdict(limit) for kind, limit in limits.items()})
    records, versions = document["records"], document["versions"]
    there = {(record["entry"], record["kind"], record["seed"]) for record in records}
    pythons: dict[str, Path] = {}
    for entry in entries:
        try:
            python = interpreter(entry.directory)
        except RuntimeError as error:
            records += [asdict(Record(entry.name, kind, 0, None, str(error))) for kind in KINDS]
            continue
        pythons[entry.name] = python
        names = (entry.distribution, "torch", "gymnasium")
        versions[entry.name] = {name: version(python, name) for name in names}
    ready = [entry for entry in entries if entry.name in pythons]
    for kind, seed in _rounds(options):
        for entry in ready:
            if entry.settings(kind) is None or (entry.name, kind, seed) in there:
                continue
            python, limit = pythons[entry.name], limits[kind]
            records.append(asdict(_turn(entry, kind, seed, python, limit, options.nice)))
            loads = [*document.get("load", []), round(os.getloadavg()[0], 1)]
            document["load"] = [min(loads), max(loads)]
            # Written after each one: a run that is cut short keeps what it has measured.
            options.results.write_text(json.dumps(document, indent=2) + "\n")


def _document(options: argparse.Namespace, limits: dict[str, Any]) -> dict[str, Any]:
    """Begin a document, or go on with the one that is there."""
    command = " ".join(["python -m benchmarks.peers", *sys.argv[1:]])
    if not options.resume:
        begun: dict[str, Any] = {"commands": [command], "machine": machine(), "limits": limits}
        return begun | {"versions": {}, "records": []}
    document: dict[str, Any] = json.loads(options.results.read_text())
    if document["limits"] != limits:
        raise SystemExit(f"{options.results} has other limits: {document['limits']}")
    document["commands"].append(command)
    return document


def _rounds(options: argparse.Namespace) -> Iterator[tuple[str, int]]:
    """Give kind and seed of each round while there is time for one as long as its last."""
    end = time.monotonic() + 60 * options.minutes
    lasted = dict.fromkeys(KINDS, 0.0)
    for seed in range(options.seeds):
        for kind in options.kinds:
            begin = time.monotonic()
            if begin + lasted[kind] > end:
                print(f"no time for {kind}, seed {seed}", flush=True)
                continue
            yield kind, seed
            lasted[kind] = time.monotonic() - begin


def _turn(entry: Entry, kind: str, seed: int, python: Path, limits: Limits, nice: int) -> Record:
    command = [str(python), "-m", f"benchmarks.peers.{entry.directory}.train"]
    command += ["--settings", kind, "--seed", str(seed), *entry.arguments]
    try:
        record = Record(entry.name, kind, seed, measure(command, limits, nice), None)
    except FailedError as error:
        record = Record(entry.name, kind, seed, None, str(error))
    print(f"{entry.name}, {kind}, seed {seed}: {record.figures or record.error}", flush=True)
    return record


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    names = sorted({entry.directory for entry in ENTRIES})
    parser.add_argument("--entries", nargs="+", choices=names, default=names, metavar="ENTRY")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND")
    parser.add_argument("--seeds", type=int, default=3, help="turns of each kind")
    parser.add_argument("--minutes", type=float, default=60.0, help="no round that would end later")
    parser.add_argument("--warmup", type=float, default=10.0, help="seconds before the window")
    parser.add_argument("--window", type=float, default=30.0, help="seconds of the window")
    parser.add_argument(
        "--threshold-seconds", type=float, default=150.0, help="the longest wait for the threshold"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where figures are written")
    parser.add_argument("--nice", type=int, default=0, help="of all entries; -10 needs root")
    parser.add_argument(
        "--resume", action="store_true", help="keep the figures that are there, add what is missing"
    )
    parser.add_argument("--page", action="store_true", help="only write the page anew")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
