"""A matrix on the disk.

    matrix.yaml     what was asked for, with its base in full
    rows/KEY.json   one finished cell: its row, curve and TV by gradient step
    runs/KEY/       the run directory of an `async` cell
    table.csv       a row for each finished cell, in the matrix's order
    curves.csv      their curves, thinned: a row for each point
    steps.csv       their TV by gradient step of a phase: mean and maximum over phases

A cell is finished when its file was renamed into place; the tables are made of these files alone.
"""

import csv
import fcntl
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from vaco.errors import UserError
from vaco.files import replace_file
from vaco.schema.loading import dump

from vaco_lab.cell import Cell
from vaco_lab.matrix import Matrix, cells_of, load_matrix
from vaco_lab.measures import Record

COLUMNS: Final = (
    *("environment", "algorithm", "switch", "lag", "seed", "outcome", "final_return", "auc"),
    *("env_steps", "updates", "seconds", "tv_mean", "tv_max", "tv_behaviour_mean"),
    *("tv_start_mean", "filtered_share", "over_threshold_share", "ess_mean", "kl_mean"),
    *("lag_p50", "lag_p95", "lag_max"),
)
_LABELS: Final = COLUMNS[:5]
_POINT: Final = (
    *("env_steps", "return_mean", "tv", "tv_max", "tv_behaviour", "tv_start", "filtered_share"),
    *("over_threshold_share", "ess", "kl", "entropy"),
)


class Store:
    """The directory of one matrix.

    Args:
        root: Where; made if it is not there.

    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._rows = root / "rows"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep others from running a matrix here.

        Raises:
            UserError: Someone does already.

        """
        self._rows.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    str(self.root), "a matrix is being run here", "Wait, or give another --out."
                ) from error
            yield

    def keep(self, matrix: Matrix) -> None:
        """Write what was asked for."""
        replace_file(self.root / "matrix.yaml", dump(matrix))

    def load(self) -> tuple[Matrix, list[Cell]]:
        """Read what was asked for.

        Raises:
            UserError: Nothing was.

        """
        path = self.root / "matrix.yaml"
        if not path.is_file():
            raise UserError(str(self.root), "no matrix was run here", "Run `vaco bench lag`.")
        matrix = load_matrix(path)
        return matrix, cells_of(matrix, str(path))

    def run_directory(self, cell: Cell) -> Path:
        """Return where a real run of the cell is written."""
        return self.root / "runs" / cell.key

    def is_finished(self, cell: Cell) -> bool:
        """Whether the cell needs to be run no more."""
        return self._file(cell).is_file()

    def finish(self, cell: Cell, record: Record, commit: str) -> None:
        """Keep what came of a cell, whole or not at all."""
        document = {
            "commit": commit,
            "row": _labels(cell) | record.row(),
            "curve": record.curve(),
            "tv_by_step": record.tv_by_step.rows(),
        }
        replace_file(self._file(cell), json.dumps(document, allow_nan=False), durable=True)

    def read(self, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """Return what came of those that are finished, in their order."""
        found: list[dict[str, Any]] = []
        for cell in cells:
            if self.is_finished(cell):
                document = json.loads(self._file(cell).read_text(encoding="utf-8"))
                # Labels may have changed since; what they stand for has not, or the key had.
                document["row"] |= _labels(cell)
                found.append(document)
        return found

    def write_tables(self, cells: Sequence[Cell]) -> int:
        """Write the three tables; return how many cells are in them."""
        documents = self.read(cells)
        curves = ({**d["row"], **point} for d in documents for point in d["curve"])
        steps = (
            {**d["row"], "gradient_step": step, "tv_step_mean": mean, "tv_step_max": most}
            for d in documents
            for step, (mean, most) in enumerate(d["tv_by_step"])
        )
        self._write("table.csv", COLUMNS, (document["row"] for document in documents))
        self._write("curves.csv", (*_LABELS, *_POINT), curves)
        names = ("gradient_step", "tv_step_mean", "tv_step_max")
        self._write("steps.csv", (*_LABELS, *names), steps)
        return len(documents)

    def _write(self, name: str, columns: Sequence[str], rows: Iterator[dict[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        replace_file(self.root / name, text.getvalue())

    def _file(self, cell: Cell) -> Path:
        return self._rows / f"{cell.key}.json"


def _labels(cell: Cell) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in _LABELS}
