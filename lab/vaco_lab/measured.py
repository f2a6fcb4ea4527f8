"""A real run: `vaco run` with its processes, whose lag is measured and not imposed."""

import ctypes
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from vaco.errors import UserError
from vaco.job import dump_job
from vaco.metrics_file import Past, read_metrics

from vaco_lab.cell import Cell
from vaco_lab.measures import Record, point_of

_PR_SET_PDEATHSIG = 1
# Loaded here, because little is safe between fork and exec.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def run_measured(cell: Cell, directory: Path) -> Record:
    """Train the cell's job by `vaco run` and read what it measured.

    Args:
        cell: What to train.
        directory: Where; removed before, because a run that was cut off is not resumed: a restart
            would be in its figures.

    Returns:
        What came of it. Its TV per gradient step is not kept, and lags are counted over all of the
        run.

    Raises:
        UserError: The run failed; its directory is left to look at.

    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    manifest, run = directory / "manifest.yaml", directory / "run"
    manifest.write_text(dump_job(cell.job), encoding="utf-8")
    began = time.perf_counter()
    with (directory / "output.txt").open("wb") as output:
        command = ["-m", "vaco_operator.cli", "run", str(manifest), "--run-dir", str(run)]
        done = subprocess.run(  # noqa: S603
            [sys.executable, *command],
            stdout=output,
            stderr=output,
            check=False,
            preexec_fn=_die_with_parent,
        )
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise UserError(
            str(directory / "output.txt"), f"`vaco run` ended with status {done.returncode}"
        )
    status = json.loads((run / "status.json").read_text(encoding="utf-8"))
    record = _read(run / "metrics.jsonl")
    record.seconds = float(status.get("trainSeconds", seconds))
    return record


def _read(metrics: Path) -> Record:
    past, record = Past(), Record()
    for line in read_metrics(metrics):
        past.take(line)
    for update in past.updates:
        record.points.append(point_of(update["env_steps"], update["return_mean"], update))
    record.lags = Counter(past.lags())
    return record


def _die_with_parent() -> None:
    """Have the kernel end this process with the one that started it, however that one ends."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
