"""CartPole end to end: trained env-steps per second, and seconds until the return is 475."""

from __future__ import annotations

from statistics import median

from benchmarks.run_job import run_job

SEEDS = range(5)


def measure() -> dict[str, object]:
    """Run the throughput job three times and the job to 475 once per seed."""
    throughput = []
    for seed in range(3):
        status = run_job("cartpole-throughput.yaml", f"seed={seed}")
        throughput.append(status["envSteps"] / status["trainSeconds"])
    seconds = []
    for seed in SEEDS:
        status = run_job("cartpole-475.yaml", f"seed={seed}")
        if status["returnMean"] < 475:
            raise RuntimeError(f"seed {seed} stopped at a return of {status['returnMean']}")
        seconds.append(status["trainSeconds"])
    return {
        "cartpole.trainedStepsPerSecond": round(median(throughput)),
        "cartpole.trainedStepsPerSecond.runs": [round(value) for value in throughput],
        "cartpole.secondsTo475": round(median(seconds), 2),
        "cartpole.secondsTo475.seeds": [round(value, 2) for value in seconds],
    }
