"""One operator, one API server, and what tests of the cases ask of them again and again."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from kube_harness.api import Api
from operator_harness import audit, jobs
from operator_harness.accounts import operator_account, username
from operator_harness.fault_proxy import FaultProxy
from operator_harness.learner_double import OVERRIDES, LearnerDouble, LearnerDoubles
from operator_harness.operators import Operator, Operators, operators
from vaco.job import API_VERSION

if TYPE_CHECKING:
    from kube_harness.cluster import Cluster

Document = dict[str, Any]
OPERATOR_NAMESPACE: Final = "vaco-operator-test"
KINDS: Final = {
    "Job": "batch/v1",
    "Deployment": "apps/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "Service": "v1",
    "ConfigMap": "v1",
    "Secret": "v1",
    "Pod": "v1",
    "PersistentVolumeClaim": "v1",
    "VACOJob": API_VERSION,
}
SECONDS: Final = 60.0
REST_SECONDS: Final = 3.0


@dataclass(slots=True)
class Stage:
    """What a test works with.

    Attributes:
        api: an administrator's.
        operator: looks after the jobs of all namespaces.
        user: the operator's name in the audit log.
        doubles: learners that only answer.
        audit: the API server's log; None: the cluster is not ours.
        proxy: between the operator and the API server, to inject faults; None: there is none.
        start: starts the operator again after it was stopped, with other settings if need be.

    """

    api: Api
    operator: Operator
    user: str
    doubles: LearnerDoubles
    audit: Path | None
    proxy: FaultProxy | None
    start: Callable[..., Operator]

    def kill(self) -> None:
        """Kill the operator, and take away the Lease that it would hold for a while."""
        self.operator.signal(signal.SIGKILL)
        self.operator.wait_for_end()
        namespace = self.user.split(":")[2]
        self.api.delete("coordination.k8s.io/v1", "Lease", "vaco-operator", namespace)


class Field:
    """The objects of one namespace: a test's own part of the stage."""

    def __init__(self, stage: Stage, namespace: str) -> None:
        self.stage = stage
        self.api = stage.api
        self.namespace = namespace

    def create(self, name: str = "pole", **spec: Any) -> Document:
        """Create a job, and return it as it is then."""
        return self.api.create(jobs.job(name, self.namespace, **spec))

    def get(self, kind: str, name: str) -> Document:
        """Get an object that is there."""
        return self.api.get(KINDS[kind], kind, name, self.namespace)

    def find(self, kind: str, name: str) -> Document | None:
        """Get an object, if it is there."""
        return self.api.find(KINDS[kind], kind, name, self.namespace)

    def job(self, name: str = "pole") -> Document:
        """Get a job."""
        return self.get("VACOJob", name)

    def status(self, name: str = "pole") -> Document:
        """Get what is said of a job; empty: nothing yet."""
        found: Document = self.job(name).get("status", {})
        return found

    def change(self, name: str = "pole", **spec: Any) -> Document:
        """Change a job's spec."""
        return self.patch("VACOJob", name, {"spec": spec})

    def patch(self, kind: str, name: str, change: Document) -> Document:
        """Merge a change into an object."""
        return self.api.patch(KINDS[kind], kind, name, self.namespace, change)

    def patch_status(self, kind: str, name: str, change: Document) -> None:
        """Merge a change into an object's status, as its controller or its kubelet would."""
        path = f"{self.api.path(KINDS[kind], kind, name, self.namespace)}/status"
        merge = "application/merge-patch+json"
        self.api.request("PATCH", path, {"status": change}, content_type=merge)

    def limit(self, **hard: str) -> None:
        """Give the namespace a quota, or change it, and wait until it is enforced."""
        metadata = {"name": "small", "namespace": self.namespace}
        quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata}
        self.api.apply({**quota, "spec": {"hard": hard}}, manager="test", force=True)

        def enforced() -> bool:
            found = self.api.get("v1", "ResourceQuota", "small", self.namespace)
            return bool(found.get("status", {}).get("hard") == hard)

        self.wait("the quota is enforced", enforced)

    def delete(self, kind: str, name: str, propagation: str = "Background") -> None:
        """Delete an object."""
        self.api.delete(KINDS[kind], kind, name, self.namespace, propagation=propagation)

    def annotate(self, pod: str, **annotations: str | None) -> None:
        """Tell a simulated pod how to fare."""
        self.patch("Pod", pod, {"metadata": {"annotations": annotations}})

    def pods(self, component: str, name: str = "pole", *, going: bool = False) -> list[Document]:
        """Get the pods of a job's learner or actors that have not ended; `going`: these too."""
        selector = f"training.vaco.dev/job={name},app.kubernetes.io/component={component}"
        return [
            pod
            for pod in self.api.list("v1", "Pod", self.namespace, labels=selector)
            if (going or "deletionTimestamp" not in pod["metadata"])
            and pod["status"].get("phase") not in ("Succeeded", "Failed")
        ]

    def events(self, name: str = "pole") -> list[Document]:
        """Get the events about a job, in the order in which they first happened."""
        found = [
            event
            for event in self.api.list("v1", "Event", self.namespace)
            if event["involvedObject"]["kind"] == "VACOJob"
            and event["involvedObject"]["name"] == name
        ]
        return sorted(found, key=lambda event: int(event["metadata"]["resourceVersion"]))

    def told(self, reason: str, name: str = "pole") -> Document | None:
        """Get the event of that reason about a job, if there is one."""
        return next((e for e in self.events(name) if e["reason"] == reason), None)

    def wait(self, what: str, probe: Callable[[], Any], seconds: float = SECONDS) -> Any:
        """Wait until it is so."""
        return self.api.wait_for(what, probe, seconds=seconds)

    def wait_for_pods(self, component: str, count: int, name: str = "pole") -> list[str]:
        """Wait until so many pods run and no other is there; returns their names."""

        def there() -> list[str] | None:
            pods = self.pods(component, name, going=True)
            running = [p["metadata"]["name"] for p in pods if p["status"].get("phase") == "Running"]
            return running if len(running) == count == len(pods) else None

        found: list[str] | None = None

        def reached() -> bool:
            nonlocal found
            found = there()
            return found is not None

        self.wait(f"{count} pods of {component} run", reached)
        return sorted(found or [])

    def wait_for_condition(
        self, kind: str, truth: str = "True", name: str = "pole", *, reason: str = ""
    ) -> Document:
        """Wait until a condition of a job is so; returns it."""

        def reached() -> Document | None:
            found = self.condition(kind, name)
            so = found.get("status") == truth and reason in ("", found.get("reason"))
            return found if so else None

        condition: Document = self.wait(f"{kind} of {name} is {truth} {reason}", reached)
        return condition

    def condition(self, kind: str, name: str = "pole") -> Document:
        """Get a condition of a job; empty: it has none of that type."""
        conditions = self.status(name).get("conditions", [])
        return next((c for c in conditions if c["type"] == kind), {})

    def wait_for_status(
        self, what: str, so: Callable[[Document], Any], name: str = "pole"
    ) -> Document:
        """Wait until a job's status is so; returns it."""

        def reached() -> Document | None:
            status = self.status(name)
            return status if status and so(status) else None

        status: Document = self.wait(what, reached)
        return status

    def asked(self, since: datetime) -> list[audit.Entry]:
        """Get what the operator asked for here since then; complete a second later."""
        log = self.stage.audit
        assert log is not None
        mine = audit.entries(log, self.stage.user)
        return [e for e in mine if e.namespace == self.namespace and e.received > since]

    def wait_until_at_rest(self) -> datetime:
        """Wait until the operator has asked for nothing here for a while; returns the time then."""

        def at_rest() -> bool:
            return not self.asked(datetime.now(UTC) - timedelta(seconds=REST_SECONDS))

        self.wait("nothing is asked for", at_rest)
        return datetime.now(UTC)

    def training(
        self, actors: int = 1, name: str = "pole", **spec: Any
    ) -> tuple[LearnerDouble, list[str]]:
        """Create a job and bring it to where it trains; returns its learner's double and actors."""
        counts = {"replicas": actors, "minReplicas": 1, "maxReplicas": 8}
        self.create(name, **{"actors": counts, "autoscaling": {"intervalSeconds": 0.5}, **spec})
        double = self.stage.doubles.of(self.api, self.job(name))
        self.wait_for_pods("learner", 1, name)
        names = self.wait_for_pods("actor", actors, name)
        double.train(*names, version=1, env_steps=100)
        self.wait_for_status(
            "the job trains", lambda s: s["phase"] == "Running" and s["actors"]["ready"] == actors,
            name,
        )  # fmt: skip
        return double, names


@contextmanager
def staged(cluster: Cluster, folder: Path, *, faults: bool = False) -> Iterator[Stage]:
    """Start an operator that looks after all namespaces, and end it with the block.

    Args:
        cluster: where.
        folder: for its log and its credentials.
        faults: whether it shall reach the API server through a `FaultProxy` alone.

    """
    if cluster.tier == "existing":
        pytest.skip("needs simulated nodes, and the cluster given has real ones")
    with ExitStack() as stack:
        api = stack.enter_context(closing(Api(cluster.kubeconfig)))
        started = stack.enter_context(operators(folder / "operators"))
        doubles = stack.enter_context(LearnerDoubles(folder / "doubles"))
        jobs.install_definition(api)
        namespace = f"{OPERATOR_NAMESPACE}-{secrets.token_hex(4)}"
        api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
        stack.callback(api.delete, "v1", "Namespace", namespace)
        kubeconfig = operator_account(api, cluster.kubeconfig, folder, namespace, "operator", [])
        proxy = stack.enter_context(FaultProxy(kubeconfig, folder / "proxy")) if faults else None
        start = _starter(started, proxy.kubeconfig if proxy else kubeconfig, namespace, doubles)
        yield Stage(
            api=api,
            operator=start(),
            user=username(namespace, "operator"),
            doubles=doubles,
            audit=cluster.audit,
            proxy=proxy,
            start=start,
        )


def _starter(
    started: Operators,
    kubeconfig: Path,
    namespace: str,
    doubles: LearnerDoubles,
) -> Callable[..., Operator]:
    def start(**changed: str) -> Operator:
        operator = started.start(
            kubeconfig,
            namespace,
            settings=changed,
            environment={OVERRIDES: str(doubles.file)},
        )
        operator.wait_until_leading()
        return operator

    return start
