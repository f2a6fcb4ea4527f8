"""The page of a comparison, from the document that the harness writes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peers.entries import ENTRIES, KINDS, Entry
from benchmarks.peers.run import EPISODES, THRESHOLD, Figures

VACO = "vaco"
NOTES = Path(__file__).with_name("notes.md")


@dataclass(frozen=True, slots=True)
class Record:
    """A turn of an entry: its figures or why there are none."""

    entry: str
    kind: str
    seed: int
    figures: Figures | None
    error: str | None

    def of(self, entry: Entry, kind: str) -> bool:
        """Whether it is a turn of this entry and kind."""
        return (self.entry, self.kind) == (entry.name, kind)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Record:
        """Read it as `dataclasses.asdict` made it."""
        figures = document["figures"]
        return cls(**{**document, "figures": None if figures is None else Figures(**figures)})


def page(document: Mapping[str, Any]) -> str:
    """Make the page of a run of the harness."""
    records = [Record.read(record) for record in document["records"]]
    machine, limits = document["machine"], document["limits"]["own"]
    commands = ", then ".join(f"`{command}`" for command in document["commands"])
    where = (
        f"{commands} on {machine['date']}, commit {machine['commit']}; "
        f"{machine['cores']} cores ({machine['processor']}), {machine['memoryGiB']} GiB, no GPU, "
        f"Python 3.11. {_load(document.get('load', []), machine['cores'])}"
    )
    rules = (
        f"Own settings: until a mean return of {THRESHOLD:.0f} over {EPISODES} episodes, at most "
        f"{limits['threshold']:.0f} s. Throughput: from second {limits['warmup']:.0f} to second "
        f"{limits['warmup'] + limits['window']:.0f}. In brackets: every turn."
    )
    parts = [
        "# vaco beside its peers",
        *_losses(records),
        f"{where} {rules}",
        *document.get("remarks", []),
        "## Own settings",
        table(records, "own"),
        "## The same for all: 256 environments, one epoch",
        table(records, "wide"),
        *_failures(records),
        "## What to know about these figures",
        NOTES.read_text().strip(),
        "## Settings and versions",
        *(_settings(document["versions"], kind) for kind in KINDS),
    ]
    return "\n\n".join(parts) + "\n"


def _losses(records: Sequence[Record]) -> list[str]:
    """Say first where vaco's median is not the best."""
    measures: list[tuple[str, Callable[[Figures], float | None], int, Callable[[float], str]]] = [
        (f"seconds to {THRESHOLD:.0f}", _seconds, 1, lambda value: f"{value:.1f}"),
        ("env-steps to it", _steps, 1, _thousands),
        ("env-steps/s trained", _speed, -1, _thousands),
        ("peak memory, MiB", _peak, 1, lambda value: f"{value:,.0f}"),
    ]
    lines = []
    for kind in KINDS:
        for told, take, sign, form in measures[0 if kind == "own" else 2 :]:
            middles = {
                entry.name: _middle([_take(run, take) for run in records if run.of(entry, kind)])
                for entry in ENTRIES
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
                lines.append(f"- {kind}, {told}: {', '.join(better)}; vaco {form(base)}.")
    return ["**Where vaco is not the best, by medians:**", "\n".join(lines)] if lines else []


def _load(load: Sequence[float], cores: int) -> str:
    """Say how busy the machine was; more than twice its cores is more than the entries make."""
    if not load:
        return ""
    told = f"Load average {load[0]:.0f} to {load[-1]:.0f}"
    if load[-1] <= 2 * cores + 2:
        return f"{told}."
    return (
        f"**{told}: other programs ran too, so the figures are lower than the machine's, and "
        f"entries of several processes may lose more than those of one.**"
    )


def table(records: Sequence[Record], kind: str) -> str:
    """Make the table of a kind of run, one row an entry, in the order of `ENTRIES`."""
    head = ["", "epochs per sample", "env-steps/s trained", "over vaco", "peak memory, MiB"]
    if kind == "own":
        head[2:2] = [f"seconds to {THRESHOLD:.0f}", "over vaco", "env-steps to it"]
    rows = []
    for entry in ENTRIES:
        if runs := [each for each in records if each.of(entry, kind)]:
            row = _row(runs, [each for each in records if (each.entry, each.kind) == (VACO, kind)])
            settings = entry.settings(kind)
            epochs = "" if settings is None else settings.epochs
            rows.append([entry.name, epochs, *(row if kind == "own" else row[3:])])
    return _table(head, rows)


def _row(runs: Sequence[Record], base: Sequence[Record]) -> list[str]:
    """Time, its ratio, steps, throughput, its ratio, memory."""

    def cell(take: Callable[[Figures], float | None], form: Callable[[float], str]) -> str:
        return _median([_take(run, take) for run in runs], form)

    def ratio(take: Callable[[Figures], float | None]) -> str:
        of_base = {run.seed: _take(run, take) for run in base}
        pairs = [(_take(run, take), of_base.get(run.seed)) for run in runs]
        ratios = [over / under for over, under in pairs if over is not None and under]
        finite = [each for each in ratios if math.isfinite(each)]
        if len(finite) <= len(ratios) / 2:
            return "" if not ratios else "more"
        return f"{median(ratios):.2g}"

    return [
        cell(_seconds, lambda value: f"{value:.1f}"),
        ratio(_seconds),
        cell(_steps, _thousands),
        cell(_speed, _thousands),
        ratio(_speed),
        cell(_peak, lambda value: f"{value:,.0f}"),
    ]


def _take(run: Record, take: Callable[[Figures], float | None]) -> float | None:
    return None if run.figures is None else take(run.figures)


def _seconds(figures: Figures) -> float:
    """Not reached is longer than anything that was."""
    seconds = figures.seconds_to_threshold
    return math.inf if seconds is None else seconds


def _steps(figures: Figures) -> float:
    steps = figures.steps_to_threshold
    return math.inf if steps is None else steps


def _speed(figures: Figures) -> float | None:
    """Of the window; of the whole run where too few lines fell into the window."""
    if figures.steps_per_second is not None:
        return figures.steps_per_second
    return figures.steps / figures.seconds if figures.steps and figures.seconds else None


def _peak(figures: Figures) -> float:
    return figures.peak_mib


def _thousands(value: float) -> str:
    return f"{value / 1000:.1f} k" if value < 100_000 else f"{value / 1000:.0f} k"


def _middle(values: Sequence[float | None]) -> float | None:
    there = sorted(value for value in values if value is not None)
    if not there:
        return None
    return there[len(there) // 2] if math.inf in there else median(there)


def _median(values: Sequence[float | None], form: Callable[[float], str]) -> str:
    """Give the median in bold and, in brackets, every value in the order of turns."""

    def shown(value: float | None) -> str:
        if value is None:
            return "no figure"
        return form(value) if math.isfinite(value) else "not reached"

    middle = _middle(values)
    return (
        "no figure" if middle is None else f"**{shown(middle)}** ({', '.join(map(shown, values))})"
    )


def _failures(records: Sequence[Record]) -> list[str]:
    """Say what was not reached, with the best that was, and what failed, with its error."""
    lines = []
    for run in records:
        at = f"- {run.entry}, {run.kind}, seed {run.seed}: "
        if run.figures is None:
            lines.append(f"{at}failed: `{(run.error or '').splitlines()[0]}`")
        elif run.kind == "own" and run.figures.seconds_to_threshold is None:
            best = run.figures.best_return
            lines.append(
                f"{at}not reached in {run.figures.seconds:.0f} s and {run.figures.steps:,} steps; "
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
    return _table(head, rows)


def _versions(entry: Entry, versions: Mapping[str, str]) -> str:
    names = (entry.distribution, "torch", "gymnasium")
    return ", ".join(f"{name} {versions.get(name, '?')}" for name in names)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
