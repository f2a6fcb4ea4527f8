"""Measure vaco beside its peers, in one run on one machine: `python -m benchmarks.peers`.

Every peer has an environment of its own, made by uv from exact pins. Entries take turns, one each
in every round. A turn with their `own` settings gives the time to the threshold, throughput and
memory, one with `wide` settings throughput and memory. The figures go to
`benchmarks/results/peers.json` and the page to `docs/results/peers.md`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vaco.arguments import positive
from vaco.errors import EXIT_INTERRUPTED, UserError
from vaco.files import replace_file

from benchmarks.peers.entries import ENTRIES, KINDS, Entry
from benchmarks.peers.environments import interpreter, version
from benchmarks.peers.page import page
from benchmarks.peers.records import Record, begin, load, measured, put, save
from benchmarks.peers.run import ROOT, FailedError, Limits, measure
from benchmarks.peers.schedule import Schedule, limits_of
from benchmarks.peers.terms import alone, commit, one_group
from benchmarks.results_file import machine

RESULTS = ROOT / "benchmarks" / "results" / "peers.json"
PAGE = ROOT / "docs" / "results" / "peers.md"


def main() -> int:
    """Measure, write the figures, write the page."""
    options = _options()
    for number in (signal.SIGTERM, signal.SIGHUP):
        # So that the entry is ended.
        signal.signal(number, lambda *_: sys.exit(EXIT_INTERRUPTED))
    try:
        if not options.page:
            with alone(), one_group(options.nice) as group:
                _measure(options, group)
            if options.results != RESULTS:
                return 0
        replace_file(PAGE, page(load(RESULTS)))
    except UserError as error:
        print(f"benchmarks.peers: {error}", file=sys.stderr)
        return 1
    print(f"figures: {RESULTS.relative_to(ROOT)}, page: {PAGE.relative_to(ROOT)}")
    return 0


def _measure(options: argparse.Namespace, group: Path | None) -> None:
    limits = {
        "own": Limits(options.warmup, options.window, options.threshold_seconds),
        "wide": Limits(options.warmup, options.window, 0.0),
    }
    here = machine()
    terms = {
        "commit": commit(ROOT),
        # Date and commit are those of each turn.
        "machine": {name: here[name] for name in here if name not in ("date", "commit")},
        "limits": {kind: asdict(limit) for kind, limit in limits.items()},
        "one_group": group is not None,
        "nice": options.nice,
    }
    command = shlex.join(["python", "-m", "benchmarks.peers", *sys.argv[1:]])
    document = begin(options.results, command, terms, resume=options.resume)
    entries = [entry for entry in ENTRIES if entry.directory in options.entries]
    pythons = _interpreters(entries, options, document)
    ready = [entry for entry in entries if entry.name in pythons]
    schedule = Schedule(
        ready, options.kinds, options.rounds, limits, measured(document), 60 * options.minutes
    )
    told = "in one control group each" if group else "WITHOUT a control group: unequal shares"
    print(f"entries {told}; nice {options.nice}; commit {terms['commit']}", flush=True)
    for entry, kind, number in schedule.turns():
        if (now := commit(ROOT)) != document["commit"]:
            raise UserError(
                "commit",
                f"it was {document['commit']} when the measurement began, now it is {now}",
                f"Check {document['commit']} out and go on with --resume, or measure anew.",
            )
        print(f"{schedule.estimate()}: {entry.name}, {kind}, round {number}", flush=True)
        limit = limits_of(entry, kind, limits)
        record = _record(entry, kind, number, now, options.nice)
        record = _turn(record, entry, pythons[entry.name], limit, group)
        put(document, record)
        # Written after each one: a run that is cut short keeps what it has measured.
        save(options.results, document)
        print(f"  {record.figures or f'failed: {record.error}'}", flush=True)


def _interpreters(
    entries: list[Entry], options: argparse.Namespace, document: dict[str, Any]
) -> Mapping[str, Path]:
    """Find each entry's interpreter and versions; an entry without one is recorded as failed.

    Raises:
        UserError: figures that are there are of other versions.

    """
    pythons: dict[str, Path] = {}
    for entry in entries:
        try:
            python = interpreter(entry.directory)
        except RuntimeError as error:
            for kind in options.kinds:
                if entry.settings(kind) and (entry.name, kind, 0) not in measured(document):
                    put(document, _record(entry, kind, 0, document["commit"], options.nice, error))
            save(options.results, document)
            print(f"{entry.name}: no environment: {error}", flush=True)
            continue
        names = (entry.distribution, "torch", "gymnasium")
        versions = {name: version(python, name) for name in names}
        if versions != document["versions"].setdefault(entry.name, versions):
            raise UserError(
                str(options.results),
                f"figures of {entry.name} are of {document['versions'][entry.name]}, "
                f"its environment has {versions}",
                "Measure without --resume.",
            )
        pythons[entry.name] = python
    return pythons


def _turn(record: Record, entry: Entry, python: Path, limits: Limits, group: Path | None) -> Record:
    """Run an entry for its record."""
    command = [str(python), "-m", f"benchmarks.peers.{entry.directory}.train"]
    command += ["--settings", record.kind, "--seed", str(record.round), *entry.arguments]
    try:
        return replace(record, figures=measure(command, limits, group))
    except FailedError as error:
        return replace(record, error=str(error))


def _record(
    entry: Entry, kind: str, number: int, commit: str, nice: int, error: Exception | None = None
) -> Record:
    """Begin the record of a turn that begins now."""
    date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%MZ")
    told = None if error is None else str(error)
    load = round(os.getloadavg()[0], 1)
    return Record(entry.name, kind, number, None, told, commit, date, load, nice)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    names = sorted({entry.directory for entry in ENTRIES})
    parser.add_argument("--entries", nargs="+", choices=names, default=names, metavar="ENTRY")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND")
    parser.add_argument("--rounds", type=positive, default=3, help="turns of each entry and kind")
    parser.add_argument("--minutes", type=float, default=30.0, help="no round that would end later")
    parser.add_argument("--warmup", type=float, default=5.0, help="seconds before the window")
    parser.add_argument("--window", type=float, default=12.0, help="seconds of the window")
    parser.add_argument(
        "--threshold-seconds", type=float, default=70.0, help="the longest wait for the threshold"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="where figures are written")
    parser.add_argument(
        "--nice",
        type=int,
        default=0,
        choices=range(-20, 20),
        metavar="NICE",
        help="of each entry as a whole against other programs; needs root",
    )
    parser.add_argument(
        "--resume", action="store_true", help="keep the figures that are there, add what is missing"
    )
    parser.add_argument("--page", action="store_true", help="only write the page anew")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
