"""One job that trains on the real node: its pods, their processes, and its run directory."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil
from training_harness.machine_python import bind_folder
from vaco.job import API_VERSION

if TYPE_CHECKING:
    from kube_harness.api import Api

Document = dict[str, Any]
MODULES: Final = {"learner": "vaco_learner", "actor": "vaco_actor"}
HOLD: Final = "test.vaco.dev/hold"
SECONDS: Final = 120.0
PARTS: Final = ("queued", "trained", "stale", "duplicate", "rejected")


@dataclass(frozen=True, slots=True)
class Run:
    """A VACOJob in a namespace of its own.

    Attributes:
        api: an administrator's.
        namespace: of the job.
        name: of the job.
        folder: its run directory, on this machine.

    """

    api: Api
    namespace: str
    name: str
    folder: Path

    def job(self) -> Document:
        """The job as it is."""
        return self.api.get(API_VERSION, "VACOJob", self.name, self.namespace)

    def status(self) -> Document:
        """What is said of it; empty: nothing yet."""
        status: Document = self.job().get("status", {})
        return status

    def condition(self, kind: str) -> Document:
        """A condition; empty: it has none of that type."""
        conditions = self.status().get("conditions", [])
        return next((c for c in conditions if c["type"] == kind), {})

    def change(self, **spec: Any) -> None:
        """Change the job's spec."""
        self.api.patch(API_VERSION, "VACOJob", self.name, self.namespace, {"spec": spec})

    def wait(self, what: str, holds: Callable[[], Any], seconds: float = SECONDS) -> Any:
        """Wait until it is so."""
        return self.api.wait_for(what, holds, seconds=seconds)

    def wait_for_status(
        self, what: str, holds: Callable[[Document], Any], seconds: float = SECONDS
    ) -> Document:
        """Wait until the status is such, and return it."""

        def seen() -> Document | None:
            status = self.status()
            return status if status and holds(status) else None

        status: Document = self.wait(what, seen, seconds)
        return status

    def wait_until_training(self, actors: int = 2) -> Document:
        """Wait until all actors are let in, and weights come of what they send."""
        seen = self.wait_for_status(
            f"{actors} actors are ready",
            lambda s: s["phase"] == "Running" and s["actors"]["ready"] == actors,
        )
        return self.wait_for_status(
            "it trains", lambda s: s["version"] > seen["version"] and s["phase"] == "Running"
        )

    def events(self, reason: str) -> list[Document]:
        """The events about the job with that reason."""
        return [
            event
            for event in self.api.list("v1", "Event", self.namespace)
            if event["involvedObject"]["name"] == self.name and event["reason"] == reason
        ]

    # Pods.

    def pods(self, component: str) -> list[Document]:
        """The learner's or the actors' pods that have neither ended nor been told to go."""
        labels = f"training.vaco.dev/job={self.name},app.kubernetes.io/component={component}"
        return [
            pod
            for pod in self.api.list("v1", "Pod", self.namespace, labels=labels)
            if "deletionTimestamp" not in pod["metadata"]
            and pod["status"].get("phase") not in ("Succeeded", "Failed")
        ]

    def learner(self) -> Document:
        """The pod of the learner, of which there is one."""
        (pod,) = self.pods("learner")
        return pod

    def hold(self, pod: Document) -> None:
        """Keep the pod readable after its end."""
        self._finalizers(pod, [HOLD])

    def let_go(self, pod: Document) -> None:
        """Let the held pod vanish."""
        self._finalizers(pod, [])

    def ended(self, pod: Document) -> Document:
        """Wait until the container of a held pod has ended, and return how."""
        name = pod["metadata"]["name"]

        def terminated() -> Document | None:
            found = self.api.get("v1", "Pod", name, self.namespace)
            (container,) = found["status"]["containerStatuses"]
            ended: Document | None = container["state"].get("terminated")
            return ended

        end: Document = self.wait(f"{name} ends", terminated)
        return end

    def _finalizers(self, pod: Document, ours: list[str]) -> None:
        # A Job puts one of its own on its pods.
        name = pod["metadata"]["name"]
        there = self.api.find("v1", "Pod", name, self.namespace)
        if there is not None:
            others = [f for f in there["metadata"].get("finalizers", []) if f != HOLD]
            change = {"metadata": {"finalizers": [*others, *ours]}}
            self.api.patch("v1", "Pod", name, self.namespace, change)

    # Behind the cluster's back.

    def process(self, pod: Document) -> psutil.Process:
        """The process of a pod's program, as this machine sees it."""
        uid = pod["metadata"]["uid"]
        module = MODULES[pod["metadata"]["labels"]["app.kubernetes.io/component"]]

        def found() -> psutil.Process | None:
            return next((p for p in _processes_of(uid) if module in p.cmdline()), None)

        process: psutil.Process = self.wait(f"{module} of {pod['metadata']['name']} runs", found)
        return process

    def kill_while_it_writes_a_checkpoint(self, pod: Document) -> str:
        """End the learner as the kernel does when memory runs out, with a checkpoint half written.

        Returns the name of the newest whole one.
        """
        process = self.process(pod)
        checkpoints = self.folder / "checkpoints"
        deadline = time.monotonic() + SECONDS
        while not any(path.name.startswith(".tmp-v") for path in checkpoints.iterdir()):
            assert time.monotonic() < deadline, "no checkpoint is written"
        process.send_signal(signal.SIGKILL)
        process.wait(SECONDS)
        return self.checkpoints()[-1]

    def checkpoints(self) -> list[str]:
        """The names of the complete checkpoints, oldest first."""
        return sorted(path.name for path in (self.folder / "checkpoints").glob("v*"))

    def journal(self) -> list[Document]:
        """What the learners wrote down, update by update."""
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        # The last one may be half written just now.
        return [json.loads(line) for line in lines if line.endswith("}")]

    def restored(self) -> list[Document]:
        """From which checkpoints learners went on."""
        return [line for line in self.journal() if line.get("event") == "restored"]

    def audit(self) -> list[Document]:
        """Return the updates that the newest weights stand on.

        Their ledgers balance, no version goes back, and nothing in them was trained twice.
        """
        updates: list[Document] = []
        newest = -1
        for line in self.journal():
            if line.get("event") not in (None, "restored"):
                continue
            assert line["version"] >= newest, f"the version went back: {line}"
            newest = line["version"]
            if line.get("event") == "restored":
                updates = [u for u in updates if u["version"] <= line["checkpoint_version"]]
            else:
                updates.append(line)
        trained = [tuple(identity) for u in updates for *identity, _ in u["fragments"]]
        assert len(trained) == len(set(trained)), "trained twice"
        assert sum(n for u in updates for *_, n in u["fragments"]) == updates[-1]["env_steps"]
        for update in updates:
            ledger = update["ledger"]
            assert ledger["received"] == sum(ledger[part] for part in PARTS)
        return updates


def prepare(api: Api, namespace: str, name: str, folder: Path) -> Run:
    """Give a job of that name a volume in `folder`."""
    folder.mkdir(parents=True)
    # A volume of the kind hostPath is not given to the pod's group.
    folder.chmod(0o777)
    bind_folder(api, namespace, f"{name}-checkpoints", folder, made=False)
    return Run(api, namespace, name, folder)


def manifest(run: Run, **spec: Any) -> Document:
    """Return the manifest of a CartPole job; `spec` replaces its top-level fields."""
    return {
        "apiVersion": API_VERSION,
        "kind": "VACOJob",
        "metadata": {"name": run.name, "namespace": run.namespace},
        "spec": {
            "task": {"environment": "CartPole-v1"},
            "rollout": {"environmentsPerActor": 4, "fragmentLength": 32},
            "stop": {"envSteps": 10**9},
            **spec,
        },
    }


def scripted_pod(run: Run, name: str, script: str, secrets: list[str], image: str) -> Document:
    """Return a pod that runs a script of Python's, and sees those Secrets below /secrets."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": run.namespace},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumes": [{"name": each, "secret": {"secretName": each}} for each in secrets],
            "containers": [
                {
                    "name": "script",
                    "image": image,
                    "imagePullPolicy": "Never",
                    "command": ["python", "-c", script],
                    "volumeMounts": [
                        {"name": each, "mountPath": f"/secrets/{each}", "readOnly": True}
                        for each in secrets
                    ],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


def _processes_of(pod_uid: str) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        try:
            groups = Path(f"/proc/{process.pid}/cgroup").read_text()
        except OSError:
            continue
        if f"pod{pod_uid}" in groups:
            yield process
