"""A real run: `vaco run` with its processes, whose lag is measured and not imposed."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import torch
from vaco.checkpoints import list_checkpoints
from vaco.errors import UserError
from vaco.job import dump_job, load_job
from vaco.metrics_file import Past, read_metrics
from vaco_actor.environments import probe_spaces
from vaco_policy.parameters import to_payload
from vaco_policy.policy import Policy
from vaco_policy.stored import read_checkpoint

from vaco_lab.cell import Cell
from vaco_lab.evaluator import Evaluator
from vaco_lab.measures import Record, point_of

# Of `vaco_learner`, in the status of a job that failed by it.
_DIVERGED: Final = "training diverged at version"
_LAST_LINES: Final = 8
_TERM_SECONDS: Final = 10.0
_LOCK_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.1


def run_measured(cell: Cell, directory: Path) -> Record:
    """Train the cell's job by `vaco run`, read what it measured, and evaluate its last policy.

    Args:
        cell: What to train.
        directory: Where; removed before, because a run that was cut off is not resumed: a restart
            would be in its figures.

    Returns:
        What came of it, `diverged` if it failed by that. Lags are counted over all of the run. It
        is evaluated before training and at its end.

    Raises:
        UserError: The run failed otherwise, and its directory is left to look at; or an earlier one
            in the directory is still going.

    """
    torch.set_num_threads(1)
    run = directory / "run"
    _wait_for_lock(run)
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir(parents=True)
    (directory / "manifest.yaml").write_text(dump_job(cell.job), encoding="utf-8")
    began = time.perf_counter()
    ended = _vaco_run(directory)
    seconds = time.perf_counter() - began
    status = _status(run)
    diverged = ended != 0 and _DIVERGED in str(status.get("message"))
    if ended != 0 and not diverged:
        raise _failure(directory / "output.txt", ended)
    record = _read(run / "metrics.jsonl")
    record.outcome = "diverged" if diverged else "complete"
    record.seconds = float(status.get("trainSeconds", seconds))
    _evaluate(cell, run, record)
    return record


def _vaco_run(directory: Path) -> int:
    """Run it to its end; return its exit status. It ends with this process, however that ends."""
    guard = [sys.executable, "-m", "vaco_operator.local._guard", str(os.getpid())]
    command = [sys.executable, "-m", "vaco_operator.cli", "run", str(directory / "manifest.yaml")]
    with (directory / "output.txt").open("wb") as output:
        process = subprocess.Popen(  # noqa: S603
            [*guard, *command, "--run-dir", str(directory / "run")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            return process.wait()
        finally:
            _end(process, directory / "run")


def _end(process: subprocess.Popen[bytes], run: Path) -> None:
    """End a run that has not ended, and wait until nobody writes into its directory any more."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(_TERM_SECONDS)
    except subprocess.TimeoutExpired:
        # Its learner and actors are killed by the kernel with it.
        process.kill()
        process.wait()
    _wait_for_lock(run)


def _wait_for_lock(run: Path) -> None:
    """Wait until no runner and no learner lives in a run directory: they hold its lock.

    Raises:
        UserError: One does for too long.

    """
    path = run / "run.lock"
    if not path.exists():
        return
    give_up = time.monotonic() + _LOCK_SECONDS
    with path.open("rb") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                if time.monotonic() > give_up:
                    cure = "End it; the same command runs the cell again."
                    raise UserError(str(run), "an earlier run is still going", cure) from error
                time.sleep(_POLL_SECONDS)
            else:
                return


def _status(run: Path) -> dict[str, Any]:
    """Return the status that a run left; empty if it did not come that far."""
    path = run / "status.json"
    status: dict[str, Any] = json.loads(path.read_bytes()) if path.is_file() else {}
    return status


def _failure(output: Path, ended: int) -> UserError:
    lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    said = "\n".join(f"    {line}" for line in lines[-_LAST_LINES:])
    return UserError(
        str(output),
        f"`vaco run` ended with status {ended}, and its last words are:\n{said}",
        "Mend that; the same command runs the cell again.",
    )


def _read(metrics: Path) -> Record:
    past, record = Past(), Record()
    for line in read_metrics(metrics):
        past.take(line)
    for update in past.updates:
        record.points.append(point_of(update["env_steps"], update["return_mean"], update))
        record.tv_by_step.add(update["tv_per_step"])
    record.lags = Counter(past.lags())
    return record


def _evaluate(cell: Cell, run: Path, record: Record) -> None:
    """Evaluate what it began with, and what it ended with: its last checkpoint is of its end."""
    spec = cell.job.spec
    shape, spaces = spec.control.policy, probe_spaces(spec.control.task)
    evaluator = Evaluator(cell, spaces)
    untrained = to_payload(Policy(shape, spaces, spec.seed))
    record.evaluations.append((0, evaluator.mean_return(untrained)))
    if record.outcome == "complete":
        newest = list_checkpoints(run / "checkpoints")[-1]
        stored = read_checkpoint(newest, shape, load_job(run / "job.yaml").metadata.uid)
        last = record.points[-1].env_steps
        record.evaluations.append((last, evaluator.mean_return(stored.payload)))
    record.evaluation_seconds = evaluator.seconds
