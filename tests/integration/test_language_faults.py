"""The promise under faults, for a language model: no group is lost silently or trained twice."""

import json
import signal
from typing import Any

import pytest
from fault_watch import Watcher, kill_learner, surviving_updates

pytestmark = pytest.mark.timeout(900)
GROUP = 4
# It goes on until it is interrupted: how fast it trains does not matter.
MANIFEST = f"""
apiVersion: training.vaco.dev/v1alpha1
kind: VACOJob
metadata: {{name: pole}}
spec:
  seed: 1
  task:
    type: languageModel
    data: {{digits: 1, problems: 80, heldOut: 20}}
    maxPromptTokens: 8
    maxCompletionTokens: 4
  policy:
    type: languageModel
    tiny: {{layers: 1, hiddenSize: 32, heads: 2}}
    warmStart: {{steps: 50, batchSize: 40, learningRate: 3.0e-3}}
  algorithm: {{name: vaco-lm, learningRate: 1.0e-4}}
  sampling: {{groupSize: {GROUP}, prompts: 8}}
  learner: {{batchSize: 128, tensorboard: false, checkpoint: {{intervalSeconds: 1}}}}
  actors: {{replicas: 2, minReplicas: 2, maxReplicas: 2}}
  evaluation: {{intervalEnvSteps: 512, episodes: 20}}
  stop: {{envSteps: 100_000_000}}
"""


def journal(run: Any) -> str:
    return str((run.root / "metrics.jsonl").read_text())


def test_a_language_model_survives_killed_processes_and_a_resumption(start_run):
    run = start_run(MANIFEST)
    watcher = Watcher(run)
    watcher.start()
    before = run.until(lambda s: s["accuracy"] and s["actors"]["ready"] == 2)
    run.until(lambda s: s["checkpointVersion"] > before["version"])

    run.named("actor-0").send_signal(signal.SIGKILL)
    kill_learner(run, 1)
    # The first life of the killed actor has sent something, and so does its second.
    run.until(lambda s: s["incarnation"] == 2 and '["actor-0",2,' in journal(run))
    after = run.until(lambda s: s["version"] > s["checkpointVersion"] > before["version"])
    assert run.end(signal.SIGINT) == 130, run.output()
    watcher.stop()
    assert after["accuracy"]["initial"] == before["accuracy"]["initial"]
    assert after["accuracy"]["best"] >= before["accuracy"]["best"]
    assert after["learnerRestarts"] == 1

    rest = run.status()
    again = start_run(MANIFEST, "--set", f"stop.envSteps={rest['envSteps'] + 4 * 128}")
    watcher_of_the_rest = Watcher(again)
    watcher_of_the_rest.start()
    assert again.end() == 0, again.output()
    watcher_of_the_rest.stop()
    status = again.status()
    assert status["phase"] == "Complete"
    assert "completions are trained" in status["message"]
    assert status["accuracy"]["initial"] == before["accuracy"]["initial"]

    assert not watcher.unbalanced + watcher_of_the_rest.unbalanced
    seen = watcher.seen + watcher_of_the_rest.seen
    assert seen == sorted(seen)
    assert [version for _, version in seen] == sorted(version for _, version in seen)

    updates = surviving_updates(run.root / "metrics.jsonl")
    trained = [tuple(identity) for update in updates for *identity, _ in update["fragments"]]
    assert len(trained) == len(set(trained))
    counts = [count for update in updates for *_, count in update["fragments"]]
    assert sum(counts) == status["ledger"]["trained"] == status["envSteps"]
    assert max(counts) == GROUP
    assert {(actor, life) for actor, life, _ in trained} >= {
        ("actor-0", 1),
        ("actor-0", 2),
        ("actor-1", 1),
    }
    # Nobody was asked again how good the model was before it trained.
    entries = [json.loads(line) for line in journal(run).splitlines()]
    assert [e["env_steps"] for e in entries if e.get("event") == "evaluation"].count(0) == 1
    told = [e["excerpts"] for e in entries if e.get("event") == "excerpts"]
    assert all(excerpt["prompt"].endswith("=") for excerpts in told for excerpt in excerpts)
    assert told
