"""`vaco_actor evaluate` of a language model: its answers to held-out problems."""

import statistics
import threading
from pathlib import Path
from typing import Any

import torch
from vaco.completions import RIGHT_REWARD
from vaco.errors import UserError
from vaco.job import VACOJob
from vaco_policy.language.problems import encode_prompts, load_problems
from vaco_policy.language.stored import read_model
from vaco_policy.seeding import derive

from vaco_actor.language.generate import Hooks, TransformersBackend
from vaco_actor.language.held_out import Answers, Judge, answer, chosen
from vaco_actor.language.rewards import Reward


def evaluate_language(
    job: VACOJob, checkpoint: Path, episodes: int | None, stop: threading.Event
) -> dict[str, Any] | None:
    """Answer held-out problems with the model of a checkpoint; returns the figures by name.

    Args:
        job: the run's.
        checkpoint: its directory.
        episodes: how many problems; None: as `spec.evaluation` says, or all.
        stop: set by whoever cannot wait for the end; None is returned then.

    Raises:
        UserError: checkpoint, model, problems or reward are not usable.

    """
    parts, schedule = job.spec.language, job.spec.evaluation
    task = parts.task
    model, version = read_model(checkpoint, job)
    model = model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    problems = load_problems(task, "heldOut")
    if not problems:
        raise UserError("spec.task.data", "no problem is held out", "Hold some out.")
    held_out = encode_prompts(problems, task, model)
    count = episodes or (schedule.episodes if schedule else len(held_out))
    seed = schedule.seed if schedule else derive(job.spec.seed, "evaluation")
    answers = answer(
        chosen(held_out, count, seed),
        TransformersBackend(model, parts.sampling, task.max_completion_tokens, seed),
        Judge(model, Reward(task), _nothing),
        Hooks(lambda: version, stop, _nothing),
        parts.sampling.prompts * parts.sampling.group_size,
    )
    return None if answers is None else summary(model.name, version, answers)


def summary(model: str, version: int, answers: Answers) -> dict[str, Any]:
    """Return the figures by name; the standard deviation is that of the population."""
    rewards = answers.rewards
    return {
        "model": model,
        "version": version,
        "episodes": len(rewards),
        "accuracy": statistics.fmean(reward >= RIGHT_REWARD for reward in rewards),
        "returnMean": statistics.fmean(rewards),
        "returnStd": statistics.pstdev(rewards),
        "lengthMean": statistics.fmean(answers.lengths),
        "finishedShare": statistics.fmean(answers.finished),
        "returns": rewards,
        "lengths": answers.lengths,
    }


def lines(result: dict[str, Any]) -> str:
    """Return the figures for people to read."""
    return (
        f"{result['model']}, version {result['version']}: "
        f"{result['episodes']} held-out problems\n"
        f"accuracy  {result['accuracy']:.1%}\n"
        f"reward    {result['returnMean']:.3f} mean, {result['returnStd']:.3f} std\n"
        f"length    {result['lengthMean']:.1f} tokens mean, "
        f"{result['finishedShare']:.1%} ended by themselves\n"
    )


def _nothing() -> None:
    """Nobody watches."""
