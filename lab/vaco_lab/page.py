"""The result page of a matrix, in Markdown: what was lost comes first, then tables and plots."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vaco.errors import UserError
from vaco.files import replace_file

from vaco_lab.cell import Cell
from vaco_lab.comparison import Entry, Setting, settings_of
from vaco_lab.matrix import Matrix
from vaco_lab.provenance import machine
from vaco_lab.statistics import Estimate
from vaco_lab.store import Store


def write_page(store: Store, out: Path) -> Path:
    """Write the page and its pictures; return where the page is.

    Args:
        store: Of a matrix that was run, or part of it.
        out: Directory.

    Raises:
        UserError: No matrix was run there, or nothing of it can be compared yet.

    """
    from vaco_lab.plots import draw

    matrix, cells = store.load()
    documents = store.read(cells)
    settings = list(settings_of(matrix, [document["row"] for document in documents]))
    if not settings:
        raise UserError(
            str(store.root), "no setting has a run of every entry yet", "Run more of the matrix."
        )
    out.mkdir(parents=True, exist_ok=True)
    pictures = draw(matrix, settings, documents, out)
    path = out / f"{matrix.name}.md"
    replace_file(path, "\n".join(_page(matrix, cells, documents, settings, pictures)) + "\n")
    return path


def _page(
    matrix: Matrix,
    cells: Sequence[Cell],
    documents: Sequence[dict[str, Any]],
    settings: Sequence[Setting],
    pictures: Sequence[tuple[str, str]],
) -> Iterator[str]:
    yield f"# {matrix.title}\n"
    yield from _losses(matrix, settings)
    yield ""
    yield from _origin(matrix, cells, documents)
    if matrix.notes:
        yield f"\n{matrix.notes.strip()}"
    for setting in settings:
        yield f"\n## {setting.label}\n"
        yield from _table(matrix, setting)
    yield "\n## Pictures\n"
    for file, told in pictures:
        yield f"![{told}]({file})\n"
    yield from _explanation(matrix)


def _losses(matrix: Matrix, settings: Sequence[Setting]) -> Iterator[str]:
    """Say first where the reference does not win, and how sure that is."""
    lost = []
    for setting in settings:
        mine = next(e for e in setting.entries if e.label == matrix.reference)
        for what in ("final", "auc"):
            value = getattr(mine, what).value
            ahead = [e for e in setting.entries if getattr(e, what).value > value]
            if ahead:
                names = ", ".join(f"{e.label} {_short(getattr(e, what))}" for e in ahead)
                told = "final score" if what == "final" else "area under the curve"
                mine_told = _short(getattr(mine, what))
                lost.append(f"- {setting.label}, {told}: {names}; {matrix.reference} {mine_told}.")
    if lost:
        yield f"**Where {matrix.reference} is not the best:**\n"
        yield from lost
        yield "\nIntervals that overlap do not tell entries apart."
    else:
        yield f"No entry has a higher interquartile mean than {matrix.reference} in any setting."


def _origin(
    matrix: Matrix, cells: Sequence[Cell], documents: Sequence[dict[str, Any]]
) -> Iterator[str]:
    commits = ", ".join(sorted({document["commit"] for document in documents}))
    diverged = sum(document["row"]["outcome"] != "complete" for document in documents)
    yield (
        f"`vaco bench lag benchmarks/lag/{matrix.name}.yaml`, then `vaco bench report "
        f"runs/bench/{matrix.name}`; page of {datetime.now(UTC).date().isoformat()}; runs by commit"
        f" {commits}; {machine()}."
    )
    done = f"{len(documents)} of {len(cells)} runs of the matrix are finished"
    yield f"\n{done}; {diverged} diverged."
    if len(documents) < len(cells):
        yield (
            "**This page is of a part of the matrix.** The tables have the runs of those seeds that"
            " every entry has; the same commands complete it."
        )


def _table(matrix: Matrix, setting: Setting) -> Iterator[str]:
    titles = ["", "runs", "final score", "area under the curve", f"P({matrix.reference} better)"]
    titles += [
        "final return",
        "TV mean",
        "TV max",
        "TV to β",
        "filtered",
        "ESS",
        "lag p50, p95",
        "seconds",
    ]
    yield "| " + " | ".join(titles) + " |"
    yield "|" + "---|" * len(titles)
    for entry in setting.entries:
        yield "| " + " | ".join(_columns(entry)) + " |"


def _columns(entry: Entry) -> list[str]:
    return [
        entry.label,
        entry.runs,
        _short(entry.final),
        _short(entry.auc),
        _short(entry.better) if entry.better else "",
        _returns(entry),
        f"{entry.mean('tv_mean'):.3f}",
        f"{entry.most('tv_max'):.3f}",
        f"{entry.mean('tv_behaviour_mean'):.3f}",
        f"{100 * entry.mean('filtered_share'):.1f} %",
        f"{entry.mean('ess_mean'):.2f}",
        f"{entry.mean('lag_p50'):.0f}, {entry.mean('lag_p95'):.0f}",
        f"{entry.mean('seconds'):.1f}",
    ]


def _returns(entry: Entry) -> str:
    """Return the mean final return in each environment."""
    by: dict[str, list[float]] = {}
    for row in entry.rows:
        by.setdefault(row["environment"], []).append(row["final_return"])
    return ", ".join(f"{name} {sum(x) / len(x):.0f}" for name, x in by.items())


def _short(of: Estimate) -> str:
    return f"{of.value:.2f} ({of.low:.2f} to {of.high:.2f})"


def _explanation(matrix: Matrix) -> Iterator[str]:
    scales = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in matrix.scores.items())
    yield "## How to read this\n"
    yield (
        "Scores are returns scaled to 0 to 1" + (f" ({scales})" if scales else "") + ". The final"
        f" score is that of the mean return of the last {matrix.final_episodes} training episodes,"
        " the area that of the mean over all steps. Both are interquartile means over runs, with"
        " 95 % intervals by the bootstrap, stratified by environment; the unit is one training run"
        " (2000 repetitions). P is the probability that a run of the reference ends better than one"
        " of the row (Agarwal et al. 2021, arXiv 2108.13264). TV is against the filter's anchor, or"
        " against the policy that acted (β) where nothing is filtered; TV to β is that for all."
    )
    yield (
        "\nLag is imposed: each fragment is made with one of the last K versions, drawn uniformly."
        " The mechanism is ours. No setting was tuned for any of the algorithms. Seconds were taken"
        " beside whatever else the machine did. Columns and tables:"
        " [lag-laboratory.md](../lag-laboratory.md)."
    )
