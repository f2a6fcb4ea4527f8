"""Whether a job's environment can be made here, asked of the actor's program.

The command line knows nothing of gymnasium. The actor does, so it is started to make the
environment once, where it is installed.
"""

import importlib.util
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vaco.errors import EXIT_OK, EXIT_PERMANENT
from vaco.job import VACOJob, dump_job

PATIENCE_SECONDS: Final = 120.0
"""Longer than any environment should take to be made once, on a busy machine."""
_NEEDED: Final = ("vaco_actor", "gymnasium")


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of it: a `problem`, or what was checked or not, as a phrase."""

    told: str
    problem: str = ""


def check_environment(job: VACOJob, patience: float = PATIENCE_SECONDS) -> Checked:
    """Make the job's environment in a process of its own; runs `spec.task.imports`."""
    if job.spec.task.type != "gymnasium":
        return Checked("its model, its problems and its reward were not looked at")
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        return Checked(f"its environment was not checked, as {missing[0]} is not installed here")
    with tempfile.TemporaryDirectory(prefix="vaco-") as folder:
        # With its overrides, and its imports as absolute paths.
        manifest = Path(folder) / "job.yaml"
        manifest.write_text(dump_job(job), encoding="utf-8")
        command = [sys.executable, "-m", "vaco_actor", "probe", "--job", str(manifest)]
        try:
            done = subprocess.run(  # noqa: S603
                command, capture_output=True, text=True, errors="replace", timeout=patience
            )
        except subprocess.TimeoutExpired:
            return Checked("", f"its environment was not made within {patience:g} s")
    if done.returncode == EXIT_OK:
        return Checked("its environment can be made")
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    last = lines[-1] if lines else f"exit status {done.returncode}"
    how = "" if done.returncode == EXIT_PERMANENT else "its environment could not be made: "
    return Checked("", f"{how}{last}")
