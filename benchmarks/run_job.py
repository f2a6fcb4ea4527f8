"""Run a job end to end with `vaco run`, in a directory of its own, and read its status."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

JOBS = Path(__file__).parent / "jobs"
# Beyond this a run is stuck, not slow.
TIMEOUT_SECONDS = 600


def run_job(manifest: str, *overrides: str) -> dict[str, Any]:
    """Train `jobs/<manifest>` to its stop condition.

    Args:
        manifest: file name in `benchmarks/jobs`.
        overrides: `path=value` settings, as `vaco run --set` takes them.

    Returns:
        The status of the finished job, as in `status.json`.

    Raises:
        RuntimeError: the run failed; its last output is in the message.

    """
    with tempfile.TemporaryDirectory(prefix="vaco-bench-") as directory:
        run_directory = Path(directory) / "run"
        command = [sys.executable, "-m", "vaco_operator.cli", "run", str(JOBS / manifest)]
        command += ["--run-dir", str(run_directory)]
        for override in overrides:
            command += ["--set", override]
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
        if process.returncode != 0:
            output = process.stdout[-2000:] + process.stderr[-2000:]
            raise RuntimeError(f"{manifest} failed:\n{output}")
        status: dict[str, Any] = json.loads((run_directory / "status.json").read_text())
        return status
