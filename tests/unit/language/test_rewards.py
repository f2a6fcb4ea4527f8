"""Rewards by name and by function, and those that would spoil the weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vaco_actor.language.rewards as rewards_module
from vaco.errors import UserError
from vaco.job import LanguageModelTask
from vaco_actor.language.rewards import Reward, RewardFaultError

OWN = """
import math
seen = []
def length(problem, completion, answer):
    seen.append((problem, completion, answer))
    return len(completion)
def right(problem, completion, answer): return completion == answer
def nothing(problem, completion, answer): return None
def not_a_number(problem, completion, answer): return math.nan
def endless(problem, completion, answer): return -math.inf
def large(problem, completion, answer): return 2e6
def failing(problem, completion, answer): return 1 / len(completion)
def array(problem, completion, answer):
    import numpy
    return numpy.float32(0.25)
constant = 3
"""


def task(reward: dict[str, Any], **more: Any) -> LanguageModelTask:
    return LanguageModelTask.model_validate({"type": "languageModel", "reward": reward, **more})


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Reward]:
    """Makes rewards of functions in a user's file."""
    import sys

    file = tmp_path / "own_rewards.py"
    file.write_text(OWN)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))

    def make(function: str, **more: Any) -> Reward:
        spec = {"type": "python", "function": f"own_rewards.{function}"}
        return Reward(task(spec, imports=[str(file)], **more))

    return make


def test_math_is_one_or_nothing() -> None:
    reward = Reward(task({"type": "math"}))
    assert reward("2+2=", "4", "4") == 1.0
    assert reward("2+2=", "5", "4") == 0.0
    assert reward("2+2=", "", "4") == 0.0


@pytest.mark.parametrize(
    ("pattern", "completion", "answer", "earned"),
    [
        (r"<answer>(.*?)</answer>", "<answer>a</answer> <answer> b </answer>", "b", 1.0),
        (r"<answer>(.*?)</answer>", "<answer>b</answer> <answer>a</answer>", "b", 0.0),
        (r"\d+$", "so 42", " 42", 1.0),
        (r"\d+$", "42 so", "42", 0.0),
        (r"(x)|y", "y", "y", 0.0),
        (r"\d*", "", "", 1.0),
    ],
)
def test_a_patterns_last_match_is_compared(
    pattern: str, completion: str, answer: str, earned: float
) -> None:
    assert Reward(task({"type": "regex", "pattern": pattern}))("p", completion, answer) == earned


def test_a_pattern_that_is_none_is_refused_by_its_field() -> None:
    with pytest.raises(UserError, match=r"`spec.task.reward.pattern`: '\(a' is no regular"):
        Reward(task({"type": "regex", "pattern": "(a"}))


def test_a_pattern_that_tries_too_many_ways_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewards_module, "_REGEX_SECONDS", 0.05)
    reward = Reward(task({"type": "regex", "pattern": r"^(a|b|ab)*$"}))
    with pytest.raises(RewardFaultError, match=r"took over 0.05 s .* repetitions inside"):
        reward("p", "ab" * 5000 + "c", "a")


def test_a_function_gets_problem_completion_and_answer(own: Callable[..., Reward]) -> None:
    import sys

    assert own("length")("problem", "four", "answer") == 4.0
    assert sys.modules["own_rewards"].seen == [("problem", "four", "answer")]
    assert own("right")("problem", "a", "a") == 1.0
    assert own("array")("problem", "a", "a") == 0.25


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("failing", "own_rewards.failing raised ZeroDivisionError: division by zero, for the"),
        ("nothing", "own_rewards.nothing returned NoneType for the completion ''"),
        ("not_a_number", "own_rewards.not_a_number returned nan for the completion ''"),
        ("endless", "own_rewards.endless returned -inf"),
        ("large", "own_rewards.large returned 2e+06"),
    ],
)
def test_a_function_that_would_spoil_the_weights_is_named(
    own: Callable[..., Reward], function: str, told: str
) -> None:
    with pytest.raises(RewardFaultError) as raised:
        own(function)("problem", "", "answer")
    assert str(raised.value).startswith(f"`spec.task.reward`: {told}")
    assert raised.value.cure


def test_the_bound_is_the_tasks(own: Callable[..., Reward]) -> None:
    assert own("large", rewardBound=2e6)("p", "c", "a") == 2e6
    with pytest.raises(RewardFaultError, match=r"raise `spec\.task\.rewardBound`"):
        own("length", rewardBound=3)("p", "four", "a")


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("own_rewards.lenght", "Did you mean `length`"),
        ("own_rewards.constant", "no function 'constant'"),
        ("no_such_module.reward", "no_such_module cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_function_that_is_not_there_is_refused_by_its_field(
    own: Callable[..., Reward], function: str, told: str
) -> None:
    own("length")
    with pytest.raises(UserError, match=told) as raised:
        Reward(task({"type": "python", "function": function}))
    assert raised.value.path == "spec.task.reward.function"


def test_a_reward_is_a_plain_number(own: Callable[..., Reward]) -> None:
    found = own("array")("p", "c", "a")
    assert type(found) is float
    assert math.isfinite(found)
    assert not isinstance(found, np.floating)
