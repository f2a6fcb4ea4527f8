"""What is watched while processes are killed: versions, the ledger, and what was trained."""

import json
import signal
import threading
from pathlib import Path
from typing import Any


class Watcher(threading.Thread):
    """Reads the status again and again and keeps what the order of its documents must hold."""

    def __init__(self, run: Any) -> None:
        super().__init__(daemon=True)
        self._run = run
        self._done = threading.Event()
        self.seen: list[tuple[int, int]] = []
        self.unbalanced: list[dict[str, Any]] = []

    def run(self) -> None:
        while not self._done.wait(0.05):
            status = self._run.status()
            if not status:
                continue
            self.seen.append((status["incarnation"], status["version"]))
            ledger = status["ledger"]
            parts = ("queued", "trained", "stale", "duplicate", "rejected")
            if ledger["received"] != sum(ledger[part] for part in parts):
                self.unbalanced.append(ledger)

    def stop(self) -> None:
        self._done.set()
        self.join()


def surviving_updates(metrics: Path) -> list[dict[str, Any]]:
    """Return the updates that the final weights descend from, in order.

    A restarted learner continues from a checkpoint; the updates after it are rolled back, and what
    they trained on may be trained on again.
    """
    updates: list[dict[str, Any]] = []
    for line in metrics.read_text().splitlines():
        entry = json.loads(line)
        if entry.get("event") == "restored":
            updates = [u for u in updates if u["version"] <= entry["checkpoint_version"]]
        elif "fragments" in entry:
            updates.append(entry)
    return updates


def kill_learner(run: Any, incarnation: int) -> None:
    """Kill the learner once it has made progress of its own beyond its newest checkpoint."""
    first = run.until(lambda s: s["incarnation"] == incarnation and s["phase"] == "Running")
    run.until(
        lambda s: (
            s["checkpointVersion"] > first["checkpointVersion"]
            and s["version"] > s["checkpointVersion"]
        )
    )
    run.named("learner").send_signal(signal.SIGKILL)
    run.until(lambda s: s["incarnation"] == incarnation + 1)
