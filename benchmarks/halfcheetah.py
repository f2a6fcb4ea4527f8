"""HalfCheetah end to end: trained env-steps per second on MuJoCo through envpool."""

from __future__ import annotations

from statistics import median

from benchmarks.run_job import run_job


def measure() -> dict[str, object]:
    """Run the job three times."""
    runs = []
    for seed in range(3):
        status = run_job("halfcheetah-throughput.yaml", f"seed={seed}")
        runs.append(status["envSteps"] / status["trainSeconds"])
    return {
        "halfcheetah.trainedStepsPerSecond": round(median(runs)),
        "halfcheetah.trainedStepsPerSecond.runs": [round(value) for value in runs],
    }
