"""kubectl as a user calls it, on one cluster."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from kube_harness.programs import binary

CALL_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Kubectl:
    """Runs kubectl; `kubeconfig` says where and as whom."""

    kubeconfig: Path

    def run(self, *arguments: str, seconds: float = CALL_SECONDS) -> str:
        """Run a command; returns what it printed.

        Raises:
            AssertionError: it failed; the text is what it said.

        """
        done = subprocess.run(
            [binary("kubectl"), *arguments],
            env=self._environment(), capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(arguments)}:\n{done.stdout}{done.stderr}")
        return done.stdout

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command that goes on, such as a watch; whoever starts it ends it."""
        return subprocess.Popen(
            [binary("kubectl"), *arguments],
            env=self._environment(), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
