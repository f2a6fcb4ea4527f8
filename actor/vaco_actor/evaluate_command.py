"""`vaco_actor evaluate`: how good the policy of a checkpoint is, in figures and as a film."""

import json
import statistics
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from vaco.errors import EXIT_FAILURE, EXIT_OK, UserError
from vaco.job import VACOJob, load_job
from vaco_policy.seeding import derive
from vaco_policy.stored import DESCRIPTION, StoredPolicy, read_checkpoint, read_export

from vaco_actor.environments import make_vector_env
from vaco_actor.play import MAX_ENVIRONMENTS, Episodes, play

DEFAULT_EPISODES = 10


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """What to evaluate.

    Attributes:
        job: The run's job.yaml.
        checkpoint: Directory of a checkpoint, or of an exported policy.
        episodes: None: as `spec.evaluation` says, or 10; of language models all held-out problems.
        video: Where a film of one more episode goes; None: none is made.
        as_json: Print one JSON document instead of lines.

    """

    job: Path
    checkpoint: Path
    episodes: int | None
    video: Path | None
    as_json: bool


def evaluate(options: EvaluateOptions, stop: threading.Event) -> int:
    """Play, print the result, return the exit status.

    Raises:
        UserError: Job, checkpoint, environment or film are not usable.

    """
    job = load_job(options.job)
    torch.set_num_threads(job.spec.actors.threads)
    if job.spec.is_language:
        return _evaluate_language(options, job, stop)
    return _evaluate_policy(options, job, stop)


def _evaluate_language(options: EvaluateOptions, job: VACOJob, stop: threading.Event) -> int:
    from vaco_actor.language.evaluate import evaluate_language, lines

    if options.video is not None:
        raise UserError(
            "--video",
            "a language model has nothing to film",
            "Leave it out; `vaco report` has completions to read.",
        )
    result = evaluate_language(job, options.checkpoint, options.episodes, stop)
    if result is None:
        return EXIT_FAILURE
    sys.stdout.write(json.dumps(result) + "\n" if options.as_json else lines(result))
    return EXIT_OK


def _evaluate_policy(options: EvaluateOptions, job: VACOJob, stop: threading.Event) -> int:
    task, schedule = job.spec.control.task, job.spec.evaluation
    episodes = options.episodes or (schedule.episodes if schedule else DEFAULT_EPISODES)
    seed = schedule.seed if schedule else derive(job.spec.seed, "evaluation")
    stored = _read(options.checkpoint, job)
    policy = stored.build()
    count = min(episodes, MAX_ENVIRONMENTS)
    with make_vector_env(task, count, seed, threads=job.spec.actors.threads) as environment:
        if environment.spaces != stored.spaces:
            raise UserError(
                str(options.checkpoint),
                f"its policy is for other spaces than {task.environment} has: "
                f"{stored.spaces.to_json()}, not {environment.spaces.to_json()}",
                "Evaluate it with the job it was trained by.",
            )
        played = play(environment, policy, episodes, stop)
    if played is None:
        return EXIT_FAILURE
    if options.video is not None:
        from vaco_actor.video import record

        record(task, policy, derive(seed, "video"), options.video)
    result = summary(task.environment, stored.version, played)
    if options.video is not None:
        result["video"] = str(options.video)
    sys.stdout.write(json.dumps(result) + "\n" if options.as_json else _lines(result))
    return EXIT_OK


def summary(environment: str, version: int, played: Episodes) -> dict[str, Any]:
    """Return the figures by name; the standard deviation is that of the population."""
    return {
        "environment": environment,
        "version": version,
        "episodes": len(played.returns),
        "returnMean": statistics.fmean(played.returns),
        "returnStd": statistics.pstdev(played.returns),
        "returnMin": min(played.returns),
        "returnMax": max(played.returns),
        "lengthMean": statistics.fmean(played.lengths),
        "returns": list(played.returns),
        "lengths": list(played.lengths),
    }


def _read(directory: Path, job: VACOJob) -> StoredPolicy:
    if (directory / DESCRIPTION).exists():
        return read_export(directory)
    return read_checkpoint(directory, job.spec.control.policy, job.metadata.uid)


def _lines(result: dict[str, Any]) -> str:
    lines = [
        f"{result['environment']}, version {result['version']}: {result['episodes']} episodes",
        f"return  {result['returnMean']:.2f} mean, {result['returnStd']:.2f} std, "
        f"{result['returnMin']:.2f} min, {result['returnMax']:.2f} max",
        f"length  {result['lengthMean']:.1f} mean",
    ]
    if "video" in result:
        lines.append(f"video   {result['video']}")
    return "\n".join(lines) + "\n"
