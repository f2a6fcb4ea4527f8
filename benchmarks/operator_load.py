"""Measure the operator under load: `python -m benchmarks.operator_load`.

A real API server with its controllers, simulated nodes, and the operator as a process of its own:
first 200 jobs with 1,000 actors whose learners answer, then 1,000 jobs. Learners are doubles of the
tests, real gRPC servers with the jobs' credentials in this process, because simulated pods run
nothing. The figures go to the terminal and to `benchmarks/results/operator.json`. Everything shares
one machine, so the operator's latency includes what the API server, etcd and the doubles take from
it. Where other programs run as well, `--nice -10` (as root) gives all of it precedence over them.

The operator reads a service account as in a pod, which takes root. With `--kubeconfig` it reads a
kubeconfig instead, whose library takes some 10 MB that no operator in a cluster needs.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from benchmarks.results_file import machine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cluster"))
# As in the tests: operators are started beside the doubles' gRPC servers.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

import psutil
import yaml
from kube_harness import launch
from operator_harness import jobs
from operator_harness.learner_double import OVERRIDES
from operator_harness.operators import Operator, operators
from operator_harness.stage import Field, Stage, staged
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from operator_harness.learner_double import LearnerDouble

RESULTS = Path(__file__).parent / "results" / "operator.json"
NAMESPACES = 10
NODES = 4
CAPACITY = {"cpu": "4000", "memory": "16Ti", "pods": "1000", "ephemeral-storage": "16Ti"}
CONVERGE_SECONDS = 900.0
IDLE_SECONDS = 60.0
BUSY_SECONDS = 60.0
POLL_SECONDS = 1.0
HISTOGRAMS = {
    "reconcile": "vaco_operator_reconcile_seconds",
    "queue wait": "vaco_operator_queue_wait_seconds",
    "API request": "vaco_operator_api_request_seconds",
}
REQUESTS = "vaco_operator_api_requests_total"

Buckets = dict[float, float]


@dataclass(frozen=True, slots=True)
class Sample:
    """The operator's counters at one moment."""

    at: float
    requests: float
    refused: float
    buckets: dict[str, Buckets]
    resident: int
    processor: float

    @classmethod
    def take(cls, stage: Stage) -> Sample:
        """Read them."""
        status, text = stage.operator.ask("/metrics")
        assert status == 200, "the operator does not answer"
        families = text_string_to_metric_families(text)
        samples = [sample for family in families for sample in family.samples]
        asked = [
            sample
            for sample in samples
            if sample.name == REQUESTS
            and sample.labels["verb"] != "watch"
            and sample.labels["resource"] != "leases"
        ]
        buckets: dict[str, Buckets] = {}
        for what, name in HISTOGRAMS.items():
            of_all = buckets[what] = {}
            for sample in samples:
                if sample.name == f"{name}_bucket" and sample.labels.get("verb") != "watch":
                    bound = float(sample.labels["le"])
                    of_all[bound] = of_all.get(bound, 0.0) + sample.value
        return cls(
            at=time.monotonic(),
            requests=sum(sample.value for sample in asked),
            refused=sum(sample.value for sample in asked if sample.labels["code"][0] != "2"),
            buckets=buckets,
            resident=stage.operator.resident_bytes(),
            processor=sum(s.value for s in samples if s.name == "process_cpu_seconds_total"),
        )


def figures(before: Sample, after: Sample) -> dict[str, object]:
    """Say what happened between two moments."""
    seconds = after.at - before.at
    counts = {
        what: {bound: n - before.buckets[what].get(bound, 0.0) for bound, n in buckets.items()}
        for what, buckets in after.buckets.items()
    }
    return {
        "seconds": round(seconds, 1),
        "reconciles": int(counts["reconcile"].get(float("inf"), 0)),
        **{
            f"{what} p{share} ms": quantile(of_all, share / 100)
            for what, of_all in counts.items()
            for share in (50, 99)
        },
        "API requests": int(after.requests - before.requests),
        "API requests refused": int(after.refused - before.refused),
        "API requests/s": round((after.requests - before.requests) / seconds, 2),
        "processor share": round((after.processor - before.processor) / seconds, 3),
        "RSS MB": round(after.resident / 1e6, 1),
    }


def quantile(counts: Buckets, share: float) -> float | None:
    """Estimate a quantile from cumulative buckets, as Prometheus does, in milliseconds."""
    total = counts.get(float("inf"), 0.0)
    if not total:
        return None
    below, low = 0.0, 0.0
    for bound in sorted(counts):
        if counts[bound] >= share * total:
            if bound == float("inf"):
                return round(low * 1e3, 1)
            inside = (share * total - below) / (counts[bound] - below)
            return round((low + (bound - low) * inside) * 1e3, 1)
        below, low = counts[bound], bound
    return None


class Load:
    """Jobs in some namespaces, and what is measured of the operator that looks after them."""

    def __init__(self, stage: Stage, nice: int) -> None:
        self.stage = stage
        self.nice = nice
        self.fields = [Field(stage, f"load-{i}") for i in range(NAMESPACES)]
        self.names: list[tuple[Field, str]] = []
        self.doubles: list[LearnerDouble] = []
        self.told: dict[str, object] = {}
        for field in self.fields:
            metadata = {"name": field.namespace}
            stage.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
            self.wait(f"{field.namespace} is usable", lambda f=field: _usable(f))

    def favour(self) -> None:
        """Give the cluster, the operator and this process their priority."""
        own = psutil.Process()
        for process in (own, *own.children(recursive=True)):
            # A priority is a thread's, and is inherited by those that it starts.
            for thread in process.threads():
                os.setpriority(os.PRIO_PROCESS, thread.id, self.nice)
            # Where sessions share the processors, it counts among the threads of a session only.
            group = Path(f"/proc/{process.pid}/autogroup")
            if group.exists() and self.nice:
                group.write_text(str(self.nice))

    @contextmanager
    def measured(self, what: str) -> Iterator[None]:
        """Measure a phase of the load."""
        before = Sample.take(self.stage)
        yield
        self.told[what] = figures(before, Sample.take(self.stage))
        print(f"{what}: {json.dumps(self.told[what])}", flush=True)

    def wait(self, what: str, probe: Callable[[], bool]) -> None:
        """Wait until it is so.

        To be asked for its metrics costs the operator something: that is to be little.
        """
        deadline = time.monotonic() + CONVERGE_SECONDS
        while not probe():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not so after {CONVERGE_SECONDS:g} s")
            time.sleep(POLL_SECONDS)

    def create(self, count: int, actors: int) -> None:
        """Create so many jobs, and wait until all of their pods run and their status says so."""
        first = len(self.names)
        for i in range(first, first + count):
            field, name = self.fields[i % NAMESPACES], f"job-{i}"
            counts = {"replicas": actors, "minReplicas": 1, "maxReplicas": 8}
            self.stage.api.create(jobs.job(name, field.namespace, actors=counts))
            self.names.append((field, name))
        phases = ("Starting", "Running")
        self.wait("all jobs start", lambda: self._count(phases) == len(self.names))

    def answer(self) -> None:
        """Have the learners of all jobs answer, and wait until all jobs train."""
        for field, name in self.names[len(self.doubles) :]:
            double = self.stage.doubles.of(self.stage.api, field.job(name))
            pods = [pod["metadata"]["name"] for pod in field.pods("actor", name)]
            double.train(*pods, version=1, env_steps=1)
            self.doubles.append(double)
        self.wait("all jobs train", lambda: self._count(("Running",)) == len(self.names))

    def progress(self, seconds: float) -> None:
        """Have all learners make progress for a while."""
        end, step = time.monotonic() + seconds, 1
        while time.monotonic() < end:
            step += 1
            for double in self.doubles:
                double.say(version=step, env_steps=1000 * step)
            time.sleep(1)

    def _count(self, phases: tuple[str, ...]) -> int:
        _, text = self.stage.operator.ask("/metrics")
        samples = (s for f in text_string_to_metric_families(text) for s in f.samples)
        of_jobs = (each for each in samples if each.name == "vaco_jobs")
        return int(sum(each.value for each in of_jobs if each.labels["phase"] in phases))


def main() -> int:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.operator_load", description=__doc__)
    parser.add_argument("--jobs", type=int, default=200, help="jobs of five actors, that train")
    parser.add_argument("--more", type=int, default=1000, help="jobs in the end, all others of one")
    parser.add_argument("--nice", type=int, default=0, help="of all that is measured")
    parser.add_argument("--kubeconfig", action="store_true", help="for an operator outside")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vaco-load-")))
        stage = stack.enter_context(_stage(folder))
        if not options.kubeconfig:
            stack.enter_context(_in_a_pod(stage, folder))
        load = Load(stage, options.nice)
        load.favour()
        _few(load, options.jobs)
        _many(load, options.more)
    how = {
        "nice": options.nice,
        "operator": "outside, by kubeconfig" if options.kubeconfig else "as in a pod",
        "load average": [round(each, 1) for each in os.getloadavg()],
    }
    document = {"machine": machine() | how, "figures": load.told}
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    print(f"figures: {RESULTS}")
    return 0


def _few(load: Load, count: int) -> None:
    with load.measured(f"{count} jobs with {5 * count} actors: created, until all pods run"):
        load.create(count, actors=5)
    with load.measured(f"{count} jobs: learners begin to answer"):
        load.answer()
    with load.measured(f"{count} jobs: all train, with progress in every status"):
        load.progress(BUSY_SECONDS)
    time.sleep(15)  # The last progress is written.
    with load.measured(f"{count} jobs: all train, nothing changes"):
        time.sleep(IDLE_SECONDS)


def _many(load: Load, count: int) -> None:
    few = len(load.names)
    with load.measured(f"{count} jobs: {count - few} more created, until all pods run"):
        load.create(count - few, actors=1)
    with load.measured(f"{count} jobs: {count - few} more learners begin to answer"):
        load.answer()
    time.sleep(15)
    with load.measured(f"{count} jobs: all train, nothing changes"):
        time.sleep(IDLE_SECONDS)
    load.stage.operator.stop()
    began = time.monotonic()
    load.stage.operator = load.stage.start()
    load.favour()
    before = Sample.take(load.stage)

    def at_rest() -> bool:
        asked = Sample.take(load.stage).requests
        time.sleep(3)
        return Sample.take(load.stage).requests - asked < 1

    load.wait("the next operator is at rest", at_rest)
    after = Sample.take(load.stage)
    took = {"seconds until at rest": round(time.monotonic() - began, 1)}
    load.told[f"{count} jobs: another operator starts"] = figures(before, after) | took
    print(load.told[f"{count} jobs: another operator starts"])


@contextmanager
def _stage(folder: Path) -> Iterator[Stage]:
    with launch.launched("control-plane") as held, staged(held.cluster, folder) as stage:
        for i in range(NODES):
            node = {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": f"load-{i}", "labels": {"kubernetes.io/os": "linux"}},
                "status": {"capacity": CAPACITY, "allocatable": CAPACITY},
            }
            stage.api.create(node)
        yield stage


@contextmanager
def _in_a_pod(stage: Stage, folder: Path) -> Iterator[None]:
    """Start the operator anew, from now on always as in a pod."""
    found = yaml.safe_load((folder / "operator.kubeconfig").read_text())
    cluster, user = found["clusters"][0]["cluster"], found["users"][0]["user"]
    account = folder / "account"
    account.mkdir()
    (account / "token").write_text(user["token"])
    (account / "ca.crt").write_bytes(base64.b64decode(cluster["certificate-authority-data"]))
    server = urlsplit(cluster["server"])
    environment = {
        "KUBERNETES_SERVICE_HOST": str(server.hostname),
        "KUBERNETES_SERVICE_PORT": str(server.port),
        OVERRIDES: str(stage.doubles.file),
    }
    with operators(folder / "in-pods") as started:

        def start(**changed: str) -> Operator:
            operator = started.start(
                folder,
                stage.user.split(":")[2],
                program=(str(Path(__file__).with_name("in_pod.py")), str(account)),
                settings={"kubeconfig": "", "log-level": "info", **changed},
                environment=environment,
            )
            operator.wait_until_leading()
            return operator

        stage.operator.stop()
        stage.start, stage.operator = start, start()
        yield


def _usable(field: Field) -> bool:
    return field.api.find("v1", "ServiceAccount", "default", field.namespace) is not None


if __name__ == "__main__":
    sys.exit(main())
