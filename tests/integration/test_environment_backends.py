"""Environments stepped by other people's C++ and by worker processes start anew as we assume."""

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from vaco.errors import UserError
from vaco.job import ActorCriticPolicy, CnnNetwork, GymnasiumTask
from vaco.trajectory import Fragment
from vaco.weights import Weights
from vaco_actor.environments import make_vector_env, probe_spaces
from vaco_actor.mailbox import Mailbox
from vaco_actor.rollout import Rollout, RolloutSettings
from vaco_actor.vector_environment import VectorEnvironment
from vaco_policy.parameters import to_payload
from vaco_policy.policy import Policy
from vaco_policy.spaces import Box, Discrete

COUNTING = str(Path(__file__).parents[1] / "environments" / "counting.py")


def fragments(
    environment: VectorEnvironment, length: int, count: int, spec: ActorCriticPolicy | None = None
) -> list[Fragment]:
    torch.set_num_threads(1)
    policy = Policy(spec or ActorCriticPolicy(), environment.spaces)
    mailbox = Mailbox()
    mailbox.offer(Weights(1, 1, to_payload(policy), ""))
    settings = RolloutSettings("job", "actor-0", 1, length, 0.99, 1e6, 1)
    rollout = Rollout(environment, policy, mailbox, settings)
    made = [rollout.collect(threading.Event()) for _ in range(count)]
    return [fragment for fragment in made if fragment is not None]


def inner(environment: VectorEnvironment) -> Any:
    return environment._env


def test_envpool_starts_anew_in_the_next_step() -> None:
    pytest.importorskip("envpool")
    # `auto` finds envpool by itself for the MuJoCo tasks of gymnasium.
    described = GymnasiumTask(environment="HalfCheetah-v5", max_episode_steps=5)
    with make_vector_env(described, 3, 11, threads=2) as environment:
        assert "EnvPool" in type(inner(environment)).__name__
        assert environment.spaces.observation["observation"] == Box((17,), "float32")
        assert environment.spaces.action == Box((6,), "float32", (-1.0,), (1.0,))
        first, second = fragments(environment, 8, 2)
    truncated = np.concatenate([first.truncated, second.truncated])
    valid = np.concatenate([first.valid, second.valid])
    rewards = np.concatenate([first.rewards, second.rewards])
    ends = [4, 10]
    assert np.flatnonzero(truncated.all(axis=1)).tolist() == ends
    assert truncated.sum() == 3 * len(ends)
    assert np.flatnonzero((~valid).all(axis=1)).tolist() == [5, 11]
    assert (rewards[[5, 11]] == 0).all()
    assert (rewards[valid] != 0).all()
    starts = first.episode_start
    assert np.flatnonzero(starts.all(axis=1)).tolist() == [0, 6]
    # The joints begin near zero, at rest; where an episode was cut they move.
    speed = np.abs(first.observations["observation"][..., 8:]).max(axis=-1)
    assert (speed[[0, 6]] < 0.6).all()
    assert (speed[5] > 0.6).all()
    assert first.episode_lengths.tolist() == [5, 5, 5]
    assert second.episode_lengths.tolist() == [5, 5, 5]


def test_envpool_is_seeded() -> None:
    pytest.importorskip("envpool")
    seen = []
    for seed in (1, 1, 2):
        described = GymnasiumTask(environment="Hopper-v5")
        with make_vector_env(described, 2, seed) as environment:
            observations = environment.observation_buffers()
            environment.reset(observations)
        seen.append(observations["observation"])
    np.testing.assert_array_equal(seen[0], seen[1])
    assert not np.isclose(seen[0], seen[2]).all(axis=1).any()
    assert not np.isclose(seen[0][0], seen[0][1]).all()


@pytest.mark.parametrize("mode", [None, "SameStep"])
def test_atari_frames_and_where_its_episodes_end(mode: str | None) -> None:
    pytest.importorskip("ale_py")
    kwargs: dict[str, Any] = {"noop_max": 1, "use_fire_reset": False}
    if mode:
        kwargs["autoreset_mode"] = mode
    described = GymnasiumTask(
        environment="ALE/Pong-v5", frame_stack=3, max_episode_steps=10, kwargs=kwargs
    )
    spec = ActorCriticPolicy(network=CnnNetwork(type="cnn", architecture="nature", hidden_size=16))
    with make_vector_env(described, 2, 0) as environment:
        assert type(inner(environment)).__name__ == "AtariVectorEnv"
        assert environment.spaces.observation["observation"] == Box(
            (3, 84, 84), "uint8", (0.0,), (255.0,)
        )
        assert environment.spaces.action == Discrete(6)
        (fragment,) = fragments(environment, 16, 1, spec)
    seen = fragment.observations["observation"]
    t = 9
    assert np.flatnonzero(fragment.truncated.any(axis=1)).tolist() == [t]
    assert fragment.truncated[t].all()
    start = t + 1 if mode else t + 2
    assert np.flatnonzero(fragment.episode_start.all(axis=1)).tolist() == [0, start]
    # The stack moves by one frame per step within an episode, the newest frame last.
    for step in range(t):
        np.testing.assert_array_equal(seen[step, :, 1:], seen[step + 1, :, :-1])
    before = seen[t]
    after = fragment.final_observations["observation"] if mode else seen[t + 1]
    np.testing.assert_array_equal(before[:, 1:], after[:, :-1])
    assert fragment.final_steps.tolist() == ([2 * t, 2 * t + 1] if mode else [])
    assert (~fragment.valid).sum() == (0 if mode else 2)


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_a_game_shows_as_many_frames_as_the_manifest_says(frames: int) -> None:
    pytest.importorskip("ale_py")
    described = GymnasiumTask(environment="ALE/Pong-v5", frame_stack=frames)
    assert probe_spaces(described).observation["observation"] == Box(
        (frames, 84, 84), "uint8", (0.0,), (255.0,)
    )


def earned(kwargs: dict[str, Any]) -> set[float]:
    """The rewards of a while of Space Invaders, whose aliens are worth 5 to 30 points."""
    pytest.importorskip("ale_py")
    described = GymnasiumTask(environment="ALE/SpaceInvaders-v5", kwargs=kwargs)
    spec = ActorCriticPolicy(network=CnnNetwork(type="cnn", architecture="nature", hidden_size=16))
    with make_vector_env(described, 4, 0) as environment:
        (fragment,) = fragments(environment, 150, 1, spec)
    return set(fragment.rewards.ravel().tolist())


def test_a_game_gives_the_points_that_it_shows() -> None:
    assert max(earned({})) >= 5


def test_a_game_clips_its_points_for_who_asks_for_it() -> None:
    assert earned({"reward_clipping": True}) == {0.0, 1.0}


def test_a_game_does_not_turn_into_another_task_unasked() -> None:
    pytest.importorskip("ale_py")
    easy = GymnasiumTask(environment="ALE/Pong-v5", kwargs={"difficulty": 0})
    with pytest.raises(UserError) as told:
        probe_spaces(easy)
    assert told.value.path == "spec.task.kwargs"
    assert "takes no difficulty" in str(told.value)
    assert "`vectorisation: sync`" in str(told.value)
    asked = probe_spaces(easy.model_copy(update={"vectorisation": "sync"}))
    assert asked.observation["observation"] == Box((210, 160, 3), "uint8", (0.0,), (255.0,))


def test_a_game_has_one_number_of_frames() -> None:
    pytest.importorskip("ale_py")
    two = GymnasiumTask(environment="ALE/Pong-v5", frame_stack=2, kwargs={"stack_num": 4})
    with pytest.raises(
        UserError, match=r"stack_num 4, but frameStack is 2.*spec\.task\.frameStack"
    ):
        probe_spaces(two)


def test_worker_processes_tell_what_one_process_does() -> None:
    described = {
        kind: GymnasiumTask.model_validate(
            {
                "environment": "test/Counting-v0",
                "imports": [COUNTING],
                "vectorisation": kind,
            }
        )
        for kind in ("sync", "async")
    }
    made = {}
    for kind, each in described.items():
        with make_vector_env(each, 4, 0) as environment:
            made[kind] = fragments(environment, 6, 4)
    assert len(made["async"]) == 4
    for ours, theirs in zip(made["sync"], made["async"], strict=True):
        for name in ("rewards", "truncated", "episode_start", "final_steps", "actions"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
        for name in ("observations", "final_observations"):
            a, b = getattr(ours, name), getattr(theirs, name)
            assert a.keys() == b.keys()
            assert all((a[key] == b[key]).all() for key in a)


def test_worker_processes_end_with_the_environment() -> None:
    described = GymnasiumTask(environment="CartPole-v1", vectorisation="async")
    with make_vector_env(described, 2, 0) as environment:
        workers = [process.pid for process in inner(environment).processes]
        assert os.getpid() not in workers
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
