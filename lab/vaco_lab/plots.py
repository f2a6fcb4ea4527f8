"""The pictures of a result page, as PNG: in SVG they would be twice as large.

Lines are interquartile means over runs; bands are 95 % intervals by the bootstrap over runs.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from vaco.files import replace_file

from vaco_lab.cell import ASYNC, LABELS
from vaco_lab.comparison import FINAL, Entry, Setting
from vaco_lab.matrix import Matrix
from vaco_lab.measures import TV_FLOOR
from vaco_lab.statistics import (
    Array,
    Band,
    Scores,
    band,
    interquartile_curve,
    performance_profile,
)

_WIDTH: Final = 9.6
_HEIGHT: Final = 2.7
_DPI: Final = 100
_COLOURS: Final = 128
_SIZES: Final = {"title": 10, "label": 9, "tick": 8, "legend": 9}
MOST_THRESHOLDS: Final = 500
_SHORT: Final = 16
"""Characters of a label that lets six of them stand side by side."""
_BELOW: Final = "outside lower center"

Documents: TypeAlias = dict[tuple[Any, ...], dict[str, Any]]
Panel: TypeAlias = tuple[str, Callable[[Axes], None]]
"""A title, and what is drawn under it."""


def draw(
    matrix: Matrix,
    settings: Sequence[Setting],
    documents: Sequence[dict[str, Any]],
    out: Path,
) -> list[tuple[str, str]]:
    """Draw what the page shows; return file names and what they show."""
    by_row = {_key(d["row"]): d for d in documents}
    made = []
    for name, panels, told in (
        ("curves", _curves(settings, by_row), "Return of evaluations over environment steps"),
        ("profiles", _profiles(settings), "Share of runs whose final score is over a threshold"),
        ("tv", _steps(settings, by_row), "Total variation over the gradient steps of a phase"),
    ):
        shown = list(panels)
        if shown:
            file = f"{matrix.name}-{name}.png"
            _save(_figure(shown), out / file)
            made.append((file, told))
    return made


def _figure(panels: Sequence[Panel]) -> Figure:
    """Draw panels in two columns, or three if they are many, with one legend for all."""
    columns = min(2 if len(panels) <= 8 else 3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(_WIDTH, _HEIGHT * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, paint) in zip(grid.flat, panels, strict=False):
        axes.set_title(title, fontsize=_SIZES["title"])
        axes.tick_params(which="both", labelsize=_SIZES["tick"])
        axes.grid(alpha=0.3)
        paint(axes)
    lines, labels = grid.flat[0].get_legend_handles_labels()
    ncols = 6 if max(map(len, labels)) < _SHORT else 3
    figure.set_figheight(_HEIGHT * rows + 0.2 - (-len(labels) // ncols) * 0.2)
    figure.legend(lines, labels, loc=_BELOW, ncols=ncols, fontsize=_SIZES["legend"])
    return figure


def _save(figure: Figure, path: Path) -> None:
    """Write it with a palette: pages are kept in a repository, and this is a fourth of the size."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=_DPI)
    # The default method gives two thin lines one colour, because they are few pixels.
    image = Image.open(drawn).convert("RGB").quantize(_COLOURS, Image.Quantize.FASTOCTREE)
    written = io.BytesIO()
    image.save(written, "png", optimize=True)
    replace_file(path, written.getvalue())


def _curves(settings: Sequence[Setting], by_row: Documents) -> Iterator[Panel]:
    """Give a panel for each environment of each setting; real runs have no curve.

    Panels of one environment have one scale, so that settings can be compared by eye.
    """
    first: dict[str, Axes] = {}
    for setting in (s for s in settings if s.lag != ASYNC):
        for environment in setting.environments:

            def paint(axes: Axes, s: Setting = setting, name: str = environment) -> None:
                for number, entry in enumerate(s.entries):
                    rows = [row for row in entry.rows if row["environment"] == name]
                    grid, curves = _on_one_grid([by_row[_key(row)] for row in rows])
                    _line(axes, grid / 1000, _band(curves), entry, number)
                _name(axes, "thousand steps", "return")
                if first.setdefault(name, axes) is not axes:
                    axes.sharey(first[name])

            yield f"{environment}, {setting.label}", paint


def _on_one_grid(documents: Sequence[dict[str, Any]]) -> tuple[Array, Array]:
    """Return steps [points] and the returns of the runs' evaluations there [runs, points].

    Evaluations come after whole phases, so each run has its own steps.
    """
    runs = [document["evaluations"] for document in documents]
    grid = np.linspace(0, max(run[-1][0] for run in runs), len(runs[0]))
    return grid, np.stack([np.interp(grid, *np.asarray(run, np.float64).T) for run in runs])


def _profiles(settings: Sequence[Setting]) -> Iterator[Panel]:
    for setting in settings:

        def paint(axes: Axes, s: Setting = setting) -> None:
            every = np.concatenate([x for e in s.entries for x in e.measures[FINAL].scores])
            grid = thresholds(every)

            def shares(scores: Scores) -> Array:
                return performance_profile(scores, grid)

            for number, entry in enumerate(s.entries):
                scores = entry.measures[FINAL].scores
                found = band(shares, scores, np.random.default_rng(0))
                _line(axes, grid, found, entry, number, steps=True)
            _name(axes, "final score", "share of runs over it")
            axes.set_xlim(grid[0], grid[-1])
            axes.set_ylim(-0.02, 1.02)

        yield setting.label, paint


def thresholds(scores: Array) -> Array:
    """Return where shares of runs are to be known, a little beyond the scores at either end.

    A share falls at scores and nowhere else, so drawn in steps from score to score it is exact;
    evenly spaced thresholds stand for them if they are very many.
    """
    found = np.unique(scores)
    if len(found) > MOST_THRESHOLDS:
        found = np.linspace(found[0], found[-1], MOST_THRESHOLDS)
    beyond = 0.03 * (found[-1] - found[0]) or 0.03
    return np.concatenate([[found[0] - beyond], found, [found[-1] + beyond]])


def _steps(settings: Sequence[Setting], by_row: Documents) -> Iterator[Panel]:
    """Give a panel for each setting that kept them: its environments have the same steps."""
    for setting in settings:
        tables = {
            number: np.maximum(
                TV_FLOOR, _same_length([by_row[_key(row)]["tv_by_step"] for row in entry.rows])
            )
            for number, entry in enumerate(setting.entries)
        }

        def paint(axes: Axes, s: Setting = setting, kept: dict[int, Array] = tables) -> None:
            for number, table in kept.items():
                if table.size:
                    steps = np.arange(1, table.shape[1] + 1)
                    entry = s.entries[number]
                    colour = _line(axes, steps, _band(table[:, :, 0]), entry, number)
                    axes.plot(steps, table[:, :, 1].max(axis=0), ":", linewidth=1, color=colour)
            # Maxima are up to a hundred times the means, and all are to be read.
            axes.set_yscale("log", nonpositive="mask")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            _name(axes, "gradient step of the phase; dotted: maximum", "TV")

        if any(table.size for table in tables.values()):
            yield setting.label, paint


def _line(
    axes: Axes, x: Array, found: Band, entry: Entry, number: int, *, steps: bool = False
) -> str:
    """Draw one entry, in the colour that it has in all panels; return that.

    With `steps` each value holds until the next x.
    """
    colour = f"C{number}"
    # One gradient step a phase is a point and no line.
    marker = "." if len(x) == 1 else ""
    style: Literal["steps-post", "default"] = "steps-post" if steps else "default"
    (line,) = axes.plot(x, found.value, label=entry.label, linewidth=1.5, color=colour)
    line.set(marker=marker, drawstyle=style)
    held: Literal["post"] | None = "post" if steps else None
    axes.fill_between(x, found.low, found.high, step=held, alpha=0.15, linewidth=0, color=colour)
    return colour


def _band(curves: Array) -> Band:
    return band(interquartile_curve, [curves], np.random.default_rng(0))


def _name(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=_SIZES["label"])
    axes.set_ylabel(y, fontsize=_SIZES["label"])


def _same_length(tables: Sequence[list[list[float]]]) -> Array:
    """Return [runs, steps, 2]; empty if nothing was kept. A run that diverged may have none."""
    length = max((len(table) for table in tables), default=0)
    return np.asarray([table for table in tables if len(table) == length and length], np.float64)


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in LABELS)
