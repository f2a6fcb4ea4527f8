"""`python -m vaco_lab`: run a matrix of training runs, and write its result page."""

import argparse
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vaco.arguments import positive
from vaco.errors import EXIT_FAILURE, EXIT_OK, EXIT_PERMANENT, UserError

if TYPE_CHECKING:
    from vaco_lab.cell import Cell
    from vaco_lab.store import Store

EXIT_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (see `vaco.errors`)."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = _parser().parse_args(given)
    # `vaco bench` says how it was called itself.
    options.command_line = options.command_line or shlex.join(["python", "-m", "vaco_lab", *given])
    try:
        return {"lag": _lag, "report": _report}[options.command](options)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return EXIT_PERMANENT
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; the same command goes on\n")
        return EXIT_INTERRUPTED


def _lag(options: argparse.Namespace) -> int:
    from vaco_lab.beforehand import check_environments, few_versions
    from vaco_lab.matrix import cells_of, load_matrix
    from vaco_lab.pool import run_cells
    from vaco_lab.provenance import Provenance
    from vaco_lab.store import Store

    matrix = load_matrix(options.matrix)
    cells = cells_of(matrix, str(options.matrix))
    store = Store(options.out or Path("runs") / "bench" / matrix.name)
    # Before hours are spent: rows are read at the end as well.
    store.read(cells)
    for told in few_versions(cells):
        sys.stderr.write(f"warning: {told}\n")
    waiting = [cell for cell in cells if not store.is_finished(cell)]
    check_environments(waiting, str(options.matrix))
    with store.locked():
        store.keep(matrix)
        try:
            provenance = Provenance.here(options.workers, options.command_line)
            failed = run_cells(store, cells, options.workers, provenance, matrix.cell_minutes)
        finally:
            count = store.write_tables(cells)
    sys.stdout.write(f"{count} of {len(cells)} cells are in {store.root / 'table.csv'}\n")
    _tell_unclaimed(store, cells)
    if failed:
        of_them = "1 cell failed" if len(failed) == 1 else f"{len(failed)} cells failed"
        sys.stderr.write(f"{of_them}; the same command runs what failed again\n")
    return EXIT_FAILURE if failed else EXIT_OK


def _report(options: argparse.Namespace) -> int:
    from vaco_lab.page import write_page
    from vaco_lab.store import Store

    store = Store(options.directory)
    matrix, cells = store.load()
    store.write_tables(cells)
    _tell_unclaimed(store, cells)
    sys.stdout.write(f"{write_page(store, options.out)}\n")
    shutil.copyfile(store.root / "table.csv", options.out / f"{matrix.name}.csv")
    return EXIT_OK


def _tell_unclaimed(store: "Store", cells: "Sequence[Cell]") -> None:
    count = store.unclaimed(cells)
    if count:
        files = "there is 1 file" if count == 1 else f"there are {count} files"
        sys.stderr.write(
            f"{files} in {store.root / 'rows'} of no cell of this matrix: it was edited, "
            "or results of this version differ\n"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vaco_lab", description=__doc__)
    parser.add_argument("--command-line", default="", help=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True)
    lag = commands.add_parser("lag", help="run a matrix; the same command again goes on")
    lag.add_argument("matrix", type=Path, help="YAML file")
    lag.add_argument("--out", type=Path, help="directory; default: runs/bench/<name>")
    lag.add_argument("--workers", type=positive, default=os.cpu_count() or 1, help="cells at once")
    report = commands.add_parser("report", help="write a matrix's result page")
    report.add_argument("directory", type=Path, help="of the matrix")
    report.add_argument("--out", type=Path, default=Path("docs/results"), help="where to")
    return parser


if __name__ == "__main__":
    sys.exit(main())
