"""The node tier runs real containers, which find each other by name and are told to stop."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kube_harness.api import Api

if TYPE_CHECKING:
    from kube_harness.cluster import Cluster

pytestmark = pytest.mark.cluster

HOLD = "test.vaco.dev/hold"


@pytest.fixture
def api(node: Cluster) -> Iterator[Api]:
    with closing(Api(node.kubeconfig)) as api:
        yield api


def _pod(
    cluster: Cluster, namespace: str, name: str, script: str, **metadata: object
) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": cluster.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
        "terminationMessagePath": "/dev/termination-log",
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65534,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}} | metadata,
        "spec": {
            "containers": [container],
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 20,
        },
    }


def _wait_for_phase(api: Api, namespace: str, name: str, phase: str) -> dict[str, Any]:
    def reached() -> dict[str, Any] | None:
        status: dict[str, Any] = api.get("v1", "Pod", name, namespace)["status"]
        return status if status["phase"] == phase else None

    status: dict[str, Any] = api.wait_for(f"{name} is {phase}", reached, seconds=60)
    return status


def _terminated(status: dict[str, Any]) -> dict[str, Any]:
    ended: dict[str, Any] = status["containerStatuses"][0]["state"]["terminated"]
    return ended


def test_a_pod_runs_to_completion(node: Cluster, api: Api, namespace: str) -> None:
    api.create(_pod(node, namespace, "greeter", "echo hello from $(id -u); exit 0"))
    api.create(_pod(node, namespace, "failure", "exit 3"))

    _wait_for_phase(api, namespace, "greeter", "Succeeded")
    assert api.logs("greeter", namespace) == "hello from 65534\n"
    assert _terminated(_wait_for_phase(api, namespace, "failure", "Failed"))["exitCode"] == 3


def test_pods_reach_each_other_by_a_services_name(node: Cluster, api: Api, namespace: str) -> None:
    serve = "while true; do echo from the server | nc -l -p 8080; done"
    api.create(_pod(node, namespace, "server", serve))
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "greetings", "namespace": namespace},
        "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    created = api.create(service)
    _wait_for_phase(api, namespace, "server", "Running")
    ask = f"nc -w 5 greetings.{namespace}.svc.cluster.local 80 < /dev/null"
    api.create(
        _pod(node, namespace, "client", f"for i in 1 2 3 4 5; do {ask} && exit; sleep 1; done")
    )

    _wait_for_phase(api, namespace, "client", "Succeeded")

    assert created["spec"]["clusterIP"].startswith("10.96.")
    assert "from the server" in api.logs("client", namespace)


def test_the_machines_python_and_environment_run_in_a_pod(
    node: Cluster, api: Api, namespace: str
) -> None:
    # Training on the node mounts them like this: no image of some gigabytes needs to be made.
    if node.tier == "existing" or not Path("/lib").is_symlink():
        pytest.skip("needs a node of this machine, with the merged /usr of today's Debian")
    script = f"{sys.executable} -c 'import numpy, vaco.job; print(numpy.arange(4).sum())'"
    pod = _pod(node, namespace, "learner", script)
    project = Path(__file__).resolve().parents[2]
    folders = sorted({"/usr", sys.base_prefix, sys.prefix, str(project)})
    mounts = [(f"folder-{number}", folder) for number, folder in enumerate(folders)]
    pod["spec"]["volumes"] = [
        {"name": name, "hostPath": {"path": folder, "type": "Directory"}} for name, folder in mounts
    ]
    pod["spec"]["containers"][0]["volumeMounts"] = [
        {"name": name, "mountPath": folder, "readOnly": True} for name, folder in mounts
    ]
    api.create(pod)

    _wait_for_phase(api, namespace, "learner", "Succeeded")
    assert api.logs("learner", namespace) == "6\n"


def test_a_deleted_pod_gets_sigterm_and_its_grace_period(
    node: Cluster, api: Api, namespace: str
) -> None:
    # Its finalizer keeps the pod readable after its end.
    script = (
        "trap 'sleep 3; echo drained > /dev/termination-log; exit 42' TERM;"
        " echo up; while true; do sleep 0.1; done"
    )
    api.create(_pod(node, namespace, "actor", script, finalizers=[HOLD]))
    _wait_for_phase(api, namespace, "actor", "Running")
    api.wait_for("it set its trap", lambda: "up" in api.logs("actor", namespace))
    try:
        api.delete("v1", "Pod", "actor", namespace)
        ended = _terminated(_wait_for_phase(api, namespace, "actor", "Failed"))
    finally:
        api.patch("v1", "Pod", "actor", namespace, {"metadata": {"finalizers": None}})

    assert ended["exitCode"] == 42
    assert ended["message"] == "drained\n"
