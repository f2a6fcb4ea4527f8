"""The examples are valid, say how they are run, and the memory task needs memory."""

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from vaco.job import load_job

EXAMPLES = Path(__file__).parents[2] / "examples"
MANIFESTS = sorted(EXAMPLES.glob("*.yaml"))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_an_example_is_valid_and_says_how_it_is_run(path: Path) -> None:
    assert load_job(path).metadata.name == path.stem
    comment = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert f"#   vaco run examples/{path.name}" in comment


def test_there_is_an_example_of_each_kind() -> None:
    assert {path.stem for path in MANIFESTS} >= {
        "arithmetic",
        "cartpole",
        "gsm8k-qwen",
        "halfcheetah",
        "lunarlander",
        "memory",
        "pong",
    }


def test_the_example_for_gpus_says_that_it_was_not_run() -> None:
    path = EXAMPLES / "gsm8k-qwen.yaml"
    assert "# NOT RUN by those who wrote it" in path.read_text()
    spec = load_job(path).spec
    assert spec.language.policy.gradient_checkpointing
    assert (spec.learner.precision, spec.learner.device) == ("bf16", "cuda")
    for end, name in ((spec.learner, "learner"), (spec.actors, "actor")):
        (container,) = end.pod_template["spec"]["containers"]
        assert container["name"] == name
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


@pytest.fixture
def recall() -> Iterator[Callable[..., gymnasium.Env[Any, Any]]]:
    (path,) = load_job(EXAMPLES / "memory.yaml").spec.task.imports
    spec = importlib.util.spec_from_file_location("recall_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["recall_example"] = module
    spec.loader.exec_module(module)
    yield lambda **kwargs: gymnasium.make("vaco/Recall-v0", **kwargs)
    del sys.modules["recall_example"]
    del gymnasium.registry["vaco/Recall-v0"]


def play(env: gymnasium.Env[Any, Any], answer: Callable[[list[Any]], int], episodes: int) -> float:
    rewards = []
    env.reset(seed=1)
    for _ in range(episodes):
        seen = [env.reset()[0]]
        done = False
        while not done:
            observation, reward, done, truncated, _ = env.step(np.int64(answer(seen)))
            assert not truncated
            seen.append(observation)
            rewards.append(float(reward))
    return sum(rewards) / episodes


def test_recall_is_a_sound_environment(recall: Callable[..., gymnasium.Env[Any, Any]]) -> None:
    check_env(recall(cues=3, delay=2).unwrapped, skip_render_check=True)


def test_recall_rewards_the_cue_of_the_first_step(
    recall: Callable[..., gymnasium.Env[Any, Any]],
) -> None:
    env = recall(cues=4, delay=3)
    assert play(env, lambda seen: int(seen[0].argmax()), 200) == 1.0
    assert play(env, lambda seen: int(seen[0].argmax() + 1) % 4, 200) == 0.0


def test_recall_shows_the_cue_once_and_then_the_signal(
    recall: Callable[..., gymnasium.Env[Any, Any]],
) -> None:
    env = recall(cues=4, delay=3)
    seen = [env.reset(seed=1)[0]]
    seen += [env.step(np.int64(0))[0] for _ in range(4)]
    assert [each[:4].sum() for each in seen] == [1, 0, 0, 0, 0]
    assert [each[4] for each in seen] == [0, 0, 0, 1, 0]


def test_recall_without_memory_is_guessing(
    recall: Callable[..., gymnasium.Env[Any, Any]],
) -> None:
    def newest(seen: list[Any]) -> int:
        return int(seen[-1].argmax()) % 4

    assert play(recall(cues=4, delay=3), newest, 2000) == pytest.approx(0.25, abs=0.05)


def test_recall_refuses_what_is_no_task(recall: Callable[..., gymnasium.Env[Any, Any]]) -> None:
    with pytest.raises(ValueError, match="cues=1"):
        recall(cues=1)
