"""Write down what a user sees from installing the chart to a trained policy, on a real node.

    python tests/cluster/transcript.py docs/kubernetes/transcript.md      # as root

Every command is run as it is written, on a cluster of the node tier. The example is applied as it
is; what the node has instead of a registry is in `training_harness`. It fails when a job is not
completed, or when the one that is to be scaled both ways was not.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from kube_harness import launch
from kube_harness.api import Api
from kube_harness.programs import PROJECT, binary
from training_harness import installed, warming
from training_harness.run import Document, Run

CALL_SECONDS = 900
FIELD = "demo"
EXAMPLE = "examples/cartpole.yaml"
PREFACE = """# From nothing to a trained policy

Written by `python tests/cluster/transcript.py` on {date}: a Kubernetes {kubernetes} whose one node
is the real kubelet and containerd of a machine with {cores} cores, on which other programs ran too
(load average {load:.0f} at the start). All commands were run as they stand here,
in a namespace `demo` that admits the restricted profile of the Pod Security Standards only. No
registry can be reached there: the operator's image was built from `operator/Dockerfile`, and pods
of jobs run the machine's own Python, which the tests mount into them.
"""
PODS = "kubectl get pods,services,networkpolicies -l training.vaco.dev/job=cartpole"
EVENTS = (
    "kubectl get events --sort-by .metadata.creationTimestamp"
    " --field-selector involvedObject.kind=VACOJob,involvedObject.name={name}"
)
SCALING = """## Scale

How many actors a job has follows from what its learner could train and from what an actor makes. To
see it move both ways within a minute, here is the same job with a simulator that is slow until a
file appears, a learner with a larger network, and less patience than users have:
"""
GOAL = 475


class Transcript:
    """Commands and what they printed, in Markdown."""

    def __init__(self, kubeconfig: Path, folder: Path, volumes: Path) -> None:
        self._folder = folder
        self._volumes = volumes
        programs = {Path(binary(name)).parent for name in ("helm", "kubectl")}
        path = ":".join([*map(str, programs), os.defpath])
        self._environment = {"PATH": path, "KUBECONFIG": str(kubeconfig), "HOME": str(folder)}
        self._parts: list[str] = []

    def say(self, text: str) -> None:
        """Add a sentence or a heading."""
        self._parts.append(text)

    def forget_last(self) -> None:
        """Leave out the last command."""
        self._parts.pop()

    def run(self, command: str) -> str:
        """Run a command and add it with its output, which is returned.

        Raises:
            RuntimeError: it failed.

        """
        done = self._start(command)
        said, _ = done.communicate(timeout=CALL_SECONDS)
        if done.returncode != 0:
            raise RuntimeError(f"{command}:\n{said}")
        self._add(command, said)
        return said

    @contextmanager
    def watching(self, command: str) -> Iterator[None]:
        """Have a command go on during the block, and add what it printed meanwhile."""
        watch = self._start(command)
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.extend(watch.stdout or ()))
        reader.start()
        place = len(self._parts)
        try:
            yield
        finally:
            watch.terminate()
            watch.wait(10)
            reader.join(10)
        self._add(command, "".join(said), place)

    def text(self) -> str:
        """Return all of it, without what is peculiar to this machine."""
        text = "\n".join(self._parts)
        for folder, name in ((PROJECT, "."), (self._folder, "~"), (self._volumes, "/volumes")):
            text = text.replace(str(folder), name)
        return text

    def _start(self, command: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            shlex.split(command),
            cwd=PROJECT, env=self._environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def _add(self, command: str, said: str, place: int | None = None) -> None:
        lines = "\n".join(line.rstrip() for line in said.rstrip().splitlines())
        part = "\n".join(["```console", f"$ {command}", *([lines] if lines else []), "```\n"])
        self._parts.insert(len(self._parts) if place is None else place, part)


def main(target: Path) -> int:
    """Start a cluster, run everything, and write the transcript; return the exit status."""
    with (
        tempfile.TemporaryDirectory() as home,
        launch.launched("node") as held,
        closing(Api(held.cluster.kubeconfig)) as api,
    ):
        installed.prepare(held.cluster, api, _print_line)
        installed.make_field(api, FIELD)
        kubeconfig = _in_namespace(held.cluster.kubeconfig, Path(home))
        images = Path(home) / "images.yaml"
        images.write_text(yaml.safe_dump(installed.values(held.cluster)))
        volumes = held.cluster.kubeconfig.parent / "volumes"
        transcript = Transcript(kubeconfig, Path(home), volumes)
        _record(transcript, api, Path(home), volumes, images)
        target.write_text(transcript.text(), encoding="utf-8")
    return 0


def _record(transcript: Transcript, api: Api, home: Path, volumes: Path, images: Path) -> None:
    today = datetime.now(UTC).date().isoformat()
    transcript.say(
        PREFACE.format(
            date=today,
            kubernetes=_version(api),
            cores=os.cpu_count(),
            load=os.getloadavg()[0],
        )
    )
    transcript.say("## Install\n")
    where = f"--namespace {installed.NAMESPACE}"
    how = f"{where} --values {images} --wait --hide-notes"
    transcript.run(f"helm install {installed.RELEASE} charts/vaco {how}")
    transcript.run(f"kubectl get pods {where}")
    _record_example(transcript, Run(api, FIELD, "cartpole", home))
    _record_scaling(transcript, Run(api, FIELD, "warming", volumes / FIELD), home)
    transcript.say("## What a field means\n")
    transcript.run("kubectl explain vj.spec.learner")


def _record_example(transcript: Transcript, run: Run) -> None:
    transcript.say("## Train\n")
    transcript.run(f"kubectl apply -f {EXAMPLE}")
    with transcript.watching("kubectl get vj --watch"):
        run.wait_for_status("it learns", lambda s: (s.get("returnMean") or 0) > 30, CALL_SECONDS)
        transcript.say("Meanwhile:\n")
        transcript.run(PODS)
        transcript.run("kubectl describe vj cartpole")
        run.wait_for_status("it ends", _is_over, CALL_SECONDS)
    transcript.say("And at the end:\n")
    transcript.run("kubectl wait --for=condition=Complete vj/cartpole --timeout=10m")
    transcript.run("kubectl get vj")
    transcript.run(EVENTS.format(name="cartpole"))
    if (reached := run.status()["returnMean"]) < GOAL:
        raise RuntimeError(f"the return is {reached}; nothing is written")


def _record_scaling(transcript: Transcript, run: Run, home: Path) -> None:
    """Record how a job is scaled up because its simulator is slow, and down when it is not."""
    warming.prepare(run.api, FIELD, run.folder)
    metadata = {"name": run.name}
    (home / "warming.json").write_text(
        json.dumps({"metadata": metadata, "spec": warming.CHANGE}, indent=2)
    )
    transcript.say(SCALING)
    transcript.run(f"cat {home}/warming.json")
    made = transcript.run(
        f"kubectl patch --local --type=merge --patch-file {home}/warming.json -f {EXAMPLE} -o yaml"
    )
    (home / "warming.yaml").write_text(made)
    transcript.forget_last()
    transcript.run(f"kubectl apply -f {home}/warming.yaml")
    with transcript.watching(f"kubectl get vj {run.name} --watch"):
        run.wait_for_status("four are ready", lambda s: s["actors"]["ready"] == 4, CALL_SECONDS)
        transcript.say("All four actors are there; now the simulator gets warm:\n")
        transcript.run(f"touch {warming.signal(run.folder)}")
        run.wait_for_status("it ends", _is_over, CALL_SECONDS)
    transcript.run(f"kubectl wait --for=condition=Complete vj/{run.name} --timeout=10m")
    transcript.run("kubectl get vj")
    said = transcript.run(EVENTS.format(name=run.name))
    if missing := [reason for reason in ("ScaledUp", "ScaledDown") if reason not in said]:
        raise RuntimeError(f"the job was not {missing}; nothing is written")


def _is_over(status: Document) -> bool:
    return status["phase"] in ("Complete", "Failed")


def _in_namespace(kubeconfig: Path, folder: Path) -> Path:
    """Copy a kubeconfig, so that commands are about the namespace of the job."""
    document: dict[str, Any] = yaml.safe_load(kubeconfig.read_text())
    document["contexts"][0]["context"]["namespace"] = FIELD
    path = folder / "kubeconfig"
    path.write_text(yaml.safe_dump(document))
    return path


def _version(api: Api) -> str:
    version: str = yaml.safe_load(api.request("GET", "/version"))["gitVersion"]
    return version


def _print_line(text: str) -> None:
    """Tell what takes time."""
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
