"""The pictures of a result page, as PNG: in SVG they would be twice as large."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vaco_lab.comparison import Setting
from vaco_lab.matrix import Matrix
from vaco_lab.statistics import performance_profile

_COLUMNS = 4
_PANEL = (3.4, 2.6)
_DPI = 90
_THRESHOLDS = np.linspace(0, 1, 26)


def draw(
    matrix: Matrix,
    settings: Sequence[Setting],
    documents: Sequence[dict[str, Any]],
    out: Path,
) -> list[tuple[str, str]]:
    """Draw what the page shows; return file names and what they show."""
    by_row = {_key(d["row"]): d for d in documents}
    curves = _panels(settings, lambda axes, s: _curves(axes, s, by_row))
    profiles = _panels(settings, _profiles)
    steps = _panels(settings, lambda axes, s: _steps(axes, s, by_row))
    made = []
    for name, figure, told in (
        ("curves", curves, "Mean return over environment steps, mean of the runs"),
        ("profiles", profiles, "Share of runs whose final score is over a threshold"),
        ("tv", steps, "Total variation over the gradient steps of a phase, mean and maximum"),
    ):
        if not any(axes.has_data() for axes in figure.axes):
            # Real runs keep no TV by gradient step.
            continue
        file = f"{matrix.name}-{name}.png"
        figure.savefig(out / file, dpi=_DPI)
        made.append((file, told))
    return made


def _panels(settings: Sequence[Setting], paint: Callable[[Axes, Setting], None]) -> Figure:
    columns = min(_COLUMNS, len(settings))
    rows = -(-len(settings) // columns)
    size = (_PANEL[0] * columns, _PANEL[1] * rows + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(settings) :]:
        axes.set_visible(False)
    for axes, setting in zip(grid.flat, settings, strict=False):
        axes.set_title(setting.label, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        paint(axes, setting)
    if grid.flat[0].has_data():
        grid.flat[0].legend(fontsize=6)
    return figure


def _curves(axes: Axes, setting: Setting, by_row: dict[Any, dict[str, Any]]) -> None:
    """Draw the mean curve of the first environment that the setting has."""
    environment = setting.entries[0].rows[0]["environment"]
    for entry in setting.entries:
        runs = [by_row[_key(r)]["curve"] for r in entry.rows if r["environment"] == environment]
        known = [[p for p in run if p["return_mean"] is not None] for run in runs]
        known = [run for run in known if run]
        if not known:
            continue
        grid = np.linspace(0, max(run[-1]["env_steps"] for run in known), 40)
        lines = [_interpolated(grid, run) for run in known]
        axes.plot(grid / 1000, np.mean(lines, axis=0), label=entry.label, linewidth=1)
    axes.set_xlabel(f"{environment}, thousand steps", fontsize=7)
    axes.set_ylabel("return", fontsize=7)


def _interpolated(grid: Any, run: Sequence[dict[str, Any]]) -> Any:
    return np.interp(grid, [p["env_steps"] for p in run], [p["return_mean"] for p in run])


def _profiles(axes: Axes, setting: Setting) -> None:
    for entry in setting.entries:
        shares = performance_profile(entry.scores, _THRESHOLDS)
        axes.step(_THRESHOLDS, shares, label=entry.label, linewidth=1, where="post")
    axes.set_xlabel("final score", fontsize=7)
    axes.set_ylabel("share of runs over it", fontsize=7)
    axes.set_ylim(-0.02, 1.02)


def _steps(axes: Axes, setting: Setting, by_row: dict[Any, dict[str, Any]]) -> None:
    for entry in setting.entries:
        tables = _same_length([by_row[_key(row)]["tv_by_step"] for row in entry.rows])
        if tables.size:
            steps = np.arange(1, tables.shape[1] + 1)
            line = axes.plot(steps, tables[:, :, 0].mean(axis=0), label=entry.label, linewidth=1)
            colour = line[0].get_color()
            axes.plot(steps, tables[:, :, 1].max(axis=0), ":", linewidth=0.7, color=colour)
    axes.set_xlabel("gradient step of the phase; dotted: maximum", fontsize=7)
    axes.set_ylabel("TV", fontsize=7)


def _same_length(tables: Sequence[list[list[float]]]) -> Any:
    """Return [runs, steps, 2]; empty if nothing was kept."""
    length = max((len(table) for table in tables), default=0)
    return np.asarray([table for table in tables if len(table) == length and length])


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("environment", "algorithm", "switch", "lag", "seed"))
