"""Whole episodes with a policy's most probable actions: figures and films of them."""

import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from vaco.errors import EXIT_FAILURE, EXIT_OK, UserError
from vaco.job import ActorCriticPolicy, GymnasiumTask, load_job
from vaco_actor import play as play_module
from vaco_actor.environments import make_vector_env, probe_spaces
from vaco_actor.evaluate_command import EvaluateOptions, evaluate
from vaco_actor.play import Episodes, play
from vaco_actor.video import record
from vaco_policy.parameters import to_payload
from vaco_policy.policy import Policy
from vaco_policy.stored import StoredPolicy, write_export

COUNTING = str(Path(__file__).parents[1] / "environments" / "counting.py")
NEVER = threading.Event()


def task(environment: str, **rest: Any) -> GymnasiumTask:
    return GymnasiumTask(environment=environment, imports=[COUNTING], **rest)


def episodes_of(described: GymnasiumTask, environments: int, episodes: int) -> Episodes:
    with make_vector_env(described, environments, 0) as environment:
        played = play(environment, Policy(ActorCriticPolicy(), environment.spaces), episodes, NEVER)
    assert played is not None
    return played


def expected(index: int, episode: int) -> tuple[float, int]:
    import counting

    length = counting.episode_length(index, episode)
    return sum(counting.reward(index, episode, n + 1) for n in range(length)), length


@pytest.mark.parametrize("environment", ["test/Counting-v0", "test/NextStep-v0"])
def test_every_environment_plays_its_share_to_the_end(environment: str) -> None:
    played = episodes_of(task(environment), 3, 8)
    shares = [expected(index, episode) for index in range(3) for episode in range(3)]
    # Eight of nine: the last environment plays one less.
    assert played.returns == tuple(earned for earned, _ in shares[:8])
    assert played.lengths == tuple(length for _, length in shares[:8])


def test_the_most_probable_actions_are_played() -> None:
    described = task("CartPole-v1", max_episode_steps=50)
    assert episodes_of(described, 4, 4) == episodes_of(described, 4, 4)
    with make_vector_env(described, 1, 0) as environment:
        policy = Policy(ActorCriticPolicy(), environment.spaces)
        with torch.no_grad():
            policy.policy_head.bias.copy_(torch.tensor([0.0, 0.7]))
        # Always to the right: the pole falls at once. A sample would go left every third time.
        played = play(environment, policy, 10, NEVER)
    assert played is not None
    assert max(played.lengths) <= 11


def test_memory_lasts_for_an_episode_and_no_longer() -> None:
    spec = ActorCriticPolicy.model_validate({"core": {"type": "gru", "hidden_size": 8}})
    with make_vector_env(task("CartPole-v1", vectorisation="sync"), 1, 0) as environment:
        policy = Policy(spec, environment.spaces)
        seen: list[tuple[bool, bool]] = []
        act = policy.act

        def watching(observations: Any, state: Any, *rest: Any, **named: Any) -> Any:
            start = bool(named["episode_start"].all())
            seen.append((start, bool(state["hidden"].any())))
            return act(observations, state, *rest, **named)

        policy.act = watching  # type: ignore[method-assign]
        play(environment, policy, 3, NEVER)
    assert [start for start, _ in seen].count(True) == 3
    assert all(remembers for _, remembers in seen[1:])


def test_it_can_be_stopped() -> None:
    stop = threading.Event()
    stop.set()
    with make_vector_env(task("CartPole-v1"), 2, 0) as environment:
        assert play(environment, Policy(ActorCriticPolicy(), environment.spaces), 2, stop) is None


def test_an_episode_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(play_module, "MAX_EPISODE_STEPS", 20)
    described = task("test/Spying-v0", kwargs={"kind": "edges"})
    with (
        make_vector_env(described, 2, 0) as environment,
        pytest.raises(UserError, match=r"maxEpisodeSteps.*over 20 steps"),
    ):
        play(environment, Policy(ActorCriticPolicy(), environment.spaces), 2, NEVER)


# The command.

Manifest = Callable[..., Path]


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    def write(environment: str) -> Path:
        document = {
            "apiVersion": "training.vaco.dev/v1alpha1",
            "kind": "VACOJob",
            "metadata": {"name": "test"},
            "spec": {
                "task": {"environment": environment, "imports": [COUNTING]},
                "evaluation": {"intervalEnvSteps": 100, "episodes": 18, "seed": 0},
                "stop": {"envSteps": 1000},
            },
        }
        path = tmp_path / "job.yaml"
        path.write_text(yaml.safe_dump(document))
        spec = load_job(path).spec
        spaces = probe_spaces(spec.task)
        payload = to_payload(Policy(spec.policy, spaces))
        stored = StoredPolicy(spec.policy, spaces, 12, payload)
        write_export(tmp_path / environment.replace("/", "-"), stored)
        return path

    return write


def options(job: Path, environment: str, **rest: Any) -> EvaluateOptions:
    values = {"episodes": None, "video": None, "as_json": True, **rest}
    return EvaluateOptions(job, job.parent / environment.replace("/", "-"), **values)


def test_the_figures_are_over_all_episodes(
    manifest: Manifest, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "test/Counting-v0"
    job = manifest(name)
    assert evaluate(options(job, name), NEVER) == EXIT_OK
    result = json.loads(capsys.readouterr().out)
    # 16 environments: the first two play two episodes, the others one.
    shares = [expected(i, e) for i in range(16) for e in range(2 if i < 2 else 1)]
    returns, lengths = zip(*shares, strict=True)
    assert result == {
        "environment": name,
        "version": 12,
        "episodes": 18,
        "returnMean": pytest.approx(statistics.fmean(returns)),
        "returnStd": pytest.approx(statistics.pstdev(returns)),
        "returnMin": min(returns),
        "returnMax": max(returns),
        "lengthMean": pytest.approx(statistics.fmean(lengths)),
        "returns": list(returns),
        "lengths": list(lengths),
    }
    assert evaluate(options(job, name, episodes=1, as_json=False), NEVER) == EXIT_OK
    told = capsys.readouterr().out
    assert f"{name}, version 12: 1 episodes" in told
    assert "3.00 mean, 0.00 std, 3.00 min, 3.00 max" in told


def test_an_interrupted_evaluation_is_no_success(manifest: Manifest) -> None:
    stop = threading.Event()
    stop.set()
    job = manifest("test/Counting-v0")
    assert evaluate(options(job, "test/Counting-v0"), stop) == EXIT_FAILURE


def test_a_policy_for_other_spaces_is_refused(manifest: Manifest) -> None:
    manifest("test/Counting-v0")
    job = manifest("CartPole-v1")
    with pytest.raises(UserError, match="other spaces than CartPole-v1 has"):
        evaluate(options(job, "test/Counting-v0"), NEVER)


# Films.


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # imageio's reader
@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_film_shows_what_the_environment_draws(tmp_path: Path, suffix: str) -> None:
    import imageio.v3 as imageio

    described = task("CartPole-v1")
    policy = Policy(ActorCriticPolicy(), probe_spaces(described))
    film = tmp_path / "films" / f"pole{suffix}"
    record(described, policy, 0, film)
    frames = imageio.imread(film)
    assert frames.shape[1:] == (400, 600, 3)
    with make_vector_env(described.model_copy(update={"vectorisation": "sync"}), 1, 0) as again:
        played = play(again, policy, 1, NEVER)
    assert played is not None
    # Pillow makes one longer frame of equal ones.
    merged = 0 if suffix == ".mp4" else 3
    assert played.lengths[0] - merged <= len(frames) <= played.lengths[0]
    assert (frames[0] != frames[-1]).any()


def test_filming_says_nothing_of_displays_that_there_are_not(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from vaco.job import *; "
        "from vaco_actor.video import record; from vaco_actor.environments import probe_spaces; "
        "from vaco_policy.policy import Policy; task = GymnasiumTask(environment='CartPole-v1'); "
        "policy = Policy(ActorCriticPolicy(), probe_spaces(task)); "
        "record(task, policy, 0, Path(sys.argv[1]))"
    )
    desktop = ("XDG_RUNTIME_DIR", "DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")
    environ = {name: value for name, value in os.environ.items() if name not in desktop}
    film = tmp_path / "pole.gif"
    command = [sys.executable, "-c", code, str(film)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    assert film.exists()


@pytest.mark.parametrize(
    ("environment", "name", "words"),
    [
        ("CartPole-v1", "pole.avi", "neither .mp4 nor .gif"),
        ("test/Counting-v0", "count.gif", "draws no pictures"),
    ],
)
def test_what_cannot_be_filmed_is_told(
    tmp_path: Path, environment: str, name: str, words: str
) -> None:
    described = task(environment)
    policy = Policy(ActorCriticPolicy(), probe_spaces(described))
    with pytest.raises(UserError, match=words):
        record(described, policy, 0, tmp_path / name)


def test_observations_are_filmed_where_only_they_are_images() -> None:
    from vaco_actor.video import _screen

    grey = np.arange(2 * 3 * 60 * 80, dtype=np.uint8).reshape(2, 3, 60, 80)
    shown = _screen({"observation": grey})
    assert shown.shape == (240, 320, 3)
    np.testing.assert_array_equal(shown[::4, ::4, 1], grey[0, -1])
    colours = np.arange(2 * 240 * 300 * 3, dtype=np.uint8).reshape(2, 240, 300, 3)
    np.testing.assert_array_equal(_screen({"observation": colours}), colours[0])
    stacked = np.stack([colours + 1, colours], axis=1)
    np.testing.assert_array_equal(_screen({"observation": stacked}), colours[0])
    with pytest.raises(UserError, match="draws no pictures"):
        _screen({"observation": np.zeros((2, 4), np.float32)})
