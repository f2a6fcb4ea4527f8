"""Problems answered with the likeliest tokens, and what the answers earn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from vaco_policy.language.model import LanguageModel
from vaco_policy.language.problems import EncodedProblem

from vaco_actor.language.generate import Backend, Completion, Hooks
from vaco_actor.language.rewards import Reward


@dataclass(slots=True)
class Answers:
    """What problems were answered.

    Attributes:
        rewards: one for each problem.
        lengths: tokens of each answer, the end token included.
        finished: False: cut at the budget.

    """

    rewards: list[float] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    finished: list[bool] = field(default_factory=list)


class Judge:
    """Gives completions what they earn.

    Args:
        model: whose tokenizer reads them.
        reward: of the task.
        stepped: called after every reward.

    """

    def __init__(self, model: LanguageModel, reward: Reward, stepped: Callable[[], None]) -> None:
        self._tokenizer = model.tokenizer
        self._reward = reward
        self._stepped = stepped

    def __call__(self, problem: EncodedProblem, completions: Sequence[Completion]) -> list[float]:
        """Return the reward of each completion of a problem.

        Raises:
            UserError: A reward that must not reach the learner.

        """
        rewards = []
        for completion in completions:
            text = self._tokenizer.decode(completion.tokens, skip_special_tokens=True)
            rewards.append(self._reward(problem.problem.prompt, str(text), problem.problem.answer))
            self._stepped()
        return rewards


def chosen(problems: Sequence[EncodedProblem], count: int, seed: int) -> list[EncodedProblem]:
    """Return the first `count` problems in an order that `seed` decides, or all if they are fewer.

    Actors that are asked for an evaluation, and `vaco evaluate`, choose alike.
    """
    order = np.random.default_rng(seed).permutation(len(problems))[:count]
    return [problems[index] for index in order]


def answer(
    problems: Sequence[EncodedProblem],
    backend: Backend,
    judge: Judge,
    hooks: Hooks,
    at_once: int,
) -> Answers | None:
    """Answer each problem once, with the likeliest tokens.

    Args:
        problems: at least one.
        backend: what answers.
        judge: what an answer earns.
        hooks: around the tokens.
        at_once: how many problems are answered at once.

    Returns:
        None when it was stopped.

    """
    answers = Answers()
    for start in range(0, len(problems), at_once):
        asked = problems[start : start + at_once]
        prompts = [each.prompt for each in asked]
        answered = backend.complete(prompts, 1, hooks, greedy=True)
        if hooks.stop.is_set():
            return None
        for problem, completions in zip(asked, answered, strict=True):
            answers.rewards.extend(judge(problem, completions))
            answers.lengths.extend(len(each.tokens) for each in completions)
            answers.finished.extend(each.finished for each in completions)
    return answers
