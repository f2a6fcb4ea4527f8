"""The result page of a matrix, in Markdown: what was lost comes first, then tables and plots."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vaco.errors import UserError
from vaco.files import replace_file

from vaco_lab.beforehand import few_versions
from vaco_lab.cell import Cell
from vaco_lab.comparison import Setting, settings_of
from vaco_lab.explanation import explanation
from vaco_lab.findings import advice, findings, stamp_of
from vaco_lab.matrix import Matrix
from vaco_lab.measures import TV_FLOOR
from vaco_lab.origin import origin
from vaco_lab.store import Store, make_directory
from vaco_lab.tables import measures_table, scores_table
from vaco_lab.verdict import verdict
from vaco_lab.what_ran import check_copy, what_ran, write_copy


def write_page(store: Store, out: Path) -> Path:
    """Write the page, its pictures and its matrix; return where the page is.

    What the author of findings is to know goes to standard error.

    Args:
        store: Of a matrix that was run, or part of it.
        out: Directory.

    Raises:
        UserError: No matrix was run there, nothing of it can be compared yet, or files of its
            author lie where the page would.

    """
    from vaco_lab.plots import draw

    matrix, cells = store.load()
    path = out / f"{matrix.name}.md"
    copy = out / f"{matrix.name}.yaml"
    _check_page(path, _findings(matrix))
    check_copy(copy)
    documents = store.read(cells)
    settings = list(settings_of(matrix, [document["row"] for document in documents]))
    if not settings:
        raise UserError(
            str(store.root), "no setting has a run of every entry yet", "Run more of the matrix."
        )
    make_directory(out)
    pictures = draw(matrix, settings, documents, out)
    replace_file(path, "\n".join(_page(matrix, cells, documents, settings, pictures)) + "\n")
    write_copy(matrix, copy)
    stamp = stamp_of([document["row"] for document in documents])
    sys.stderr.write(f"{advice(_findings(matrix), stamp)}\n")
    return path


def _page(
    matrix: Matrix,
    cells: Sequence[Cell],
    documents: Sequence[dict[str, Any]],
    settings: Sequence[Setting],
    pictures: Sequence[tuple[str, str]],
) -> Iterator[str]:
    yield f"# {matrix.title}\n"
    for told in few_versions(cells):
        yield f"**{told}** The ring never holds that many, so the lag is that of a smaller K.\n"
    yield from verdict(matrix, settings)
    yield ""
    yield from origin(cells, documents)
    name = matrix.name
    yield f"Its rows: [{name}.csv]({name}.csv); its matrix: [{name}.yaml]({name}.yaml)."
    stamp = stamp_of([document["row"] for document in documents])
    said = list(findings(_findings(matrix), stamp))
    if said:
        yield "\n## Findings\n"
        yield from said
    if matrix.notes:
        yield f"\n{matrix.notes.strip()}"
    for setting in settings:
        yield f"\n## {setting.label}\n"
        yield from scores_table(matrix, setting)
    yield "\n## Pictures\n"
    yield f"{' '.join(_of_pictures(settings, [file for file, _ in pictures]))}\n"
    for file, told in pictures:
        yield f"![{told}]({file})\n"
    yield "## In the runs\n"
    yield from measures_table(settings)
    yield "\n## How to read this"
    for paragraph in explanation(matrix, cells, documents):
        yield f"\n{paragraph}"
    yield "\n## What was run\n"
    yield from what_ran(matrix)


def _of_pictures(settings: Sequence[Setting], files: Sequence[str]) -> Iterator[str]:
    """Say what is drawn in the pictures that there are."""
    # Of one run a setting the intervals are points.
    bands = "; bands are their 95 % intervals" if any(s.seeds > 1 for s in settings) else ""
    yield f"Lines are interquartile means over runs, in profiles shares of runs{bands}."
    if any(file.endswith("-tv.png") for file in files):
        yield (
            f"TV under {TV_FLOOR:g} is drawn at {TV_FLOOR:g}: without lag the first gradient step"
            " of a phase has only that of rounding."
        )


def _check_page(path: Path, findings: Path) -> None:
    """Refuse to write the page over what its author wrote, which would then stand in the page."""
    try:
        same = path.samefile(findings)
    except OSError:
        # They need not be there yet.
        same = path.resolve() == findings.resolve()
    if same:
        raise UserError(
            "--out",
            f"the page would be {path}, which is the file of its findings",
            "Give another directory.",
        )


def _findings(matrix: Matrix) -> Path:
    """Return where the findings are or would be."""
    return Path(matrix.findings or f"{matrix.name}.md")
