"""`python -m vaco_actor`: run an actor, evaluate a checkpoint, probe an environment.

What is heavy is imported after the arguments are read, and after signals are listened to.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from vaco.allocator import keep_freed_memory
from vaco.arguments import natural, positive
from vaco.channels import is_loopback
from vaco.errors import EXIT_OK, EXIT_PERMANENT, UserError

from vaco_actor.identity import ActorIdentity
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
    keep_freed_memory()
    from vaco_actor.program import RunOptions, run

    host = "127.0.0.1" if is_loopback(options.learner) else "0.0.0.0"  # noqa: S104 - scraped
    return run(
        RunOptions(
            job=options.job,
            learner=options.learner,
            identity=ActorIdentity.of(
                options.actor_id, options.index, options.incarnation, os.environ
            ),
            metrics_host=options.metrics_host or host,
            metrics_port=options.metrics_port,
        ),
        stop,
    )


def _evaluate(options: argparse.Namespace) -> int:
    stop = stop_on_signals()
    from vaco_actor.evaluate_command import EvaluateOptions, evaluate

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

    job = load_job(options.job)
    if job.spec.is_language:
        from vaco_actor.language.prepare import prepare

        contract = prepare(job).model.contract()
    else:
        from vaco_actor.environments import probe_spaces

        contract = probe_spaces(job.spec.control.task).to_json()
    sys.stdout.write(f"{contract}\n")
    return EXIT_OK


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vaco_actor", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="act for a learner until the job is complete")
    run.add_argument("--job", type=Path, required=True, help="manifest with metadata.uid")
    run.add_argument("--learner", required=True, help="host:port of the learner")
    run.add_argument("--actor-id", help="name of this actor; default: $POD_NAME")
    run.add_argument("--index", type=natural, help="its number, which seeds; default: by its name")
    run.add_argument(
        "--incarnation",
        type=positive,
        help="grows with each start of the same actor; default: milliseconds since 1970",
    )
    run.add_argument(
        "--metrics-host",
        help="of probes and metrics; default: loopback if the learner is there, else all addresses",
    )
    run.add_argument("--metrics-port", type=natural, default=0, help="of the same; 0: any port")
    evaluate = commands.add_parser("evaluate", help="play episodes with a checkpoint's policy")
    evaluate.add_argument("--job", type=Path, required=True, help="the run's job.yaml")
    evaluate.add_argument("--checkpoint", type=Path, required=True, help="its directory")
    evaluate.add_argument("--episodes", type=positive, help="default: spec.evaluation's, or 10")
    evaluate.add_argument("--video", type=Path, help="film of one more episode, .mp4 or .gif")
    evaluate.add_argument("--json", action="store_true", help="print one JSON document")
    probe = commands.add_parser(
        "probe", help="print a job's spaces, or its language model, as JSON"
    )
    probe.add_argument("--job", type=Path, required=True, help="manifest")
    return parser


if __name__ == "__main__":
    sys.exit(main())
