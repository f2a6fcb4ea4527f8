"""The tables of a result page: scores for each setting, and what went on in the runs."""

from collections.abc import Iterator, Sequence
from statistics import fmean

import numpy as np

from vaco_lab.comparison import AREA, FINAL, Entry, Measure, Setting
from vaco_lab.matrix import Matrix
from vaco_lab.statistics import interquartile_mean
from vaco_lab.verdict import short

_NONE = "-"


def scores_table(matrix: Matrix, setting: Setting) -> Iterator[str]:
    """Return the scores of a setting's entries, a row for each, and what they are of."""
    yield _runs(setting) + "\n"
    better = f"P({matrix.reference} better)"
    titles = ["", "final score", better]
    if AREA in setting.entries[0].measures:
        titles += ["area", better]
    titles += [f"final return {name}" for name in setting.environments]
    yield from _head([*titles, "diverged"])
    for entry in setting.entries:
        yield _line(_scores(entry, setting.environments))


def measures_table(settings: Sequence[Setting]) -> Iterator[str]:
    """Return means over runs of what was measured in them, a row for each entry of a setting."""
    titles = ("TV", "TV max", "TV to start", "TV to β", "over threshold", "filtered", "ESS")
    yield from _head(["", "", *titles, "lag p50, p95", "versions", "seconds"])
    for setting in settings:
        for entry in setting.entries:
            yield _line([setting.label, *_measures(entry)])


def _runs(setting: Setting) -> str:
    """Say which runs the figures are of, and which not."""
    seeds = "1 seed" if setting.seeds == 1 else f"{setting.seeds} seeds"
    told = [f"{', '.join(setting.environments)}; {seeds} each."]
    if setting.missing:
        told.append(f"**Not in it, with too few runs yet: {', '.join(setting.missing)}.**")
    if setting.unused:
        runs = "1 finished run is" if setting.unused == 1 else f"{setting.unused} finished runs are"
        told.append(f"{runs} left out, until others have their seeds.")
    return " ".join(told)


def _scores(entry: Entry, environments: Sequence[str]) -> list[str]:
    columns = [entry.label]
    for measure in entry.measures.values():
        columns += [short(measure.middle), _probability(measure)]
    for name in environments:
        returns = [row[FINAL] for row in entry.rows if row["environment"] == name]
        columns.append(f"{interquartile_mean([np.asarray(returns)]):.0f}")
    columns.append(f"{entry.diverged} of {len(entry.rows)}")
    return columns


def _measures(entry: Entry) -> list[str]:
    def mean(column: str, form: str, factor: float = 1.0) -> str:
        known = entry.known(column)
        return format(factor * fmean(known), form) if known else _NONE

    most = entry.known("tv_max")
    return [
        entry.label,
        mean("tv_mean", ".3f"),
        f"{max(most):.3f}" if most else _NONE,
        mean("tv_start_mean", ".3f"),
        mean("tv_behaviour_mean", ".3f"),
        f"{mean('over_threshold_share', '.1f', 100)} %",
        f"{mean('filtered_share', '.1f', 100)} %",
        mean("ess_mean", ".2f"),
        f"{mean('lag_p50', '.0f')}, {mean('lag_p95', '.0f')}",
        mean("updates", ".0f"),
        mean("seconds", ".1f"),
    ]


def _probability(measure: Measure) -> str:
    if measure.reference_better is None:
        return ""
    told = short(measure.reference_better)
    return f"**{told}**" if measure.told_apart else told


def _head(titles: Sequence[str]) -> Iterator[str]:
    yield _line(titles)
    yield "|" + "---|" * len(titles)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
