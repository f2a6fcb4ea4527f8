"""Every example starts as it is, but smaller, and trains a few updates."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
VACO = str(Path(sys.executable).with_name("vaco"))
# Each takes seconds; starting PyTorch on a busy machine takes a while.
SECONDS = 300
SMALL = {
    "learner.batchSize": "256",
    "actors.maxReplicas": "1",
    "stop.envSteps": "1000",
}
ROLLOUT = {"rollout.environmentsPerActor": "4", "rollout.fragmentLength": "16"}
# What these need instead: no rollouts, a fixed number of actors, and a warm start of minutes.
OF_ITS_OWN = {
    "arithmetic": {
        "actors.replicas": "1",
        "actors.minReplicas": "1",
        "evaluation.episodes": "16",
        "policy.warmStart.steps": "5",
    }
}
NEEDS_A_GPU = ("gsm8k-qwen",)
RUNNABLE = [path for path in sorted(EXAMPLES.glob("*.yaml")) if path.stem not in NEEDS_A_GPU]
pytestmark = pytest.mark.timeout(SECONDS + 30)


@pytest.mark.parametrize("example", RUNNABLE, ids=lambda path: path.stem)
def test_an_example_trains(example: Path, tmp_path: Path) -> None:
    small = SMALL | OF_ITS_OWN.get(example.stem, ROLLOUT)
    settings = [part for path, value in small.items() for part in ("--set", f"{path}={value}")]
    command = [VACO, "run", str(example), "--run-dir", str(tmp_path / "run"), *settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["phase"] == "Complete"
    assert status["version"] >= 4
    assert status["checkpointVersion"] == status["version"]
