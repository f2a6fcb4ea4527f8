"""Making environments from a task, and what comes in and goes out at their edges."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from vaco.errors import UserError, did_you_mean
from vaco.job import GymnasiumTask
from vaco_actor.environments import make_vector_env, probe_spaces
from vaco_actor.imports import import_all
from vaco_actor.vector_environment import VectorEnvironment
from vaco_policy.spaces import Box, Discrete, MultiBinary, MultiDiscrete

COUNTING = str(Path(__file__).parents[1] / "environments" / "counting.py")


def task(environment: str, **rest: Any) -> GymnasiumTask:
    return GymnasiumTask(environment=environment, imports=[COUNTING], **rest)


def make(described: GymnasiumTask, count: int = 2, seed: int = 0) -> VectorEnvironment:
    return make_vector_env(described, count, seed)


def spy(kind: str) -> VectorEnvironment:
    return make(task("test/Spying-v0", kwargs={"kind": kind}))


def actions_seen(environment: VectorEnvironment) -> list[Any]:
    return [env.actions[-1] for env in inner(environment).call("unwrapped")]


def inner(environment: VectorEnvironment) -> Any:
    return environment._env


def first(environment: VectorEnvironment) -> dict[str, Any]:
    observations = environment.observation_buffers()
    environment.reset(observations)
    return observations


# What is made.


@pytest.mark.parametrize(
    ("described", "name"),
    [
        (task("CartPole-v1"), "CartPoleVectorEnv"),
        (task("CartPole-v1", max_episode_steps=7), "CartPoleVectorEnv"),
        (task("CartPole-v1", kwargs={"sutton_barto_reward": True}), "CartPoleVectorEnv"),
        (task("CartPole-v1", vectorisation="sync"), "SyncVectorEnv"),
        (task("CartPole-v1", wrappers=[{"name": "FlattenObservation"}]), "SyncVectorEnv"),
        (task("Acrobot-v1"), "SyncVectorEnv"),
        (task("test/NextStep-v0", max_episode_steps=2), "SyncVectorEnv"),
    ],
)
def test_auto_takes_the_fastest_that_the_task_allows(described: GymnasiumTask, name: str) -> None:
    with make(described) as environment:
        assert type(inner(environment)).__name__ == name


@pytest.mark.parametrize("vectorisation", ["vectorEntryPoint", "sync"])
def test_a_limit_of_steps_truncates(vectorisation: Any) -> None:
    limited = task("CartPole-v1", max_episode_steps=3, vectorisation=vectorisation)
    with make(limited) as environment:
        observations = first(environment)
        ends = [environment.step(np.array([0, 1]), observations).truncated for _ in range(3)]
    np.testing.assert_array_equal(ends, [[False, False], [False, False], [True, True]])


def test_wrappers_go_around_in_order() -> None:
    wrappers = [
        {"name": "counting:Doubling", "kwargs": {"times": 3}},
        {"name": "ClipReward", "kwargs": {"max_reward": 5}},
    ]
    with make(task("test/Counting-v0", wrappers=wrappers)) as environment:
        observations = first(environment)
        rewards = environment.step(np.array([0, 0]), observations).rewards
    # Environment 0 earns 1 in its first step and environment 1 earns 101.
    np.testing.assert_array_equal(rewards, [3, 5])


def test_seeds_decide_and_differ_between_environments() -> None:
    seen = [first(make(task("CartPole-v1"), seed=seed))["observation"] for seed in (5, 5, 6)]
    np.testing.assert_array_equal(seen[0], seen[1])
    assert not np.isclose(seen[0], seen[2]).any()
    assert not np.isclose(seen[0][0], seen[0][1]).any()


def test_any_seed_will_do() -> None:
    make(task("Acrobot-v1"), seed=2**63 - 1).close()


def test_spaces_do_not_depend_on_the_vectorisation() -> None:
    texts = {
        probe_spaces(task("CartPole-v1", vectorisation=kind)).to_json()
        for kind in ("sync", "vectorEntryPoint")
    }
    assert len(texts) == 1


# What cannot be made.


@pytest.mark.parametrize(
    ("described", "path", "words"),
    [
        (task("CartPol-v1"), "spec.task.environment", "Did you mean `CartPole-v1`?"),
        (task("cartpole"), "spec.task.environment", "Did you mean `CartPole-v1`?"),
        (task("ALE/Pongg-v5"), "spec.task.environment", "Did you mean `ALE/Pong-v5`?"),
        (task("zzzz"), "spec.task.environment", "spec.task.imports"),
        (task("CartPole-v1", kwargs={"gravitas": 1}), "spec.task.kwargs", "gravitas"),
        (
            task("CartPole-v1", kwargs={"gravitas": 1}, vectorisation="vectorEntryPoint"),
            "spec.task.vectorisation",
            "takes no gravitas",
        ),
        (
            task("Acrobot-v1", vectorisation="vectorEntryPoint"),
            "spec.task.vectorisation",
            "Acrobot-v1 has no vector entry point",
        ),
        (
            task("CartPole-v1", wrappers=[{"name": "FlatenObservation"}]),
            "spec.task.wrappers.0",
            "Did you mean `FlattenObservation`?",
        ),
        (
            task("CartPole-v1", wrappers=[{"name": "nowhere:Thing"}]),
            "spec.task.wrappers.0",
            "nowhere",
        ),
        (
            task("CartPole-v1", wrappers=[{"name": "ClipReward", "kwargs": {"most": 1}}]),
            "spec.task.wrappers.0",
            "ClipReward",
        ),
        (GymnasiumTask(environment="x", imports=["nowhere"]), "spec.task.imports", "nowhere"),
        (GymnasiumTask(environment="x", imports=["/no/where.py"]), "spec.task.imports", "where.py"),
        (task("Blackjack-v1"), "spec.task.environment", "FlattenObservation"),
        (task("test/Spying-v0", kwargs={"kind": "texts"}), "spec.task.environment", "Text"),
        (task("test/Spying-v0", kwargs={"kind": "counts"}), "spec.task.environment", "actions"),
        (task("FrozenLake-v1", frame_stack=2), "spec.task.frameStack", "Discrete"),
        (task("test/ByHand-v0"), "spec.task.vectorisation", "Use sync"),
    ],
)
def test_what_cannot_be_made_is_told_with_its_cure(
    described: GymnasiumTask, path: str, words: str
) -> None:
    with pytest.raises(UserError) as told:
        make(described)
    assert told.value.path == path
    assert words in str(told.value)


def test_nothing_is_suggested_for_what_resembles_nothing() -> None:
    assert did_you_mean("xyz", ["CartPole-v1", "Pong"]) == ""


def test_a_file_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    file = tmp_path / "unfinished_task.py"
    file.write_text("raise RuntimeError('not yet')")
    with pytest.raises(UserError, match="RuntimeError: not yet"):
        import_all([str(file)])
    file.write_text("READY = True")
    import_all([str(file)])
    import unfinished_task

    assert unfinished_task.READY


def test_a_file_does_not_hide_an_installed_module(tmp_path: Path) -> None:
    file = tmp_path / "json.py"
    file.write_text("")
    with pytest.raises(UserError, match="another module called json"):
        import_all([str(file)])


# What goes in and comes out.


def test_box_actions_move_to_the_edge_in_the_environments_precision() -> None:
    with spy("edges") as environment:
        assert environment.spaces.action == Box((1, 2), "float32", (-0.1, 0.0), (0.1, 2.0))
        observations = first(environment)
        environment.step(np.array([[9.0, 1.5], [-9.0, -1.0]], np.float32), observations)
        seen = actions_seen(environment)
    # float32(0.1) lies outside of float64's 0.1, which the environment would refuse.
    np.testing.assert_array_equal(seen, [[[0.1, 1.5]], [[-0.1, 0.0]]])
    assert seen[0].dtype == np.float64


def test_choices_that_start_elsewhere_count_from_zero() -> None:
    with spy("starts") as environment:
        assert environment.spaces.observation == {"observation": Discrete(4)}
        assert environment.spaces.action == Discrete(3)
        observations = first(environment)
        seen = set()
        for _ in range(30):
            environment.step(np.array([0, 2]), observations)
            seen.update(observations["observation"].tolist())
        assert actions_seen(environment) == [-1, 1]
    assert seen == {0, 1, 2, 3}


def test_grids_become_flat() -> None:
    with spy("grids") as environment:
        assert environment.spaces.observation == {"observation": MultiBinary(6)}
        assert environment.spaces.action == MultiDiscrete((2, 3, 4, 5))
        observations = first(environment)["observation"]
        assert observations.shape == (2, 6)
        assert observations.dtype == np.int8
        environment.step(np.array([[1, 2, 3, 4], [0, 1, 2, 3]]), {"observation": observations})
        np.testing.assert_array_equal(
            actions_seen(environment), [[[1, 2], [3, 4]], [[0, 1], [2, 3]]]
        )
        raw = inner(environment)._env_obs
    np.testing.assert_array_equal(observations, [raw[0].ravel(), raw[1].ravel()])


def test_a_dict_keeps_its_names_and_dtypes() -> None:
    with spy("parts") as environment:
        seen = first(environment)
        assert {name: (a.shape, a.dtype.name) for name, a in seen.items()} == {
            "what": ((2,), "int64"),
            "where": ((2, 2), "float32"),
            "screen": ((2, 4, 4, 1), "uint8"),
        }
        raw = inner(environment)._env_obs
        for name, values in seen.items():
            np.testing.assert_array_equal(values, [raw[0][name], raw[1][name]])


@pytest.mark.parametrize(
    ("shape", "dtype", "stacked"),
    [
        ((4,), "float32", (12,)),
        ((), "float32", (3,)),
        ((8, 6), "uint8", (3, 8, 6)),
        ((8, 6, 3), "uint8", (3, 8, 6, 3)),
    ],
)
def test_the_stacked_space(shape: tuple[int, ...], dtype: Any, stacked: tuple[int, ...]) -> None:
    from vaco_actor.frame_stack import stacked_spaces

    space = stacked_spaces({"observation": Box(shape, dtype)}, 3)["observation"]
    assert space == Box(stacked, dtype)


def test_bounds_are_stacked_with_their_elements() -> None:
    with make(task("CartPole-v1", frame_stack=2)) as environment:
        space = environment.spaces.observation["observation"]
        assert isinstance(space, Box)
        assert space.low == space.low[:4] * 2
        assert len(set(space.low)) > 1
