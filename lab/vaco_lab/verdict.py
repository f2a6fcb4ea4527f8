"""How a result page begins: where the reference does not win, how sure that is, and what flags it.

Entries are told apart when the interval of the probability of improvement leaves out 1/2, and there
are runs enough for it to say something (see `Measure.told_apart`).
"""

from collections.abc import Iterator, Sequence
from typing import Final

from vaco_lab.comparison import AREA, FEW_RUNS, FINAL, LEAST_RUNS, Entry, Measure, Setting
from vaco_lab.matrix import Matrix
from vaco_lab.statistics import CONFIDENCE, Estimate

TOLD: Final = {FINAL: "final score", AREA: "area"}
_POINT: Final = "†"


def short(of: Estimate) -> str:
    """Return a figure with its interval, marked if that is a point."""
    return f"{of.value:.2f} ({of.low:.2f} to {of.high:.2f}){_POINT if of.is_point else ''}"


def verdict(matrix: Matrix, settings: Sequence[Setting]) -> Iterator[str]:
    """Return the lines that a page begins with."""
    lost = list(_losses(matrix, settings))
    if lost:
        yield (
            f"**Where {matrix.reference} is not the best.** In bold: told apart from it, because"
            f" the interval of the probability that {matrix.reference} is better leaves out 0.5.\n"
        )
        yield from lost
    else:
        yield (
            f"No entry has a higher interquartile mean than {matrix.reference} in any setting, to"
            " two decimals."
        )
    won = "; ".join(_wins(settings))
    yield f"\nWhere {matrix.reference} is told apart as the better one: {won or 'nowhere'}."
    yield f"\n{' '.join(_doubts(settings))}"


def _losses(matrix: Matrix, settings: Sequence[Setting]) -> Iterator[str]:
    for setting in settings:
        mine = next(e for e in setting.entries if e.label == matrix.reference)
        for column, measure in mine.measures.items():
            told = list(_ahead(setting.entries, column, mine))
            if told:
                ours = f"{matrix.reference} {short(measure.middle)}"
                yield f"- {setting.label}, {TOLD[column]}: {ours}; {'; '.join(told)}."


def _ahead(entries: Sequence[Entry], column: str, mine: Entry) -> Iterator[str]:
    """Return who has a higher score, as it is printed, and who is told apart without one."""
    higher, by_runs = [], []
    ours = _printed(mine.measures[column].middle.value)
    for entry in entries:
        measure = entry.measures[column]
        told = f"{entry.label} {short(measure.middle)}"
        if _printed(measure.middle.value) > ours:
            higher.append(f"**{told}**" if measure.better else told)
        elif measure.better and measure.reference_better is not None:
            chance = short(measure.reference_better)
            by_runs.append(f"**{told}, P({mine.label} better) {chance}**")
    if higher:
        yield f"higher: {', '.join(higher)}"
    if by_runs:
        yield f"better by P alone: {', '.join(by_runs)}"


def _printed(value: float) -> float:
    """Return a figure as `short` has it: what looks equal is not called higher."""
    return float(f"{value:.2f}")


def _wins(settings: Sequence[Setting]) -> Iterator[str]:
    """Return for each setting the entries that are worse, and in what if not in all."""
    for setting in settings:
        found = []
        for entry in setting.entries:
            columns = [TOLD[name] for name, measure in entry.measures.items() if measure.worse]
            if columns:
                all_of_them = len(columns) == len(entry.measures)
                found.append(entry.label + ("" if all_of_them else f" ({columns[0]} only)"))
        if found:
            yield f"{setting.label}: {', '.join(found)}"


def _doubts(settings: Sequence[Setting]) -> Iterator[str]:
    measures = [m for s in settings for e in s.entries for m in e.measures.values()]
    comparisons = [measure.reference_better for measure in measures if measure.reference_better]
    chance = (1 - CONFIDENCE) * len(comparisons)
    by_chance = f": were all equal, about {chance:.0f} or more would be told apart"
    count = len(comparisons)
    told = "This is 1 comparison" if count == 1 else f"These are {count} comparisons"
    yield f"{told}, not corrected for their number{by_chance if chance >= 1 else ''}."
    few = [setting for setting in settings if setting.seeds < FEW_RUNS]
    if few:
        where = ", ".join(f"{setting.label}: {setting.seeds}" for setting in few)
        yield (
            f"**Under {FEW_RUNS} seeds ({where}): intervals are too narrow there, and being told"
            f" apart means little; under {LEAST_RUNS}, or by an interval of P that is a point,"
            " nothing is told apart.**"
        )
    if any(_points(measure) for measure in measures):
        yield (
            f"{_POINT} The interval is a point: all runs went one way or ended alike, so the"
            " bootstrap cannot say how sure it is."
        )


def _points(measure: Measure) -> bool:
    better = measure.reference_better
    return measure.middle.is_point or (better is not None and better.is_point)
