"""The control plane tier is a real Kubernetes: controllers, roles and server-side apply work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from kube_harness.api import Api, ApiError
from kube_harness.simulated import EXIT_CODE, PENDING, UNREADY

if TYPE_CHECKING:
    from kube_harness.cluster import Cluster

pytestmark = pytest.mark.cluster


@pytest.fixture
def api(control_plane: Cluster) -> Iterator[Api]:
    with closing(Api(control_plane.kubeconfig)) as api:
        yield api


@pytest.fixture
def simulated(control_plane: Cluster) -> Cluster:
    if control_plane.tier == "existing":
        pytest.skip("needs simulated nodes, and the cluster given has real ones")
    return control_plane


def _pod_spec(cluster: Cluster) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": cluster.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sleep", "3600"],
    }
    return {"containers": [container], "terminationGracePeriodSeconds": 0}


def _deployment(cluster: Cluster, namespace: str, replicas: int) -> dict[str, Any]:
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": _pod_spec(cluster)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": template,
        },
    }


def _config_map(namespace: str, name: str, data: dict[str, str]) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def test_a_deployment_becomes_ready_and_its_pods_are_replaced(
    control_plane: Cluster, api: Api, namespace: str
) -> None:
    api.create(_deployment(control_plane, namespace, 3))

    def available() -> bool:
        deployment = api.get("apps/v1", "Deployment", "web", namespace)
        return bool(deployment.get("status", {}).get("availableReplicas") == 3)

    api.wait_for("three pods are available", available)
    before = {pod["metadata"]["uid"] for pod in api.list("v1", "Pod", namespace)}
    victim = api.list("v1", "Pod", namespace)[0]["metadata"]["name"]
    api.delete("v1", "Pod", victim, namespace)

    def others() -> list[str]:
        pods = api.list("v1", "Pod", namespace)
        uids = [pod["metadata"]["uid"] for pod in pods]
        return uids if len(uids) == 3 and set(uids) != before else []

    assert len(set(api.wait_for("the pod is replaced", others)) & before) == 2


def test_a_child_is_collected_with_its_owner_and_not_before(api: Api, namespace: str) -> None:
    owner = api.create(_config_map(namespace, "owner", {}))
    child = _config_map(namespace, "child", {})
    child["metadata"]["ownerReferences"] = [
        {
            "apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
            "uid": owner["metadata"]["uid"], "controller": True,
        }
    ]  # fmt: skip
    orphan = _config_map(namespace, "orphan", {})
    api.create(child)
    api.create(orphan)

    api.delete("v1", "ConfigMap", "owner", namespace)

    def gone() -> bool:
        return api.find("v1", "ConfigMap", "child", namespace) is None

    api.wait_for("the child is collected", gone)
    assert api.find("v1", "ConfigMap", "orphan", namespace) is not None


def test_server_side_apply_refuses_another_managers_field(api: Api, namespace: str) -> None:
    api.apply(_config_map(namespace, "shared", {"a": "1", "b": "1"}), manager="first")

    with pytest.raises(ApiError) as refused:
        api.apply(_config_map(namespace, "shared", {"a": "2"}), manager="second")

    assert refused.value.status == 409
    assert refused.value.body["details"]["causes"][0]["reason"] == "FieldManagerConflict"
    api.apply(_config_map(namespace, "shared", {"a": "2"}), manager="second", force=True)
    assert api.get("v1", "ConfigMap", "shared", namespace)["data"] == {"a": "2", "b": "1"}


def test_roles_are_enforced(control_plane: Cluster, api: Api, namespace: str) -> None:
    account = f"system:serviceaccount:{namespace}:default"
    with closing(Api(control_plane.kubeconfig, impersonate=account)) as nobody:
        with pytest.raises(ApiError) as refused:
            nobody.list("v1", "Pod", namespace)
        assert refused.value.status == 403
    assert api.list("v1", "Pod", namespace) == []


def test_a_simulated_pod_does_what_its_annotations_say(
    simulated: Cluster, api: Api, namespace: str
) -> None:
    metadata = {"name": "actor", "namespace": namespace, "annotations": {PENDING: "true"}}
    spec = _pod_spec(simulated) | {"restartPolicy": "Never"}
    api.create({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

    def status() -> dict[str, Any]:
        found: dict[str, Any] = api.get("v1", "Pod", "actor", namespace)["status"]
        return found

    def ready() -> str:
        conditions = status().get("conditions", [])
        return "".join(c["status"] for c in conditions if c["type"] == "Ready")

    def scheduled() -> bool:
        return "spec" in (pod := api.get("v1", "Pod", "actor", namespace)) and bool(
            pod["spec"].get("nodeName")
        )

    api.wait_for("the pod is scheduled", scheduled)
    assert status()["phase"] == "Pending"

    steps: list[tuple[dict[str, str | None], tuple[str, str]]] = [
        ({PENDING: None}, ("Running", "True")),
        ({UNREADY: "true"}, ("Running", "False")),
        ({UNREADY: None}, ("Running", "True")),
        ({EXIT_CODE: "3"}, ("Failed", "False")),
    ]
    for change, expected in steps:
        api.patch("v1", "Pod", "actor", namespace, {"metadata": {"annotations": change}})

        def reached(wanted: tuple[str, str] = expected) -> bool:
            return (status()["phase"], ready()) == wanted

        api.wait_for(f"{change} makes it {expected}", reached, seconds=20)
    ended = status()["containerStatuses"][0]["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (3, "Error")


def test_a_deleted_pod_of_a_job_fails_before_it_is_replaced(
    simulated: Cluster, api: Api, namespace: str
) -> None:
    spec = _pod_spec(simulated) | {"restartPolicy": "Never"}
    job = {"podReplacementPolicy": "Failed", "backoffLimit": 3, "template": {"spec": spec}}
    metadata = {"name": "learner", "namespace": namespace}
    api.create({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": job})

    def running() -> list[str]:
        pods = api.list("v1", "Pod", namespace)
        return [p["metadata"]["name"] for p in pods if p["status"]["phase"] == "Running"]

    first = api.wait_for("the job's pod runs", running)
    api.delete("v1", "Pod", first[0], namespace)

    def replaced() -> bool:
        status = api.get("batch/v1", "Job", "learner", namespace)["status"]
        return bool(status.get("failed") == 1 and running() not in ([], first))

    api.wait_for("a failure is counted and another pod runs", replaced, seconds=60)


def test_the_audit_log_has_what_a_test_asked(simulated: Cluster, api: Api, namespace: str) -> None:
    audit = simulated.audit
    assert audit is not None
    api.create(_config_map(namespace, "noted", {}))

    def noted() -> list[dict[str, Any]]:
        events = [json.loads(line) for line in audit.read_text().splitlines()]
        return [
            event
            for event in events
            if event.get("objectRef", {}).get("namespace") == namespace
            and event["objectRef"].get("resource") == "configmaps"
            and event["user"]["username"] == "test-administrator"
        ]

    entries = api.wait_for("the request is in the audit log", noted, seconds=45)
    assert [entry["verb"] for entry in entries] == ["create"]
