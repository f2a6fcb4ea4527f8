"""The promise under faults: what is killed or paused costs no sample, none is trained twice."""

import json
import random
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from fault_watch import Watcher, kill_learner, surviving_updates

pytestmark = pytest.mark.timeout(900)
PAUSE = threading.Event()
PAUSE_SECONDS = 20.0
LEARNER_KILLS = 3
# A third of this is enough for the bar; the rest keeps it running through the faults, and the
# falling learning rate keeps what was learnt.
MANIFEST = """
apiVersion: training.vaco.dev/v1alpha1
kind: VACOJob
metadata: {name: pole}
spec:
  seed: 1
  task: {environment: CartPole-v1}
  algorithm: {learningRate: 2.0e-3, learningRateSchedule: linear, gamma: 0.98, lam: 0.9, epochs: 4}
  rollout: {environmentsPerActor: 16, fragmentLength: 32}
  learner: {batchSize: 2048, tensorboard: false, checkpoint: {intervalSeconds: 1}}
  actors: {replicas: 2, minReplicas: 2, maxReplicas: 2}
  backoffLimit: 10
  stop: {envSteps: 600_000}
"""
BAR = 475.0


def checkpoints(run: Any) -> list[Path]:
    """Return the directories of the complete checkpoints, oldest first."""
    return sorted((run.root / "checkpoints").glob("v*"))


def test_training_survives_killed_and_paused_processes(start_run):
    run = start_run(MANIFEST)
    watcher = Watcher(run)
    watcher.start()
    run.until(lambda s: s["envSteps"] > 4096 and s["actors"]["ready"] == 2)

    paused = run.named("actor-1")
    paused.send_signal(signal.SIGSTOP)
    resume = threading.Timer(PAUSE_SECONDS, paused.send_signal, [signal.SIGCONT])
    resume.start()
    PAUSE.wait(random.Random(0).uniform(0.2, 2.0))
    run.named("actor-0").send_signal(signal.SIGKILL)
    for incarnation in range(1, LEARNER_KILLS + 1):
        kill_learner(run, incarnation)
    resume.join()

    assert run.end() == 0, run.output()
    watcher.stop()
    status = run.status()
    assert status["phase"] == "Complete"
    assert status["returnMean"] >= BAR
    assert status["learnerRestarts"] == LEARNER_KILLS

    assert not watcher.unbalanced
    assert watcher.seen == sorted(watcher.seen)
    versions = [version for _, version in watcher.seen]
    assert versions == sorted(versions)

    updates = surviving_updates(run.root / "metrics.jsonl")
    trained = [tuple(identity) for update in updates for *identity, _ in update["fragments"]]
    assert len(trained) == len(set(trained))
    samples = sum(count for update in updates for *_, count in update["fragments"])
    assert samples == status["ledger"]["trained"] == status["envSteps"]
    # All of them took part: the killed actor's first life and its second, and the paused one.
    assert {actor for actor, _, _ in trained} == {"actor-0", "actor-1"}
    assert len({life for actor, life, _ in trained if actor == "actor-0"}) == 2


def test_a_truncated_checkpoint_is_passed_over_for_the_one_before(start_run):
    run = start_run(MANIFEST)
    # The interruption adds one.
    run.until(lambda _: len(checkpoints(run)) > 1)
    assert run.end(signal.SIGINT) == 130
    *_, before, newest = checkpoints(run)
    weights = newest / "policy.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])

    again = start_run(MANIFEST)
    status = again.until(lambda s: s["phase"] == "Running" and s["incarnation"] == 2)
    assert again.end(signal.SIGINT) == 130
    entries = map(json.loads, (again.root / "metrics.jsonl").read_text().splitlines())
    restored = next(entry for entry in entries if entry.get("event") == "restored")
    assert f"v{restored['checkpoint_version']:09}" == before.name
    assert status["version"] > int(newest.name[1:])
    assert newest.name in (again.root / "logs" / "learner.log").read_text()
