"""Tables of figures: a row an entry, a cell for all of its turns."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median

from benchmarks.peers.entries import ENTRIES, Entry, Settings
from benchmarks.peers.memory import RSS
from benchmarks.peers.records import Record
from benchmarks.peers.run import THRESHOLD, Figures

VACO = "vaco"
ONE_BY_ONE = "vaco, one by one"
# Of fewer rounds there is no ratio: turns of one entry can differ as much as two entries do.
RATIO_ROUNDS = 3

Take = Callable[[Figures], float | None]
Form = Callable[[float], str]


def table(records: Sequence[Record], kind: str) -> str:
    """Make the table of a kind of run, one row an entry, in the order of `ENTRIES`."""
    head = ["", "runs in", "epochs per sample"]
    if kind == "own":
        head += [f"seconds to {THRESHOLD:.0f}", "over vaco", "env-steps to it"]
    head += ["env-steps/s trained", "over vaco"]
    if kind == "wide":
        head += [f"over {ONE_BY_ONE}"]
    head += ["peak memory, MiB"]
    rows = []
    for entry in ENTRIES:
        settings = entry.settings(kind)
        if settings is not None and (runs := turns_of(records, entry.name, kind)):
            rows.append([entry.name, _runs_in(settings), settings.epochs])
            if kind == "own":
                rows[-1] += _threshold_cells(entry, runs, turns_of(records, VACO, kind))
            rows[-1] += _speed_cells(runs, records, kind)
    return markdown(head, rows)


def _runs_in(settings: Settings) -> str:
    return "one process" if settings.alone else "several"


def _threshold_cells(entry: Entry, runs: Sequence[Record], base: Sequence[Record]) -> list[str]:
    """Time to the threshold, its ratio, steps to it."""
    if not is_published(entry):
        return ["none published", "", ""]
    ends = [_unreached(entry, run) for run in runs]
    seconds = _cell(
        [figure_of(run, seconds_to) for run in runs], lambda value: f"{value:.1f}", min, ends
    )
    steps = _cell([figure_of(run, steps_to) for run in runs], thousands, min, ["more"] * len(runs))
    return [seconds, _ratio(runs, base, seconds_to), steps]


def _speed_cells(runs: Sequence[Record], records: Sequence[Record], kind: str) -> list[str]:
    """Throughput, its ratios, memory."""
    bases = [VACO, ONE_BY_ONE] if kind == "wide" else [VACO]
    memory = _cell(
        [figure_of(run, peak_memory) for run in runs], lambda value: f"{value:,.0f}", min
    )
    resident = any(run.figures is not None and run.figures.memory == RSS for run in runs)
    return [
        _cell([figure_of(run, throughput) for run in runs], thousands, max),
        *(_ratio(runs, turns_of(records, base, kind), throughput) for base in bases),
        f"{memory}, RSS" if resident else memory,
    ]


def _ratio(runs: Sequence[Record], base: Sequence[Record], take: Take) -> str:
    """Give the median of the ratios within rounds; nothing where there is nothing to divide by."""
    of_base = {run.round: figure_of(run, take) for run in base}
    pairs = [(figure_of(run, take), of_base.get(run.round)) for run in runs]
    ratios = [
        over / under for over, under in pairs if over is not None and under and under < math.inf
    ]
    if len(ratios) < RATIO_ROUNDS:
        return f"n = {len(ratios)}" if ratios else ""
    middle = middle_of(ratios)
    return "more" if middle is None or middle == math.inf else f"{middle:.2g}"


def turns_of(records: Sequence[Record], entry: str, kind: str) -> list[Record]:
    """Give the turns of an entry and kind in the order of their rounds."""
    runs = [run for run in records if (run.entry, run.kind) == (entry, kind)]
    return sorted(runs, key=lambda run: run.round)


def is_published(entry: Entry) -> bool:
    """Whether its settings are published for CartPole: then there is a threshold to wait for."""
    return entry.own is not None and entry.own.steps is not None


def _unreached(entry: Entry, run: Record) -> str:
    """Say of a turn whether the harness stopped it before its publisher's run would have ended."""
    budget = entry.own.steps if entry.own is not None else None
    if run.figures is None or budget is None or run.figures.steps >= budget:
        return "not reached"
    return f"stopped at {thousands(run.figures.steps)} steps"


def figure_of(run: Record, take: Take) -> float | None:
    """Take a figure of a turn; None: it failed, or has no such figure."""
    return None if run.figures is None else take(run.figures)


def seconds_to(figures: Figures) -> float:
    """Not reached is longer than anything that was."""
    seconds = figures.seconds_to_threshold
    return math.inf if seconds is None else seconds


def steps_to(figures: Figures) -> float:
    """Environment steps trained until the threshold; infinite as its seconds are."""
    steps = figures.steps_to_threshold
    return math.inf if steps is None else steps


def throughput(figures: Figures) -> float | None:
    """Of the window; of the whole run where too few lines fell into the window."""
    if figures.steps_per_second is not None:
        return figures.steps_per_second
    return figures.steps / figures.seconds if figures.steps and figures.seconds else None


def peak_memory(figures: Figures) -> float:
    """MiB."""
    return figures.peak_mib


def thousands(value: float) -> str:
    """Write it in thousands, with a decimal below a hundred of them."""
    return f"{value / 1000:.1f} k" if value < 100_000 else f"{value / 1000:.0f} k"


def middle_of(values: Sequence[float | None]) -> float | None:
    """Give the median of what there is; infinite if it falls on what was not reached."""
    there = sorted(value for value in values if value is not None)
    if not there:
        return None
    return there[len(there) // 2] if math.inf in there else median(there)


def _cell(
    values: Sequence[float | None],
    form: Form,
    best: Callable[[Sequence[float]], float],
    ends: Sequence[str] = (),
) -> str:
    """Give the median in bold, the best, and in brackets every value in the order of rounds.

    Args:
        values: one a turn; None: it failed; infinite: not reached.
        form: for readers.
        best: `min` or `max`.
        ends: one a turn, what to say where it is not reached.

    """
    shown = []
    for at, value in enumerate(values):
        if value is None:
            shown.append("no figure")
        else:
            shown.append(form(value) if math.isfinite(value) else ends[at])
    middle = middle_of(values)
    if middle is None:
        return "no figure"
    if math.isfinite(middle):
        bold = form(middle)
    else:
        # Without where each turn was stopped.
        bold = next(end for value, end in zip(values, ends, strict=True) if value == math.inf)
        bold = bold.partition(" at ")[0]
    finite = [value for value in values if value is not None and math.isfinite(value)]
    told = f", best {form(best(finite))}" if len(finite) > 1 else ""
    return f"**{bold}**{told} ({', '.join(shown)})"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
