"""Rewards by name and by function, and those that would spoil the weights."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
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
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Reward]]:
    """Makes rewards of functions in a module of the user's own, which is importable meanwhile."""
    (tmp_path / "own_rewards.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)

    def make(function: str, **more: Any) -> Reward:
        return Reward(task({"type": "python", "function": f"own_rewards.{function}"}, **more))

    yield make
    sys.modules.pop("own_rewards", None)


def test_a_function_may_be_in_a_file_that_is_imported(tmp_path: Path) -> None:
    file = tmp_path / "rewards_in_a_file.py"
    file.write_text(OWN)
    spec = {"type": "python", "function": "rewards_in_a_file.length"}
    try:
        assert Reward(task(spec, imports=[str(file)]))("p", "four", "a") == 4.0
    finally:
        sys.modules.pop(file.stem, None)


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


SLOW = ("p", "ab" * 5000 + "c", "a")


def slow_pattern(monkeypatch: pytest.MonkeyPatch, in_a_row: int) -> Reward:
    monkeypatch.setattr(rewards_module, "_REGEX_SECONDS", 0.02)
    monkeypatch.setattr(rewards_module, "_SLOW_IN_A_ROW", in_a_row)
    return Reward(task({"type": "regex", "pattern": r"^(a|b|ab)*$"}))


def test_a_completion_that_a_pattern_is_too_slow_for_earns_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reward = slow_pattern(monkeypatch, 3)
    for _ in range(3):
        assert reward("p", "ab", "b") == 1.0
        assert [reward(*SLOW), reward(*SLOW)] == [0.0, 0.0]
    (told,) = caplog.messages  # of a minute
    assert "took over 0.02 s for 1 of the last 2 completions, which earn 0, such as 'abab" in told
    caplog.clear()
    monkeypatch.setattr(rewards_module, "_TELL_SECONDS", 0.0)
    reward = slow_pattern(monkeypatch, 3)
    for completion in (SLOW, ("p", "ab", "b"), SLOW, SLOW):
        reward(*completion)
    counts = [told.split(" for ")[1].split(" completions")[0] for told in caplog.messages]
    assert counts == ["1 of the last 1", "1 of the last 2", "1 of the last 1"]


def test_a_pattern_that_is_too_slow_for_all_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    reward = slow_pattern(monkeypatch, 3)
    assert [reward(*SLOW), reward(*SLOW)] == [0.0, 0.0]
    with pytest.raises(RewardFaultError, match=r"for each of 3 completions, one after the other"):
        reward(*SLOW)


def test_a_function_gets_problem_completion_and_answer(own: Callable[..., Reward]) -> None:
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
