"""What is looked at before the first run: what would fail in all of them, or say nothing."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from vaco.errors import UserError
from vaco.job import dump_job

from vaco_lab.cell import ASYNC, Cell


def check_environments(cells: Sequence[Cell], source: str) -> None:
    """Make each environment of the cells once, as `vaco validate` does, and by it.

    Args:
        cells: That are to be run.
        source: Where the matrix comes from, for errors.

    Raises:
        UserError: One cannot be made.

    """
    distinct: dict[str, Cell] = {}
    for cell in cells:
        distinct.setdefault(cell.job.spec.task.model_dump_json(by_alias=True), cell)
    for cell in distinct.values():
        problem = _problem(cell)
        if problem:
            where = f"{source} ({cell.environment}, {cell.algorithm}, {cell.switch})"
            raise UserError(where, problem, "No cell was run.")


def few_versions(cells: Sequence[Cell]) -> Iterator[str]:
    """Return what is to be said of rings that never fill, of each K and number of versions once."""
    found: dict[tuple[int, int], None] = {}
    for cell in cells:
        versions = -(-cell.budget // cell.job.spec.learner.batch_size)
        if cell.lag != ASYNC and cell.lag > versions:
            found[cell.lag, versions] = None
    for lag, versions in found:
        about = "1 version" if versions == 1 else f"{versions} versions"
        yield (
            f"K = {lag}, but a run has about {about}: raise `stop.envSteps` or lower"
            " `learner.batchSize`."
        )


def _problem(cell: Cell) -> str:
    """Return what is wrong with the cell's environment, in a line; empty if it can be made."""
    with tempfile.TemporaryDirectory(prefix="vaco-") as folder:
        manifest = Path(folder) / "job.yaml"
        manifest.write_text(dump_job(cell.job), encoding="utf-8")
        # It makes the environment in one more process, and waits no longer than it should take.
        command = [sys.executable, "-m", "vaco_operator.cli", "validate", str(manifest)]
        done = subprocess.run(  # noqa: S603
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
        )
    if done.returncode == 0:
        return ""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    last = lines[-1] if lines else f"`vaco validate` ended with status {done.returncode}"
    return last.removesuffix(".")
