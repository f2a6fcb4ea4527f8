"""What a job's language-model task is made of, before anything is generated."""

from dataclasses import dataclass

import torch
from vaco.errors import UserError
from vaco.framing import MAX_FRAGMENT_BYTES
from vaco.job import LanguageParts, VACOJob
from vaco_policy.language.model import LanguageModel, build
from vaco_policy.language.problems import EncodedProblem, encode_prompts, load_problems

from vaco_actor.language.rewards import Reward


@dataclass(frozen=True, slots=True)
class Prepared:
    """The parts of a task.

    Attributes:
        model: on a GPU if there is one; its weights are still to come.
        reward: what a completion earns.
        training: problems to train on; at least one.
        held_out: problems to evaluate on; empty without `spec.evaluation`.

    """

    model: LanguageModel
    reward: Reward
    training: list[EncodedProblem]
    held_out: list[EncodedProblem]


def prepare(job: VACOJob) -> Prepared:
    """Make the parts.

    Raises:
        UserError: The model, the problems or the reward are not what the manifest says.

    """
    parts = job.spec.language
    _check_size(parts)
    reward = Reward(parts.task)
    training = load_problems(parts.task, "train")
    held_out = [] if job.spec.evaluation is None else load_problems(parts.task, "heldOut")
    # With vLLM the model is where weights arrive, and the GPU is the engine's alone.
    on_gpu = torch.cuda.is_available() and parts.sampling.backend != "vllm"
    device = torch.device("cuda" if on_gpu else "cpu")
    model = build(parts, job.spec.seed, pretrained=False).to(device)
    return Prepared(
        model,
        reward,
        encode_prompts(training, parts.task, model),
        encode_prompts(held_out, parts.task, model) if held_out else [],
    )


def _check_size(parts: LanguageParts) -> None:
    """Refuse groups that would be too large for the wire, before any is made."""
    task, count = parts.task, parts.sampling.group_size
    size = 4 * task.max_prompt_tokens + count * (16 * task.max_completion_tokens + 9)
    if size > MAX_FRAGMENT_BYTES:
        raise UserError(
            "spec.sampling.groupSize",
            f"{count} completions of up to {task.max_completion_tokens} tokens take {size} bytes, "
            f"over {MAX_FRAGMENT_BYTES}",
            "Lower it, or `task.maxCompletionTokens`.",
        )
