"""`vaco run` for real: a learner and actors as processes, scaled, interrupted, killed, resumed."""

import functools
import json
import math
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from vaco_operator.local.interrupts import SAME_SECONDS

VACO = str(Path(sys.executable).with_name("vaco"))
# Of minutes, because starting PyTorch several times on a busy machine takes a while.
pytestmark = pytest.mark.timeout(600)
PAUSE = threading.Event()
MANIFEST = """
apiVersion: training.vaco.dev/v1alpha1
kind: VACOJob
metadata: {name: pole}
spec:
  task: {environment: CartPole-v1}
  policy: {network: {type: mlp, hiddenSizes: [16]}}
  rollout: {environmentsPerActor: 8, fragmentLength: 32}
  learner: {batchSize: 512, tensorboard: false, checkpoint: {intervalSeconds: 1}}
  actors: {minReplicas: 1, maxReplicas: 2, drainSeconds: 10}
  autoscaling: {mode: fixed}
  stop: {envSteps: 100_000_000}
"""
COUNTING = Path(__file__).parents[1] / "environments" / "counting.py"


@pytest.fixture
def vaco_run(start_run: Callable[..., Any]) -> Callable[..., Any]:
    """Return `start(*options)` of the manifest above."""
    return functools.partial(start_run, MANIFEST)


def balances(status: dict[str, Any]) -> bool:
    ledger = status["ledger"]
    placed = sum(ledger[name] for name in ("queued", "trained", "stale", "duplicate", "rejected"))
    return bool(placed == ledger["received"] > 0)


def trained(status: dict[str, Any]) -> bool:
    return bool(status["envSteps"] > 2000 and status["checkpointVersion"] > 0)


def call(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        [VACO, *arguments], cwd=root, capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout


def test_a_learner_that_hangs_is_killed_and_started_again(vaco_run, monkeypatch):
    monkeypatch.setenv("VACO_STUCK_SECONDS", "20")
    runner = vaco_run()
    before = runner.until(trained)
    runner.named("learner").send_signal(signal.SIGSTOP)
    after = runner.until(lambda s: s["incarnation"] > before["incarnation"])
    assert (after["incarnation"], after["learnerRestarts"]) == (before["incarnation"] + 1, 1)
    assert runner.until(lambda s: s["version"] > after["version"])
    (stuck,) = runner.events("stuck")
    assert "it has not answered for" in stuck["message"]
    assert runner.end(signal.SIGINT) == 130


def test_a_run_completes_and_can_be_evaluated_and_exported(vaco_run, tmp_path):
    runner = vaco_run("--set", "stop.envSteps=5000")
    assert runner.end() == 0, runner.output()
    status = runner.status()
    assert status["phase"] == "Complete"
    assert status["envSteps"] >= 5000
    assert balances(status)
    assert (runner.root / "report.html").exists()
    documented = (Path(__file__).parents[2] / "docs" / "running.md").read_text()
    for path in runner.root.iterdir():
        assert f"`{path.name}{'/' if path.is_dir() else ''}`" in documented
    assert "Complete:" in runner.output()
    assert json.loads(call(tmp_path, "status", "pole", "--json")) == status
    result = json.loads(call(tmp_path, "evaluate", "pole", "--episodes", "2", "--json"))
    assert result["episodes"] == 2
    call(tmp_path, "export", "pole", "--out", "policy")
    assert list((tmp_path / "policy").glob("*.safetensors"))
    again = vaco_run("--set", "stop.envSteps=5000")
    assert again.end() == 0
    assert "complete already" in again.output()


def test_an_interrupted_run_is_resumed_where_it_was(vaco_run):
    first = vaco_run()
    first.until(trained)
    assert first.end(signal.SIGINT) == 130, first.output()
    before = first.status()
    assert before["phase"] == "Suspended"
    assert before["checkpointVersion"] == before["version"]
    assert balances(before)
    second = vaco_run()
    after = second.until(lambda s: s["envSteps"] > before["envSteps"])
    assert "resuming" in second.output()
    assert after["version"] >= before["version"]
    assert after["trainSeconds"] > before["trainSeconds"]
    assert after["startTime"] == before["startTime"]
    assert second.end(signal.SIGTERM) == 143


def test_nothing_outlives_a_runner_that_is_killed_and_its_run_goes_on(vaco_run, tmp_path):
    first = vaco_run()
    before = first.until(trained)
    assert len(first.children()) >= 2
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    assert json.loads(call(tmp_path, "status", "pole", "--json"))["phase"] == "Suspended"
    second = vaco_run()
    second.until(lambda s: s["phase"] == "Running" and s["incarnation"] == 2)
    second.until(lambda s: s["envSteps"] > before["envSteps"] and balances(s))
    assert second.end(signal.SIGINT) == 130


def test_what_dies_is_started_again_and_actors_find_their_learner(vaco_run):
    runner = vaco_run()
    runner.until(trained)
    runner.named("actor-0").kill()
    runner.until(lambda s: runner.events("died") and s["actors"]["ready"] == 1)
    runner.named("learner").kill()
    restarted = runner.until(lambda s: s["incarnation"] == 2 and s["actors"]["ready"] == 1)
    assert restarted["learnerRestarts"] == 1
    runner.until(lambda s: s["version"] > restarted["version"] and balances(s))
    assert runner.end(signal.SIGINT) == 130
    died = [(event["process"], event["exit_code"]) for event in runner.events("died")]
    assert died == [("actor-0", -9), ("learner", -9)]


def test_a_learner_that_dies_too_often_fails_the_run(vaco_run):
    runner = vaco_run("--set", "backoffLimit=0")
    runner.until(trained)
    runner.named("learner").kill()
    assert runner.end() == 1
    status = runner.status()
    assert status["phase"] == "Failed"
    assert "learner ended (killed by SIGKILL)" in status["message"]
    assert "backoffLimit" in status["message"]
    assert "logs/learner.log" in runner.output()


def test_a_second_interruption_ends_even_what_does_not_drain(vaco_run):
    runner = vaco_run("--set", "actors.drainSeconds=3000")
    runner.until(trained)
    runner.named("actor-0").send_signal(signal.SIGSTOP)
    runner.process.send_signal(signal.SIGINT)
    runner.until(lambda _: "stopping" in runner.output())
    # Signals closer together than this are taken for one.
    PAUSE.wait(2 * SAME_SECONDS)
    assert runner.process.poll() is None
    assert runner.end(signal.SIGINT) == 130


def test_the_number_of_actors_is_scaled_by_hand_within_its_bounds(vaco_run, tmp_path):
    runner = vaco_run()
    runner.until(trained)
    answer = call(tmp_path, "scale", "pole", "5")
    assert answer.startswith("2 actors: asked for 5, limited to 2")
    more = runner.until(lambda s: s["actors"]["ready"] == 2)
    assert more["actors"]["desired"] == 2
    limited = next(c for c in more["conditions"] if c["type"] == "ScalingLimited")
    assert (limited["status"], limited["reason"]) == ("True", "MaxReplicas")
    call(tmp_path, "scale", "pole", "1")
    fewer = runner.until(lambda s: (s["actors"]["desired"], s["actors"]["ready"]) == (1, 1))
    assert (fewer["actors"]["min"], fewer["actors"]["max"]) == (1, 2)
    assert fewer["scaling"]["events"] == 2
    assert runner.end(signal.SIGINT) == 130
    assert [(e["before"], e["after"]) for e in runner.events("scaled")] == [(1, 2), (2, 1)]
    assert not runner.events("died")


def test_supply_follows_demand_by_itself(vaco_run):
    # One environment an actor: what one produces is far less than training could take.
    runner = vaco_run(
        *("--set", "autoscaling.mode=auto", "--set", "autoscaling.intervalSeconds=1"),
        *("--set", "rollout.environmentsPerActor=1", "--set", "learner.batchSize=256"),
        *("--set", "algorithm.epochs=1"),
    )
    status = runner.until(lambda s: s["scaling"]["events"] >= 1 and s["actors"]["ready"] == 2)
    assert status["actors"]["desired"] == 2
    assert runner.end(signal.SIGINT) == 130
    (grown,) = runner.events("scaled")
    assert (grown["before"], grown["after"]) == (1, 2)
    assert grown["reason"]
    assert runner.status()["scaling"]["events"] == 1


def test_a_run_can_be_watched_in_tensorboard(vaco_run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    runner = vaco_run("--set", "learner.tensorboard=true", "--set", "stop.envSteps=5000")
    assert runner.end() == 0, runner.output()
    events = EventAccumulator(str(runner.root / "tensorboard"))
    events.Reload()
    lines = map(json.loads, (runner.root / "metrics.jsonl").read_text().splitlines())
    losses = {line["env_steps"]: line["policy_loss"] for line in lines if "policy_loss" in line}
    scalars = {name: events.Scalars(name) for name in events.Tags()["scalars"]}
    points = scalars[next(name for name in scalars if name.endswith("policy_loss"))]
    assert points
    for point in points:
        assert point.value == pytest.approx(losses[point.step], rel=1e-5)


@pytest.mark.parametrize("dose", ["nan", "1e30"])
def test_a_poisonous_reward_fails_the_run_and_its_last_checkpoint_stays_good(
    start_run, tmp_path, dose
):
    task = f"{{environment: test/Poisonous-v0, imports: ['{COUNTING}'], kwargs: {{dose: '{dose}', "
    task += "after: 6000}}"
    runner = start_run(MANIFEST.replace("{environment: CartPole-v1}", task))
    assert runner.end() == 1, runner.output()
    status = runner.status()
    assert status["phase"] == "Failed"
    assert "test/Poisonous-v0 gave a reward of" in status["message"]
    assert status["checkpointVersion"] > 0
    result = json.loads(call(tmp_path, "evaluate", "pole", "--episodes", "2", "--json"))
    assert result["version"] == status["checkpointVersion"]
    assert all(map(math.isfinite, result["returns"]))


def test_an_environment_that_does_not_exist_fails_the_run_with_its_name(vaco_run):
    runner = vaco_run("--set", "task.environment=CartPoll-v1")
    assert runner.end() == 1
    assert "Traceback" not in runner.output()
    assert runner.output().count("'CartPoll-v1' is not the id") == 1
    status = runner.status()
    assert status["phase"] == "Failed"
    assert "CartPoll-v1" in status["message"]
    # What was mistyped is mended, and the directory is free for it.
    mended = vaco_run("--set", "stop.envSteps=1000")
    assert mended.end() == 0, mended.output()
    assert "beginning anew" in mended.output()
    assert [event["event"] for event in mended.events("started")] == ["started"]
