"""A matrix on the disk.

    matrix.yaml     what was asked for, with its base in full
    rows/KEY.json   one finished cell: its row, evaluations, curve and TV by gradient step, and what
                    ran it
    runs/KEY/       the run directory of an `async` cell
    table.csv       a row for each finished cell, in the matrix's order
    curves.csv      their curves, thinned: a row for each point and each evaluation
    steps.csv       their TV by gradient step of a phase: mean and maximum over phases

A cell is finished when its file was renamed into place; the tables are made of these files alone.
"""

import csv
import fcntl
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from vaco.errors import UserError
from vaco.files import replace_file
from vaco.schema.loading import dump

from vaco_lab.cell import ASYNC, LABELS, Cell
from vaco_lab.evaluation import area, completed
from vaco_lab.matrix import Matrix, cells_of, load_matrix
from vaco_lab.measures import Record
from vaco_lab.provenance import Provenance
from vaco_lab.rows import parse_row

COLUMNS: Final = (
    *LABELS,
    *("outcome", "final_return", "auc"),
    *("env_steps", "updates", "seconds", "evaluation_seconds"),
    *("tv_mean", "tv_max", "tv_behaviour_mean"),
    *("tv_start_mean", "filtered_share", "over_threshold_share", "ess_mean", "kl_mean"),
    *("lag_p50", "lag_p95", "lag_max"),
)
_POINT: Final = (
    *("env_steps", "evaluation_return", "return_mean", "tv", "tv_max", "tv_behaviour"),
    *("tv_start", "filtered_share", "over_threshold_share", "ess", "kl", "entropy"),
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
            UserError: Someone does already, or it can be no directory.

        """
        make_directory(self._rows, self.root)
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

    def finish(self, cell: Cell, record: Record, provenance: Provenance) -> None:
        """Keep what came of a cell, whole or not at all."""
        date = datetime.now(UTC).isoformat(timespec="seconds")
        document = {
            "row": _labels(cell) | record.row(),
            "evaluations": record.evaluations,
            "curve": record.curve(),
            "tv_by_step": record.tv_by_step.rows(),
            "provenance": asdict(provenance) | {"date": date},
        }
        # What evaluations come to is reckoned when it is read: what stands for those that never
        # were may change.
        replace_file(self._file(cell), json.dumps(document, allow_nan=False), durable=True)

    def read(self, cells: Sequence[Cell]) -> list[dict[str, Any]]:
        """Return what came of those that are finished, in their order.

        Each has `row` (see `COLUMNS`), `evaluations` ([steps, mean return] each; of a run that
        diverged those too that it did not live to see), `curve`, `tv_by_step`, `provenance`, and
        `steps`: `tv_by_step` with the gradient step, from 0, before each.

        Raises:
            UserError: A file is damaged.

        """
        return [self._read(cell) for cell in cells if self.is_finished(cell)]

    def unclaimed(self, cells: Sequence[Cell]) -> int:
        """Return how many finished cells there are that are none of these."""
        names = {self._file(cell).name for cell in cells}
        return sum(path.name not in names for path in self._rows.glob("*.json"))

    def write_tables(self, cells: Sequence[Cell]) -> int:
        """Write the three tables; return how many cells are in them."""
        documents = self.read(cells)
        curves = (
            {name: d["row"][name] for name in LABELS} | point
            for d in documents
            for point in _whole_curve(d)
        )
        steps = (
            {**d["row"], "gradient_step": step, "tv_step_mean": mean, "tv_step_max": most}
            for d in documents
            for step, mean, most in d["steps"]
        )
        self._write("table.csv", COLUMNS, (document["row"] for document in documents))
        self._write("curves.csv", (*LABELS, *_POINT), curves)
        names = ("gradient_step", "tv_step_mean", "tv_step_max")
        self._write("steps.csv", (*LABELS, *names), steps)
        return len(documents)

    def _read(self, cell: Cell) -> dict[str, Any]:
        path = self._file(cell)
        try:
            document = parse_row(path.read_text(encoding="utf-8"))
            # Labels may have changed since, and what counts as 0.
            document["row"] |= _labels(cell)
            document["steps"] = _numbered(document["tv_by_step"], cell)
            return _judged(document, cell)
        except (OSError, ValueError) as error:
            cure = "Remove it; the cell runs again."
            raise UserError(str(path), f"is damaged ({error})", cure) from error

    def _write(self, name: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        replace_file(self.root / name, text.getvalue())

    def _file(self, cell: Cell) -> Path:
        return self._rows / f"{cell.key}.json"


def make_directory(path: Path, given: Path | None = None) -> None:
    """Make a directory of `--out`.

    Args:
        path: What is made; it may be there.
        given: What the user knows of; left out: the same.

    Raises:
        UserError: It cannot be made: a file is in the way, or somebody's rights.

    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        problem = f"{given or path} can be no directory: {error.strerror}"
        raise UserError("--out", problem, "Give a directory that you can write in.") from error


def _labels(cell: Cell) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in LABELS}


def _judged(document: dict[str, Any], cell: Cell) -> dict[str, Any]:
    """Return a document with the columns that come from its evaluations."""
    evaluations = [(int(steps), float(mean)) for steps, mean in document["evaluations"]]
    if document["row"]["outcome"] != "complete":
        evaluations = completed(evaluations, cell.evaluation, cell.budget, cell.low)
    judged = {
        "final_return": evaluations[-1][1],
        # Of a real run nothing is known between its two ends.
        "auc": None if cell.lag == ASYNC else area(evaluations, cell.budget),
    }
    return document | {"row": document["row"] | judged, "evaluations": evaluations}


def _numbered(tv_by_step: Sequence[Sequence[float]], cell: Cell) -> list[list[float]]:
    """Put its number before each gradient step: of over 256, only evenly spaced ones are kept."""
    algorithm = cell.job.spec.control.algorithm
    stride = -(-algorithm.epochs * algorithm.minibatches // max(1, len(tv_by_step)))
    return [[stride * index, mean, most] for index, (mean, most) in enumerate(tv_by_step)]


def _whole_curve(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the points of a curve with its evaluations, also those at which no point was kept."""
    points = {point["env_steps"]: point for point in document["curve"]}
    for steps, mean in document["evaluations"]:
        points[steps] = points.get(steps, {"env_steps": steps}) | {"evaluation_return": mean}
    return [points[steps] for steps in sorted(points)]
