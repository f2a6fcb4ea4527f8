"""Train CartPole with vaco, by `vaco run`.

`own` is `examples/cartpole.yaml` and `wide` is `benchmarks/jobs/cartpole-throughput.yaml`, as they
are but for the stop: the harness ends a run.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers.lines import Report

ROOT = Path(__file__).parents[3]
MANIFESTS = {
    "own": (ROOT / "examples/cartpole.yaml", ["stop.return=null", "stop.envSteps=1e9"]),
    "wide": (ROOT / "benchmarks/jobs/cartpole-throughput.yaml", ["stop.envSteps=1e9"]),
}
POLL_SECONDS = 0.01


def updates(metrics: Path, process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """Follow the learner's metrics until the job ends."""
    while not metrics.exists():
        if process.poll() is not None:
            return
        time.sleep(POLL_SECONDS)
    rest = ""
    with metrics.open() as lines:
        while True:
            text = lines.readline()
            if text.endswith("\n"):
                yield json.loads(rest + text)
                rest = ""
                continue
            rest += text
            if process.poll() is not None:
                return
            time.sleep(POLL_SECONDS)


def main() -> None:
    """Train until the harness ends it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--settings", choices=MANIFESTS, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE")
    options = parser.parse_args()
    manifest, overrides = MANIFESTS[options.settings]
    with tempfile.TemporaryDirectory(prefix="peer-vaco-") as directory:
        run_directory = Path(directory) / "run"
        command = [sys.executable, "-m", "vaco_operator.cli", "run", str(manifest)]
        command += ["--run-dir", str(run_directory)]
        for override in [*overrides, *options.set, f"seed={options.seed}"]:
            command += ["--set", override]
        report = Report()
        with subprocess.Popen(command) as process:
            for update in updates(run_directory / "metrics.jsonl", process):
                report.write(
                    update["env_steps"],
                    update["train_seconds"],
                    update["return_mean"],
                    update["return_episodes"],
                )
        sys.exit(process.returncode)


if __name__ == "__main__":
    main()
