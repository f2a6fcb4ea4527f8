"""A release of the chart beside a job that trains: whatever helm does, nothing of the job restarts.

The pods of a simulated node run nothing, so the operator of each release is a real process, with
what the release's Deployment tells it and the token of the release's account.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kube_harness.api import Api
from kube_harness.helm import CHART, Helm
from operator_harness import audit, jobs
from operator_harness.accounts import account_kubeconfig, username
from operator_harness.operators import Operator, Operators, operators
from vaco.job import API_VERSION
from vaco_operator.cluster.settings import PREFIX

if TYPE_CHECKING:
    from kube_harness.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

DEFINITION = (*jobs.CRD, "vacojobs.training.vaco.dev")
RELEASE = "vaco"
DEPLOYMENT = ("apps/v1", "Deployment", "vaco-operator")
ACTORS = 3
APPLIED = (
    "configmaps",
    "services",
    "persistentvolumeclaims",
    "networkpolicies",
    "deployments",
    "jobs",
)
UNSEEN = {
    # An apply that creates is logged as a patch, and needs both.
    *((resource, "create") for resource in APPLIED),
    # Of a child that is there although it was to be created.
    *((resource, "get") for resource in APPLIED),
    # Of pods that a node has lost.
    ("pods/status", "patch"),
    ("pods", "delete"),
    # Of an event that happens again after a minute.
    ("events", "patch"),
    # Asked by an admission plugin that this API server, as most, does not run.
    ("vacojobs/finalizers", "update"),
}


@pytest.fixture
def api(control_plane: Cluster) -> Iterator[Api]:
    if control_plane.tier == "existing":
        pytest.skip("removes the definition of VACOJob, and with it all jobs")
    with closing(Api(control_plane.kubeconfig)) as api:
        _remove_definition(api)
        yield api
        _remove_definition(api)


def _remove_definition(api: Api) -> None:
    """Other tests here install it themselves, and helm takes over nothing of others."""
    if api.find(*DEFINITION) is not None:
        api.delete(*DEFINITION)
    api.wait_for("no definition is left", lambda: api.find(*DEFINITION) is None)


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[Operators]:
    with operators(tmp_path / "operators") as started:
        yield started


@dataclass(frozen=True, slots=True)
class Rig:
    """A namespace with a release in it."""

    api: Api
    cluster: Cluster
    helm: Helm
    replicas: Operators
    namespace: str
    values: dict[str, Any]

    def install(self, chart: Path = CHART, **values: Any) -> None:
        """Install the release, or upgrade it."""
        self.helm.install(RELEASE, self.namespace, {**self.values, **values}, chart)

    def operate(self, name: str) -> Operator:
        """Start the operator that the release's Deployment describes, and wait until it leads."""
        container = self.deployment()["spec"]["template"]["spec"]["containers"][0]
        told = {each["name"]: each["value"] for each in container["env"] if "value" in each}
        flags = {
            name.removeprefix(PREFIX).lower().replace("_", "-"): value
            for name, value in told.items()
        }
        kubeconfig = account_kubeconfig(
            self.api, self.cluster.kubeconfig, self.helm.home, self.namespace, "vaco-operator"
        )
        operator = self.replicas.start(kubeconfig, self.namespace, name=name, settings=flags)
        operator.wait_until_leading()
        return operator

    def deployment(self) -> dict[str, Any]:
        """The release's Deployment."""
        return self.api.get(*DEPLOYMENT, self.namespace)

    def job(self) -> dict[str, Any]:
        """The job as it is now."""
        return self.api.get(API_VERSION, jobs.KIND, "cartpole", self.namespace)

    def pods(self) -> dict[str, str]:
        """The job's pods that run, by uid, with their images."""
        found = self.api.list("v1", "Pod", self.namespace, labels="training.vaco.dev/job=cartpole")
        return {
            pod["metadata"]["uid"]: pod["spec"]["containers"][0]["image"]
            for pod in found
            if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"]
        }

    def touch(self, limit: int) -> None:
        """Change the job, and wait until an operator has seen it."""
        change = {"spec": {"backoffLimit": limit}}
        self.api.patch(API_VERSION, jobs.KIND, "cartpole", self.namespace, change)

        def acted() -> bool:
            job = self.job()
            learner = self.api.get("batch/v1", "Job", "cartpole-learner", self.namespace)
            seen = job["status"]["observedGeneration"] == job["metadata"]["generation"]
            return seen and bool(learner["spec"]["backoffLimit"] == limit)

        self.api.wait_for("the change reached the learner's Job", acted)


@pytest.fixture(params=[("helm", "cluster"), ("helm3", "namespaces")], ids="-".join)
def rig(
    request: pytest.FixtureRequest, api: Api, control_plane: Cluster, namespace: str,
    replicas: Operators, chart_programs: None, tmp_path: Path,  # noqa: ARG001
) -> Rig:  # fmt: skip
    program, scope = request.param
    home = tmp_path / "helm"
    home.mkdir()
    values = {"watch": {"namespaces": [namespace] if scope == "namespaces" else []}}
    helm = Helm(program, home, control_plane.kubeconfig)
    return Rig(api, control_plane, helm, replicas, namespace, values)


@pytest.fixture
def previous(tmp_path: Path) -> Path:
    """The chart as it might have been before: other version, images and definition.

    Nothing was released yet. The first release takes this one's place.
    """
    chart = tmp_path / "previous"
    shutil.copytree(CHART, chart)
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    about |= {"version": "0.0.9", "appVersion": "0.0.9"}
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about))
    path = chart / "files" / "vacojobs.training.vaco.dev.yaml"
    definition = yaml.safe_load(path.read_text())
    definition["spec"]["versions"][0]["additionalPrinterColumns"].pop()
    path.write_text(yaml.safe_dump(definition, sort_keys=False))
    return chart


def _columns(api: Api) -> int:
    return len(api.get(*DEFINITION)["spec"]["versions"][0]["additionalPrinterColumns"])


def test_case_30_a_release_comes_changes_and_goes_and_a_live_job_does_not_notice(
    rig: Rig, previous: Path
) -> None:
    api, namespace = rig.api, rig.namespace
    rig.install(previous)
    columns = _columns(api)
    operator = rig.operate("previous")
    api.create(jobs.job("cartpole", namespace, actors={"replicas": ACTORS, "maxReplicas": 5}))
    pods = api.wait_for("all pods run", lambda: len(now := rig.pods()) == 1 + ACTORS and now)
    assert set(pods.values()) == {"vaco-learner:0.0.9", "vaco-actor:0.0.9"}

    # Upgrade.
    rig.install()
    assert operator.stop() == 0
    assert _columns(api) == columns + 1
    operator = rig.operate("current")
    rig.touch(7)
    assert rig.pods() == pods

    # Back.
    rig.helm.run("rollback", RELEASE, "1", "--namespace", namespace)
    assert operator.stop() == 0
    assert _columns(api) == columns
    operator = rig.operate("rolled-back")
    rig.touch(8)
    assert rig.pods() == pods

    # Gone: what is left are the definition, the job, and what they need to go on.
    rig.helm.run("uninstall", RELEASE, "--namespace", namespace)
    assert operator.stop() == 0
    assert api.find(*DEPLOYMENT, namespace) is None
    assert api.find("rbac.authorization.k8s.io/v1", "Role", "vaco-operator", namespace) is None
    assert api.find("v1", "Secret", "vaco-root", namespace) is not None
    assert rig.job()["status"]["phase"] == "Starting"
    assert rig.pods() == pods

    # Once more: the definition that was kept is taken over.
    rig.install()
    rig.operate("again")
    rig.touch(9)
    assert rig.pods() == pods


def test_a_job_is_deleted_with_all_that_belongs_to_it_when_the_operator_is_gone(rig: Rig) -> None:
    api, namespace = rig.api, rig.namespace
    rig.install()
    operator = rig.operate("operator")
    api.create(jobs.job("cartpole", namespace))
    api.wait_for("its pods run", lambda: len(rig.pods()) == 2)
    rig.helm.run("uninstall", RELEASE, "--namespace", namespace)
    operator.stop()

    api.delete(API_VERSION, jobs.KIND, "cartpole", namespace)

    def left() -> list[str]:
        kinds = [("v1", "Pod"), ("v1", "Service"), ("v1", "Secret"), ("batch/v1", "Job")]
        labels = "training.vaco.dev/job=cartpole"
        found = [item for kind in kinds for item in api.list(*kind, namespace, labels=labels)]
        return [item["metadata"]["name"] for item in found]

    api.wait_for("nothing of the job is left", lambda: not left())


def test_without_keep_the_definition_goes_with_the_release(rig: Rig) -> None:
    rig.install(crds={"keep": False})
    rig.helm.run("uninstall", RELEASE, "--namespace", rig.namespace)
    rig.api.wait_for("it is gone", lambda: rig.api.find(*DEFINITION) is None)


def test_the_operator_needs_what_its_roles_grant_and_nothing_else(rig: Rig) -> None:
    api, namespace = rig.api, rig.namespace
    if rig.cluster.audit is None:
        pytest.skip("needs the API server's audit log")
    rig.install()
    rig.operate("operator")
    # The operator's own pod is the third.
    quota = {"hard": {"count/pods": "3"}}
    metadata = {"name": "small", "namespace": namespace}
    api.create({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": quota})
    actors = {"replicas": ACTORS, "maxReplicas": 5}
    api.create(jobs.job("cartpole", namespace, actors=actors))
    api.wait_for("as many pods run as may", lambda: len(rig.pods()) == 2)
    # Another one does not even get its learner, and its volume is never provisioned here.
    api.create(jobs.job("stored", namespace, learner={"storage": {"size": "1Gi"}}))
    api.wait_for("it is told why", lambda: _told(rig, "stored") == "QuotaExceeded")
    assert api.find("v1", "PersistentVolumeClaim", "stored-checkpoints", namespace) is not None
    api.delete(API_VERSION, jobs.KIND, "stored", namespace)
    api.delete("v1", "ResourceQuota", "small", namespace)
    api.wait_for("all pods run", lambda: len(rig.pods()) == 1 + ACTORS)
    # Fewer actors; another learner, which means another Job; and no job any more, by its own will.
    fewer = {"actors": {"replicas": 1}}
    api.patch(API_VERSION, jobs.KIND, "cartpole", namespace, {"spec": fewer})
    api.wait_for("actors have gone", lambda: len(rig.pods()) == 2, seconds=90)
    changed = {"stop": {"envSteps": 2_000_000}}
    api.patch(API_VERSION, jobs.KIND, "cartpole", namespace, {"spec": changed})
    api.wait_for("the learner's Job is another", lambda: _attempt(rig) == "2", seconds=90)
    over = {"ttlSecondsAfterFinished": 0, "activeDeadlineSeconds": 1}
    api.patch(API_VERSION, jobs.KIND, "cartpole", namespace, {"spec": over})

    def gone() -> bool:
        return api.find(API_VERSION, jobs.KIND, "cartpole", namespace) is None

    api.wait_for("the job is gone", gone)

    user = username(namespace, "vaco-operator")

    def asked() -> list[audit.Entry]:
        found = audit.entries(rig.cluster.audit, user)  # type: ignore[arg-type]
        return found if any(e.verb == "delete" and e.resource == "vacojobs" for e in found) else []

    entries = api.wait_for("it is in the audit log", asked, seconds=45)
    refused = {(e.resource, e.verb) for e in entries if e.code == 403 and e.resource != "pods"}
    assert refused == set()
    needed = {(e.resource, e.verb) for e in entries}
    granted = _granted(rig)
    assert needed <= granted
    assert granted - needed <= UNSEEN


def _told(rig: Rig, name: str) -> str:
    """Why the job's learner is not available."""
    job = rig.api.get(API_VERSION, jobs.KIND, name, rig.namespace)
    conditions = job.get("status", {}).get("conditions", [])
    return "".join(c["reason"] for c in conditions if c["type"] == "LearnerAvailable")


def _attempt(rig: Rig) -> str:
    learner = rig.api.find("batch/v1", "Job", "cartpole-learner", rig.namespace)
    labels = learner["metadata"]["labels"] if learner else {}
    return str(labels.get("training.vaco.dev/attempt", ""))


def _granted(rig: Rig) -> set[tuple[str, str]]:
    rendered = rig.helm.template(RELEASE, rig.namespace, rig.values)
    bound = [d for d in rendered if d["kind"] in ("Role", "ClusterRole")]
    own = [d for d in bound if "operator" in d["metadata"]["name"]]
    rules = [rule for role in own for rule in role["rules"]]
    return {(name, verb) for rule in rules for name in rule["resources"] for verb in rule["verbs"]}
