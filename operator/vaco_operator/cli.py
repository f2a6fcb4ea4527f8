"""The command line: what it can be asked. What it then does is in `commands` and `run_command`.

Those, and everything heavy with them, are imported once a command is chosen, so that `vaco --help`
answers at once.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer
from vaco.errors import UserError

EXIT_BAD_INPUT = 2

app = typer.Typer(
    name="vaco",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    # Laying help out with rich would take longer than everything else.
    rich_markup_mode=None,
)

Manifest = Annotated[Path, typer.Argument(metavar="FILE", help="Manifest of a VACOJob (YAML).")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Override a field, such as algorithm.epochs=2; may be given many times.",
    ),
]
Run = Annotated[
    str, typer.Argument(metavar="RUN", help="Run directory, or the name of a job in runs/.")
]
bench = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.add_typer(bench, name="bench", help="Compare algorithms under policy lag.")

Checkpoint = Annotated[
    int | None,
    typer.Option("--version", help="Version of a checkpoint; left out: the newest."),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"vaco {version('vaco')}")
        raise typer.Exit


@app.callback()
def about(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Elastic training of reinforcement-learning policies, described by one VACOJob manifest."""


@app.command()
def run(
    manifest: Manifest,
    overrides: Overrides = None,
    actors: Annotated[
        int | None, typer.Option("--actors", metavar="N", help="Actors to begin with.")
    ] = None,
    run_dir: Annotated[
        Path | None,
        typer.Option("--run-dir", metavar="DIR", help="Where; left out: runs/<job name>."),
    ] = None,
) -> None:
    """Train on this machine; the same directory again resumes.

    Ctrl-C drains the actors and checkpoints. Exit status: 0 complete, 1 failed, 2 bad input,
    130 interrupted.
    """
    from vaco_operator.run_command import run as run_job

    raise typer.Exit(run_job(manifest, overrides or [], actors, run_dir))


@app.command()
def scale(
    run: Run,
    actors: Annotated[int, typer.Argument(metavar="N", min=0, help="Actors wished for.")],
) -> None:
    """Change the number of actors of a run that is going on.

    What is beyond spec.actors.minReplicas or maxReplicas is held to it.
    """
    from vaco_operator.commands import scale as scale_run

    typer.echo(scale_run(run, actors))


@app.command()
def status(
    run: Run,
    json: Annotated[
        bool, typer.Option("--json", help="Print the status document as JSON.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until the run ends.")] = False,
) -> None:
    """Show the state of a run."""
    from vaco_operator.commands import status as show_status

    show_status(run, as_json=json, watch=watch)


@app.command()
def evaluate(
    run: Run,
    episodes: Annotated[int | None, typer.Option(min=1, help="Episodes, or problems.")] = None,
    video: Annotated[Path | None, typer.Option(help="Film one more episode: .mp4 or .gif.")] = None,
    version: Checkpoint = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Play episodes with the policy of a checkpoint.

    It takes its most likely actions, on environments of their own. A language model answers
    held-out problems with its most likely tokens.
    """
    from vaco_operator.commands import evaluate as evaluate_run

    raise typer.Exit(evaluate_run(run, episodes, video, version, as_json=json))


@app.command()
def export(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(help="Directory to write to; left out: RUN/export.")
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write ONNX as well.")] = False,
    version: Checkpoint = None,
) -> None:
    """Write the policy of a checkpoint for use elsewhere.

    As safetensors and JSON, and as ONNX if asked to. A language model goes into a directory that
    `transformers` loads.
    """
    from vaco_operator.commands import export as export_run

    raise typer.Exit(export_run(run, out, version, onnx=onnx))


@app.command()
def report(run: Run) -> None:
    """Write RUN/report.html: one file with all plots, which needs no network."""
    from vaco_operator.commands import report as report_run

    typer.echo(f"report: {report_run(run)}")


@app.command()
def validate(
    manifests: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Manifests of VACOJobs (YAML).")
    ],
    overrides: Overrides = None,
    environment: Annotated[
        bool,
        typer.Option(
            "--environment/--no-environment",
            help="Make each one's environment too, which runs task.imports and takes seconds.",
        ),
    ] = True,
) -> None:
    """Check manifests: what is wrong, where, and what to do.

    Whether the policy fits the environment is only seen by vaco run.
    """
    from vaco_operator.commands import validate as validate_manifests

    if not validate_manifests(manifests, overrides or [], environment=environment):
        raise typer.Exit(EXIT_BAD_INPUT)


@app.command()
def explain(
    path: Annotated[
        str | None, typer.Argument(metavar="[PATH]", help="Field, such as spec.algorithm.delta.")
    ] = None,
) -> None:
    """Document a field of the manifest.

    Its type, default, bounds and meaning, and what is below it.
    """
    from vaco.explain import explain as explain_field

    typer.echo(explain_field(path))


@app.command()
def crd() -> None:
    """Print the CustomResourceDefinition of VACOJobs, for kubectl apply -f -."""
    from vaco_operator.crd.definition import as_yaml

    typer.echo(as_yaml(), nl=False)


@bench.command()
def lag(
    matrix: Annotated[
        Path,
        typer.Argument(metavar="MATRIX", help="What to vary (YAML)."),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where; left out: runs/bench/<name>.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Runs at once; left out: one for each core.")
    ] = None,
) -> None:
    """Run a matrix of training runs; the same command again goes on.

    Exit status: 0 all are finished, 1 some failed, 2 bad input, 130 interrupted.
    """
    from vaco_operator.bench_commands import lag as run_matrix

    raise typer.Exit(run_matrix(matrix, out, workers))


@bench.command(name="report")
def bench_report(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="Of a matrix that was run, or part of it: runs/bench/NAME."
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where; left out: docs/results.")
    ] = None,
) -> None:
    """Write the result page of a matrix: tables with intervals, plots, and its rows as CSV.

    Findings (NAME.md beside the matrix) are printed on it; their first line for these rows is told.
    """
    from vaco_operator.bench_commands import report as report_matrix

    raise typer.Exit(report_matrix(directory, out))


def main() -> None:
    """Run the command line; what its user can mend is told without a traceback."""
    try:
        app()
    except UserError as error:
        _refuse(str(error), EXIT_BAD_INPUT)
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does.
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        _refuse(f"`{error.filename}`: {error.strerror}.", 1)


def _refuse(text: str, code: int) -> None:
    typer.echo(f"error: {text}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
