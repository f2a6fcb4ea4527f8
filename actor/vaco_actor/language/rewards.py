"""What a completion earns: rewards by name, and those of the user's own."""

import importlib
import logging
import math
import numbers
import time
from collections.abc import Callable
from typing import Any, Final

from vaco.errors import UserError, did_you_mean
from vaco.job import LanguageModelTask, MathReward, PythonReward, RegexReward

from vaco_actor.imports import import_all
from vaco_actor.language.math_answers import is_right

Score = Callable[[str, str, str], object]
"""Called with the problem, the completion and the answer."""

_LOG = logging.getLogger(__name__)

_REGEX_SECONDS: Final = 10.0
_SLOW_IN_A_ROW: Final = 64
_TELL_SECONDS: Final = 60.0
_SHOWN: Final = 200


class RewardFaultError(UserError):
    """A reward that would spoil the weights, or none at all; it would be so again."""

    def __init__(self, reward: str, problem: str, cure: str) -> None:
        super().__init__("spec.task.reward", f"{reward} {problem}", cure)


class Reward:
    """The reward that a task asks for.

    Args:
        task: Its `imports` are imported if the reward is a function of the user's own.

    Raises:
        UserError: The pattern is none, or there is no such function.

    """

    def __init__(self, task: LanguageModelTask) -> None:
        self._bound = task.reward_bound
        self._name: str
        self._score: Score
        match task.reward:
            case MathReward():
                self._name, self._score = "math", _math
            case RegexReward(pattern=pattern):
                self._name, self._score = f"the pattern {pattern!r}", _Pattern(pattern)
            case PythonReward(function=function):
                import_all(task.imports)
                self._name, self._score = function, _function(function)

    def __call__(self, problem: str, completion: str, answer: str) -> float:
        """Return what `completion` earns; it may be empty.

        Raises:
            RewardFaultError: The function raises, or what it returns is no number, not finite, or
                beyond `task.rewardBound`; or the pattern is too slow for one after the other.

        """
        try:
            given = self._score(problem, completion, answer)
        except RewardFaultError:
            raise
        except Exception as error:
            raise RewardFaultError(
                self._name,
                f"raised {type(error).__name__}: {error}, for the completion {_shown(completion)}",
                "Mend it; a completion can be any text, also an empty one.",
            ) from error
        return self._checked(given, completion)

    def _checked(self, given: object, completion: str) -> float:
        if not isinstance(given, numbers.Real) and not _is_scalar(given):
            raise RewardFaultError(
                self._name,
                f"returned {type(given).__name__} for the completion {_shown(completion)}",
                "Have it return a number.",
            )
        reward = float(given)  # type: ignore[arg-type]
        # NaN is not less than anything.
        if abs(reward) <= self._bound:
            return reward
        cure = "Have it return a finite number"
        if math.isfinite(reward):
            cure += ", or raise `spec.task.rewardBound` if such rewards are right"
        raise RewardFaultError(
            self._name,
            f"returned {reward:g} for the completion {_shown(completion)}, and the magnitude of a "
            f"reward may be at most {self._bound:g}",
            f"{cure}.",
        )


def _is_scalar(given: object) -> bool:
    """Return whether it is a number of NumPy's or torch's."""
    return getattr(given, "shape", None) == () and hasattr(given, "__float__")


def _math(_problem: str, completion: str, answer: str) -> float:
    return float(is_right(completion, answer))


class _Pattern:
    """1 if what a pattern finds last is the answer; else 0, also where it takes too long.

    Completions are bounded, but a pattern may try exponentially many ways. What the model writes
    is not the user's fault, so one such completion ends nothing.
    """

    def __init__(self, pattern: str) -> None:
        import regex  # type: ignore[import-untyped]

        try:
            self._compiled = regex.compile(pattern)
        except regex.error as error:
            problem = f"{pattern!r} is no regular expression: {error}"
            raise UserError("spec.task.reward.pattern", problem, "Mend it.") from error
        self._group = 1 if self._compiled.groups else 0
        self._in_a_row = 0
        self._judged = self._slow = 0  # since the last line in the log
        self._tell_at = -math.inf

    def __call__(self, _problem: str, completion: str, answer: str) -> float:
        self._judged += 1
        found = None
        try:
            for match in self._compiled.finditer(completion, timeout=_REGEX_SECONDS):
                found = match.group(self._group)
        except TimeoutError:
            self._too_slow(completion)
            return 0.0
        self._in_a_row = 0
        return float(found is not None and found.strip() == answer.strip())

    def _too_slow(self, completion: str) -> None:
        self._slow += 1
        self._in_a_row += 1
        name = f"the pattern {self._compiled.pattern!r}"
        cure = "Write it without repetitions inside of repetitions."
        if self._in_a_row >= _SLOW_IN_A_ROW:
            raise RewardFaultError(
                name,
                f"took over {_REGEX_SECONDS:g} s for each of {self._in_a_row} completions, one "
                f"after the other; the last is {_shown(completion)}",
                cure,
            )
        now = time.monotonic()
        if now < self._tell_at:
            return
        _LOG.warning(
            "%s took over %g s for %d of the last %d completions, which earn 0, such as %s. %s",
            name,
            _REGEX_SECONDS,
            self._slow,
            self._judged,
            _shown(completion),
            cure,
        )
        self._judged = self._slow = 0
        self._tell_at = now + _TELL_SECONDS


def _function(name: str) -> Score:
    path = "spec.task.reward.function"
    module_name, _, function_name = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UserError(
            path,
            f"{module_name} cannot be imported: {type(error).__name__}: {error}",
            "Install it, or name its file in `spec.task.imports`.",
        ) from error
    function: Any = getattr(module, function_name, None)
    if not callable(function):
        raise UserError(
            path,
            f"{module_name} has no function '{function_name}'",
            did_you_mean(function_name, dir(module)) + "It is written as `module.function`.",
        )
    found: Score = function
    return found


def _shown(completion: str) -> str:
    return repr(completion if len(completion) <= _SHOWN else f"{completion[:_SHOWN]}...")
