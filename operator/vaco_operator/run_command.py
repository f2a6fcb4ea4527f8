"""`vaco run`: match manifest and run directory, train, and say how it ended."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import typer
from rich.console import Console
from vaco.errors import UserError
from vaco.job import VACOJob, VACOJobStatus, load_job

from vaco_operator.commands import RUNS, first_return, report
from vaco_operator.display.view import open_view
from vaco_operator.display.words import words_for
from vaco_operator.local.adoption import Adoption, adopt
from vaco_operator.local.learner_probe import ReservedPort
from vaco_operator.local.programs import Programs
from vaco_operator.local.run_directory import RunDirectory
from vaco_operator.local.runner import Ended, LocalRunner
from vaco_operator.status import Observation, Outcome, job_status

EXIT_COMPLETE: Final = 0
EXIT_FAILED: Final = 1


def run(manifest: Path, overrides: Sequence[str], actors: int | None, run_dir: Path | None) -> int:
    """Train the job of `manifest`; returns the exit status.

    Raises:
        UserError: the manifest, the number of actors or the directory will not do.

    """
    job = load_job(manifest, [*overrides, *_first_actors(actors)])
    _check_actors(job, actors)
    directory = RunDirectory(run_dir if run_dir is not None else RUNS / job.metadata.name)
    with directory.locked() as lock:
        adoption = adopt(directory, job)
        before = directory.read_status()
        if adoption.replaced:
            typer.echo(f"beginning anew: the run in {directory.root} had trained nothing")
        for change in adoption.replaced:
            typer.echo(f"changed: {change}")
        for change in adoption.changes or ():
            typer.echo(f"changed: {change}")
        if before and before.phase == "Complete" and not adoption.touches("stop"):
            typer.echo(f"{directory.root} is complete already: {before.message}")
            return EXIT_COMPLETE
        if job.spec.suspend:
            return _suspend(adoption.job, directory, before)
        begin_with = actors if actors is not None else _begin_with(adoption, before)
        return _train(adoption, directory, lock, before, begin_with)


def _first_actors(actors: int | None) -> list[str]:
    return [] if actors is None else [f"spec.actors.replicas={actors}"]


def _check_actors(job: VACOJob, actors: int | None) -> None:
    bounds = job.spec.actors
    if actors is not None and not bounds.min_replicas <= actors <= bounds.max_replicas:
        raise UserError(
            "--actors",
            f"{actors} is not within {bounds.min_replicas} to {bounds.max_replicas}",
            "Move the bounds with --set actors.minReplicas=N or --set actors.maxReplicas=N.",
        )


def _suspend(job: VACOJob, directory: RunDirectory, before: VACOJobStatus | None) -> int:
    seen = Observation(
        learner=None,
        unavailable="Suspended",
        desired=job.spec.actors.replicas,
        ready=0,
        scaling_events=before.scaling.events if before else 0,
        scaling_reason="suspended",
        limit="",
        learner_restarts=before.learner_restarts if before else 0,
        outcome=Outcome("Suspended", "SuspendRequested", "spec.suspend is true."),
    )
    directory.write_status(job_status(job, seen, before, datetime.now(UTC)), durable=True)
    typer.echo("Suspended: spec.suspend is true, so nothing is started.")
    return EXIT_COMPLETE


def _train(
    adoption: Adoption,
    directory: RunDirectory,
    lock: int,
    before: VACOJobStatus | None,
    begin_with: int,
) -> int:
    job = adoption.job
    if adoption.changes is not None:
        typer.echo(_resumption(directory, before))
    title = f"{job.metadata.name}  {directory.root}"
    with ReservedPort() as port:
        programs = Programs(job, directory, port.address, lock)
        first = first_return(directory)
        with open_view(title, job.spec.stop, Console(), first, words_for(job.spec)) as view:
            runner = LocalRunner(programs, before, begin_with, view)
            ended = runner.run()
    typer.echo(f"{ended.outcome.phase}: {ended.outcome.message}")
    if job.spec.is_language and ended.outcome.phase == "Complete":
        evaluate = f"vaco evaluate {directory.root}"
        typer.echo(f"accuracy is of the last evaluation; of the last version: {evaluate}")
    if ended.culprit:
        typer.echo(_end_of_log(directory.log_file(ended.culprit.name), ended), err=True)
    typer.echo(f"report: {report(str(directory.root))}")
    return _exit_status(ended)


def _end_of_log(log: Path, ended: Ended) -> str:
    words = ended.culprit.last_words.strip() if ended.culprit else ""
    # A process that ended by a sentence to its user has said nothing else.
    said = words in ended.outcome.message
    return f"its log is {log}" if said else f"the end of {log}:\n{words}"


def _begin_with(adoption: Adoption, before: VACOJobStatus | None) -> int:
    """Return how many actors to begin with: a resumed run keeps what scaling had found."""
    resumed = before is not None and before.actors.desired > 0
    if before is None or not resumed or adoption.touches("actors"):
        return adoption.job.spec.actors.replicas
    return before.actors.desired


def _resumption(directory: RunDirectory, before: VACOJobStatus | None) -> str:
    text = f"resuming {directory.root}"
    if before is None:
        return text
    if before.phase == "Failed":
        text += f", which failed ({before.message})"
    return f"{text}: version {before.version}, {before.env_steps:,} steps trained"


def _exit_status(ended: Ended) -> int:
    if ended.outcome.phase == "Complete":
        return EXIT_COMPLETE
    if ended.outcome.phase == "Failed":
        return EXIT_FAILED
    return 128 + ended.by
