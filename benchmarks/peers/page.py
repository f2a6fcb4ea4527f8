"""The page of a comparison, from the document that the harness writes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.peers.entries import ENTRIES, KINDS, Entry
from benchmarks.peers.records import Record
from benchmarks.peers.run import EPISODES, THRESHOLD
from benchmarks.peers.tables import (
    ONE_BY_ONE,
    RATIO_ROUNDS,
    VACO,
    Form,
    Take,
    figure_of,
    is_published,
    markdown,
    middle_of,
    peak_memory,
    seconds_to,
    steps_to,
    table,
    thousands,
    throughput,
    turns_of,
)

NOTES = Path(__file__).with_name("notes.md")


def page(document: Mapping[str, Any]) -> str:
    """Make the page of a run of the harness."""
    records = [Record.read(record) for record in document["records"]]
    limits = document["limits"]["own"]
    rules = (
        f"Own settings: until a mean return of {THRESHOLD:.0f} over {EPISODES} episodes, at most "
        f"{limits['threshold']:.0f} s. Throughput: from second {limits['warmup']:.0f} to second "
        f"{limits['warmup'] + limits['window']:.0f}. In bold the median; best: the least time, "
        "steps and memory, the most throughput; in brackets every turn. A ratio is the median of "
        f"the ratios of each round, and there is none of fewer than {RATIO_ROUNDS} rounds."
    )
    parts = [
        "# vaco beside its peers",
        *_losses(records),
        f"{_where(document, records)} {rules}",
        _contention(document),
        "## Own settings",
        table(records, "own"),
        "## The same for all: 256 environments, one epoch",
        _cores(records, document["machine"]["cores"]),
        table(records, "wide"),
        *_failures(records),
        "## What to know about these figures",
        NOTES.read_text().strip(),
        "## Settings and versions",
        *(_settings(document["versions"], kind) for kind in KINDS),
    ]
    return "\n\n".join(parts) + "\n"


def _where(document: Mapping[str, Any], records: Sequence[Record]) -> str:
    """Say by which commands, when, on what."""
    machine = document["machine"]
    commands = ", then ".join(f"`{command}`" for command in document["commands"])
    dates = sorted(record.date for record in records)
    between = f"{dates[0]} to {dates[-1]}" if dates else "no turn"
    load = _load([record.load for record in records], machine["cores"])
    return (
        f"{commands}; turns began {between}, commit {document['commit']}; {machine['cores']} cores "
        f"({machine['processor']}), {machine['memoryGiB']} GiB, no GPU, "
        f"Python {machine['python']}. {load}"
    )


def _contention(document: Mapping[str, Any]) -> str:
    """Say how entries of many processes stand beside those of one."""
    if not document["one_group"]:
        return (
            "**There was no control group for entries. With `kernel.sched_autogroup_enabled` an "
            "entry that starts sessions of its own, as `vaco run` does, has several shares of the "
            "cores against other programs where others have one.**"
        )
    return (
        "All processes of an entry were in one control group, which has one share of the cores "
        "against other programs, whatever sessions and however many threads the entry starts; "
        f"nice {document['nice']}."
    )


def _cores(records: Sequence[Record], cores: int) -> str:
    """Say which entries have one core: a ratio to others is not one of programs alone."""
    wide = {record.entry for record in records if record.kind == "wide"}
    alone = [entry.name for entry in ENTRIES if entry.wide.alone and entry.name in wide]
    if not alone:
        return f"All run in several processes on {cores} cores."
    return (
        f"**One process, so one core: {', '.join(alone)}. Several processes on {cores} cores: all "
        f"others.** How much is CartPole's vectorised form: compare with {ONE_BY_ONE}."
    )


def _losses(records: Sequence[Record]) -> list[str]:
    """Say first where vaco's median is not the best."""
    measures: list[tuple[str, Take, int, Form]] = [
        (f"seconds to {THRESHOLD:.0f}", seconds_to, 1, lambda value: f"{value:.1f}"),
        ("env-steps to it", steps_to, 1, thousands),
        ("env-steps/s trained", throughput, -1, thousands),
        ("peak memory, MiB", peak_memory, 1, lambda value: f"{value:,.0f}"),
    ]
    lines = []
    for kind in KINDS:
        for told, take, sign, form in measures[0 if kind == "own" else 2 :]:
            middles = {
                entry.name: middle_of(
                    [figure_of(run, take) for run in turns_of(records, entry.name, kind)]
                )
                for entry in ENTRIES
                if take not in (seconds_to, steps_to) or is_published(entry)
            }
            base = middles.get(VACO)
            better = [
                f"{name} {form(middle)}"
                for name, middle in middles.items()
                if not name.startswith(VACO)
                and middle is not None
                and base is not None
                and sign * middle < sign * base
            ]
            if better and base is not None:
                of_vaco = form(base) if math.isfinite(base) else "not there"
                lines.append(f"- {kind}, {told}: {', '.join(better)}; vaco {of_vaco}.")
    return ["**Where vaco is not the best, by medians:**", "\n".join(lines)] if lines else []


def _load(load: Sequence[float], cores: int) -> str:
    """Say how busy the machine was; more than twice its cores is more than the entries make."""
    if not load:
        return ""
    told = f"Load average before turns {min(load):.1f} to {max(load):.1f}"
    if max(load) <= 2 * cores + 2:
        return f"{told}."
    return (
        f"**{told}: other programs ran too, so the figures are lower than the machine's, and "
        f"entries of several processes may lose more than those of one.**"
    )


def _failures(records: Sequence[Record]) -> list[str]:
    """Say what was not reached, with the best that was, and what failed, with its error."""
    entries = {entry.name: entry for entry in ENTRIES}
    lines = []
    for run in records:
        at = f"- {run.entry}, {run.kind}, round {run.round}: "
        if run.figures is None:
            lines.append(f"{at}failed: `{(run.error or '').splitlines()[0]}`")
        elif (
            run.kind == "own"
            and is_published(entries[run.entry])
            and run.figures.seconds_to_threshold is None
        ):
            best, own = run.figures.best_return, entries[run.entry].own
            lines.append(
                f"{at}not reached in {run.figures.seconds:.0f} s and {run.figures.steps:,} steps "
                f"of {0 if own is None else own.steps:,}; "
                f"best mean return {'none' if best is None else f'{best:.0f}'}"
            )
    return ["## Not reached, failed", "\n".join(lines)] if lines else []


def _settings(versions: Mapping[str, Mapping[str, str]], kind: str) -> str:
    head = [kind, "version", "settings from", "network", "environments"]
    head += ["batch, minibatch", "epochs", "processes"]
    rows = []
    for entry in ENTRIES:
        if (chosen := entry.settings(kind)) is None:
            continue
        rows.append(
            [
                f"{entry.name}, {entry.algorithm}",
                _versions(entry, versions.get(entry.name, {})),
                chosen.source,
                chosen.network,
                chosen.environments,
                chosen.batch,
                chosen.epochs,
                chosen.processes,
            ]
        )
    return markdown(head, rows)


def _versions(entry: Entry, versions: Mapping[str, str]) -> str:
    names = (entry.distribution, "torch", "gymnasium")
    return ", ".join(f"{name} {versions.get(name, '?')}" for name in names)
