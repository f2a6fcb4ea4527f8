"""`python -m vaco_actor`: run an actor, evaluate a checkpoint, probe an environment.

What is heavy is imported after the arguments are read, and after signals are listened to.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from vaco.errors import EXIT_OK, EXIT_PERMANENT, UserError

from vaco_actor.signals import stop_on_signals


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status (see `vaco.errors`)."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        return {"run": _run, "evaluate": _evaluate, "probe": _probe}[options.command](options)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_PERMANENT


def _run(options: argparse.Namespace) -> int:
    stop = stop_on_signals()
    from vaco_actor.program import RunOptions, run

    return run(
        RunOptions(
            job=options.job,
            learner=options.learner,
            actor_id=options.actor_id,
            index=options.index,
            incarnation=options.incarnation,
            metrics_port=options.metrics_port,
        ),
        stop,
    )


def _evaluate(options: argparse.Namespace) -> int:
    stop = stop_on_signals()
    from vaco_actor.evaluate import EvaluateOptions, evaluate

    return evaluate(
        EvaluateOptions(
            job=options.job,
            checkpoint=options.checkpoint,
            episodes=options.episodes,
            video=options.video,
            as_json=options.json,
        ),
        stop,
    )


def _probe(options: argparse.Namespace) -> int:
    from vaco.job import load_job

    from vaco_actor.environments import probe_spaces

    sys.stdout.write(probe_spaces(load_job(options.job).spec.task).to_json() + "\n")
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vaco_actor", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="act for a learner until the job is complete")
    run.add_argument("--job", type=Path, required=True, help="manifest with metadata.uid")
    run.add_argument("--learner", required=True, help="host:port of the learner")
    run.add_argument("--actor-id", required=True, help="name of this actor, such as actor-0")
    run.add_argument("--index", type=_natural, default=0, help="its number; it seeds")
    run.add_argument("--incarnation", type=_natural, default=1, help="grows with each restart")
    run.add_argument("--metrics-port", type=_natural, default=0, help="Prometheus; 0: any port")
    evaluate = commands.add_parser("evaluate", help="play episodes with a checkpoint's policy")
    evaluate.add_argument("--job", type=Path, required=True, help="the run's job.yaml")
    evaluate.add_argument("--checkpoint", type=Path, required=True, help="its directory")
    evaluate.add_argument("--episodes", type=_positive, help="default: spec.evaluation's, or 10")
    evaluate.add_argument("--video", type=Path, help="film of one more episode, .mp4 or .gif")
    evaluate.add_argument("--json", action="store_true", help="print one JSON document")
    probe = commands.add_parser("probe", help="print the spaces of a job's environment as JSON")
    probe.add_argument("--job", type=Path, required=True, help="manifest")
    return parser


def _natural(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(f"{number} is negative")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(f"{number} is not positive")
    return number


if __name__ == "__main__":
    sys.exit(main())
