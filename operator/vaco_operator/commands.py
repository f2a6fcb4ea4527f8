"""The commands about a run that is there, and about manifests."""

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Final

import typer
from rich.console import Console
from vaco.errors import UserError
from vaco.job import VACOJobStatus, load_job
from vaco.metrics_file import read_metrics

from vaco_operator.display.view import open_view
from vaco_operator.display.words import words_for
from vaco_operator.environment_check import Checked, check_environment
from vaco_operator.local.checkpoints import find_checkpoint
from vaco_operator.local.run_directory import RunDirectory
from vaco_operator.local.scale_request import ask_to_scale
from vaco_operator.status import Outcome, rested

RUNS: Final = Path("runs")
WATCH_SECONDS: Final = 1.0
FIRST_LINES: Final = 1000
_RUNNER_GONE: Final = Outcome(
    "Suspended", "RunnerGone", "Nothing runs here; vaco run of the same directory resumes it."
)


def find_run(name: str) -> RunDirectory:
    """Return the run directory called `name`: a path, or a job's name in `runs/`.

    Raises:
        UserError: there is none.

    """
    for path in (Path(name), RUNS / name):
        if (path / "job.yaml").is_file():
            return RunDirectory(path)
    known = sorted(path.parent.name for path in RUNS.glob("*/job.yaml"))
    cure = f"In {RUNS}/ there is {', '.join(known)}." if known else "Start one with `vaco run`."
    raise UserError(name, "no run directory, nor the name of one in runs/", cure)


def scale(run: str, actors: int) -> str:
    """Ask the runner for a number of actors; returns what it answered."""
    return ask_to_scale(find_run(run), actors)


def status(run: str, *, as_json: bool, watch: bool) -> None:
    """Print the status of a run; `watch`: again and again until nothing runs there."""
    directory = find_run(run)
    if as_json:
        indent = None if watch else 2
        _follow(directory, watch, lambda now: typer.echo(_document(now, indent)))
        return
    job = directory.load_job()
    title = f"{job.metadata.name}  {directory.root}"
    words = words_for(job.spec)
    with open_view(title, job.spec.stop, Console(), first_return(directory), words) as view:
        last = _follow(directory, watch, view.show)
    # A line of a run that starts has the message already.
    if last.message and last.phase not in ("Pending", "Starting"):
        typer.echo(f"{last.phase}: {last.message}")


def _document(status: VACOJobStatus, indent: int | None) -> str:
    return status.model_dump_json(by_alias=True, indent=indent)


def _follow(
    directory: RunDirectory, watch: bool, show: Callable[[VACOJobStatus], None]
) -> VACOJobStatus:
    while True:
        active = directory.in_use()
        status = current_status(directory, active=active)
        show(status)
        if not (watch and active):
            return status
        try:
            time.sleep(WATCH_SECONDS)
        except KeyboardInterrupt:
            return status


def current_status(directory: RunDirectory, *, active: bool) -> VACOJobStatus:
    """Return the status of a run, corrected if its runner was killed and could not write it."""
    written = directory.read_status() or VACOJobStatus()
    if active or written.phase in ("Complete", "Failed", "Suspended"):
        return written
    return rested(written, _RUNNER_GONE, datetime.now(UTC))


def first_return(directory: RunDirectory) -> float | None:
    """Return the first return that training reported, from which progress is measured."""
    lines = islice(read_metrics(directory.metrics_file), FIRST_LINES)
    returns = (line["return_mean"] for line in lines if line and "return_mean" in line)
    return next((float(value) for value in returns if value is not None), None)


def evaluate(
    run: str, episodes: int | None, video: Path | None, version: int | None, *, as_json: bool
) -> int:
    """Play episodes with a checkpoint of the run; returns the exit status."""
    directory = find_run(run)
    checkpoint = find_checkpoint(directory, version)
    command = ["vaco_actor", "evaluate", "--job", str(directory.job_file)]
    command += ["--checkpoint", str(checkpoint)]
    if episodes is not None:
        command += ["--episodes", str(episodes)]
    if video is not None:
        command += ["--video", str(video)]
    if as_json:
        command += ["--json"]
    return _python_module(command)


def export(run: str, out: Path | None, version: int | None, *, onnx: bool) -> int:
    """Write the policy of a checkpoint of the run; returns the exit status."""
    directory = find_run(run)
    checkpoint = find_checkpoint(directory, version)
    command = ["vaco_policy.export", "--job", str(directory.job_file)]
    command += ["--checkpoint", str(checkpoint), "--out", str(out or directory.root / "export")]
    if onnx:
        command += ["--onnx"]
    return _python_module(command)


def report(run: str) -> Path:
    """Write the report of a run; returns where it is."""
    from vaco_operator.display.report import write_report

    return write_report(find_run(run))


def validate(manifests: Sequence[Path], overrides: Sequence[str], *, environment: bool) -> bool:
    """Check manifests and print what is wrong with each; returns whether all are sound.

    `environment`: whether to make each one's environment as well.
    """
    # Each of them is looked at, whatever is wrong with those before it.
    verdicts = [_is_sound(manifest, overrides, environment) for manifest in manifests]
    return all(verdicts)


def _is_sound(manifest: Path, overrides: Sequence[str], environment: bool) -> bool:
    try:
        job = load_job(manifest, overrides)
    except UserError as error:
        typer.echo(f"error: {error}", err=True)
        return False
    checked = check_environment(job) if environment else Checked("its environment was not checked")
    if checked.problem:
        typer.echo(f"error: {manifest}: 1 problem\n  {checked.problem}", err=True)
        return False
    typer.echo(f"{manifest}: a sound VACOJob, {job.metadata.name}; {checked.told}")
    return True


def _python_module(command: list[str]) -> int:
    """Run a program of ours in a process of its own; the command line never imports torch."""
    return 0 if subprocess.run([sys.executable, "-m", *command], check=False).returncode == 0 else 1  # noqa: S603
