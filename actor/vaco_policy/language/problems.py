"""Problems with answers, and the prompts that they become.

Learner and actors read them by themselves, and get the same ones in the same order: a problem's
number among those to train on is its name on the wire.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from vaco.errors import UserError
from vaco.job import ArithmeticData, HubData, JsonlData, LanguageModelTask
from vaco.schema.language_task import PROMPT

from vaco_policy.language import arithmetic, hub_data, jsonl
from vaco_policy.language.model import LanguageModel
from vaco_policy.language.problem import Problem

__all__ = ["EncodedProblem", "Problem", "encode_answer", "encode_prompts", "load_problems"]

_LOG = logging.getLogger(__name__)

Split = Literal["train", "heldOut"]


@dataclass(frozen=True, slots=True)
class EncodedProblem:
    """A problem as the model gets it.

    Attributes:
        number: its number among the problems of its split.
        problem: what it was made of.
        prompt: int32 [P], the prompt's tokens; P is at least 1.

    """

    number: int
    problem: Problem
    prompt: npt.NDArray[np.int32]


def load_problems(task: LanguageModelTask, split: Split) -> list[Problem]:
    """Return the problems of one split, in an order that is always the same.

    A problem that is held out is not among those to train on, whatever the data say.

    Raises:
        UserError: naming the field, or the file and its line.

    """
    train, held_out = _read(task.data)
    if split == "heldOut":
        return held_out
    kept = {problem.prompt for problem in held_out}
    ours = [problem for problem in train if problem.prompt not in kept]
    if len(ours) < len(train):
        _LOG.warning("%d problems to train on are held out, and left out", len(train) - len(ours))
    if not ours:
        raise UserError(
            "spec.task.data", "all problems to train on are held out", "Hold out others."
        )
    return ours


def _read(data: ArithmeticData | JsonlData | HubData) -> tuple[list[Problem], list[Problem]]:
    match data:
        case ArithmeticData():
            return arithmetic.make(data)
        case JsonlData():
            return jsonl.read(data)
        case HubData():
            return hub_data.read(data)


def encode_prompts(
    problems: Sequence[Problem], task: LanguageModelTask, model: LanguageModel
) -> list[EncodedProblem]:
    """Return the problems as the model gets them: template, chat, tokens.

    Those that are too long are left out, and how many is logged, unless `task.longPrompts` refuses
    them.

    Raises:
        UserError: one is too long and refused, all are too long, or one cannot be encoded.

    """
    encoded = []
    longest = dropped = 0
    for number, problem in enumerate(problems):
        prompt = _encode(problem, task, model)
        if len(prompt) > task.max_prompt_tokens:
            longest = max(longest, len(prompt))
            dropped += 1
            if task.long_prompts == "refuse":
                raise UserError(
                    "spec.task.maxPromptTokens",
                    f"{task.max_prompt_tokens}, and the prompt of problem {number} "
                    f"({_shown(problem.prompt)}) has {len(prompt)} tokens",
                    "Raise it, or set `longPrompts: drop`.",
                )
            continue
        encoded.append(EncodedProblem(number, problem, np.asarray(prompt, np.int32)))
    if not encoded:
        raise UserError(
            "spec.task.maxPromptTokens",
            f"{task.max_prompt_tokens}, and all {len(problems)} prompts are longer: up to "
            f"{longest} tokens",
            "Raise it.",
        )
    if dropped:
        _LOG.warning(
            "%d of %d problems are left out: their prompts have more than %d tokens, up to %d",
            dropped,
            len(problems),
            task.max_prompt_tokens,
            longest,
        )
    return encoded


def encode_answer(problem: Problem, model: LanguageModel) -> list[int]:
    """Return the tokens of the problem's answer as a completion, its end token included.

    Raises:
        UserError: the tokenizer does not know all of its characters.

    """
    tokens = _tokens(problem.answer, model, special=False)
    return [*tokens, model.end_tokens[0]]


def _encode(problem: Problem, task: LanguageModelTask, model: LanguageModel) -> list[int]:
    text = task.prompt_template.replace(PROMPT, problem.prompt)
    if task.chat:
        text = _chat(text, task.system_prompt, model)
    tokens = _tokens(text, model, special=not task.chat)
    if not tokens:
        raise UserError(
            "spec.task.data", f"the prompt of {_shown(problem.prompt)} has no tokens", "Drop it."
        )
    return tokens


def _tokens(text: str, model: LanguageModel, *, special: bool) -> list[int]:
    tokenizer = model.tokenizer
    tokens: list[int] = tokenizer.encode(text, add_special_tokens=special)
    # Some tokenizers begin a text with the token that also stands for what they do not know.
    own = tokenizer.encode(text, add_special_tokens=False) if special else tokens
    if tokenizer.unk_token_id in own and str(tokenizer.unk_token) not in text:
        raise UserError(
            "spec.task.data",
            f"the tokenizer of {model.name} does not know all characters of {_shown(text)}",
            "Change the data or the template, or use another model.",
        )
    return tokens


def _chat(text: str, system: str | None, model: LanguageModel) -> str:
    if not model.tokenizer.chat_template:
        raise UserError(
            "spec.task.chat",
            f"true, but the tokenizer of {model.name} has no chat template",
            "Set it to false, and write what is needed into `promptTemplate`.",
        )
    messages = [{"role": "user", "content": text}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    try:
        chat = model.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
    except Exception as error:
        # Templates are programs that come with the tokenizer; some refuse a system message.
        kind = type(error).__name__
        raise UserError(
            "spec.task.chat",
            f"the chat template of {model.name} fails: {kind}: {error}",
            "Leave out `systemPrompt`, or set this to false.",
        ) from error
    return str(chat)


def _shown(text: str, length: int = 60) -> str:
    return repr(text if len(text) <= length else f"{text[:length]}...")
