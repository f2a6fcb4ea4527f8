"""Simulated nodes: kwok plays the kubelet, so that pods "run" without containers.

How a pod fares is decided by annotations, which tests set in a pod template or on a live pod:

- none: it runs and is ready as soon as it is scheduled;
- `test.vaco.dev/pending: "true"`: it stays Pending (an image that never arrives);
- `test.vaco.dev/unready: "true"`: it runs, and its Ready condition is False;
- `test.vaco.dev/exit-code: "0"`: its containers end with that status, and the pod with it;
- `test.vaco.dev/last-words: "..."`: and with that termination message;
- `test.vaco.dev/stuck: "true"`: when it is deleted nothing happens, as on a node that died.

A deleted pod ends as if by SIGTERM (status 143, Failed) unless it had ended, and then goes.
Everything else (garbage collection, Jobs, Deployments, eviction) is the real controllers' doing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from kube_harness.api import Api
from kube_harness.processes import Processes
from kube_harness.programs import binary

PENDING = "test.vaco.dev/pending"
UNREADY = "test.vaco.dev/unready"
EXIT_CODE = "test.vaco.dev/exit-code"
LAST_WORDS = "test.vaco.dev/last-words"
STUCK = "test.vaco.dev/stuck"

START_SECONDS = 30.0
LEASE_SECONDS = 40
_CAPACITY = {"cpu": "64", "memory": "256Gi", "pods": "500", "ephemeral-storage": "1Ti"}

_NODE_STATUS = """
phase: Running
conditions:
{{ range NodeConditions }}
- type: {{ .type | Quote }}
  status: {{ .status | Quote }}
  reason: {{ .reason | Quote }}
  message: {{ .message | Quote }}
  lastHeartbeatTime: {{ Now | Quote }}
  lastTransitionTime: {{ Now | Quote }}
{{ end }}
addresses:
- type: Hostname
  address: {{ .metadata.name | Quote }}
"""

_RUNNING = """
{{ $now := Now }}
{{ $unready := get (or .metadata.annotations dict) "UNREADY" }}
{{ $ready := ne $unready "true" }}
{{ $status := ternary "True" "False" $ready }}
phase: Running
startTime: {{ or .status.startTime $now | Quote }}
podIP: {{ PodIPWith .spec.nodeName false .metadata.uid .metadata.name .metadata.namespace | Quote }}
conditions:
- {type: Initialized, status: "True", lastTransitionTime: {{ $now | Quote }}}
- {type: ContainersReady, status: {{ $status | Quote }}, lastTransitionTime: {{ $now | Quote }}}
- {type: Ready, status: {{ $status | Quote }}, lastTransitionTime: {{ $now | Quote }}}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: ""
  restartCount: 0
  ready: {{ $ready }}
  started: true
  state: {running: {startedAt: {{ $now | Quote }}}}
{{ end }}
"""

_ENDED = """
{{ $now := Now }}
{{ $code := or (get (or .metadata.annotations dict) "EXIT_CODE") "143" }}
{{ $words := or (get (or .metadata.annotations dict) "LAST_WORDS") "" }}
{{ $reason := ternary "Completed" "Error" (eq $code "0") }}
phase: {{ ternary "Succeeded" "Failed" (eq $code "0") }}
conditions:
- {type: ContainersReady, status: "False", reason: PodCompleted}
- {type: Ready, status: "False", reason: PodCompleted, lastTransitionTime: {{ $now | Quote }}}
containerStatuses:
{{ range .spec.containers }}
- name: {{ .name | Quote }}
  image: {{ .image | Quote }}
  imageID: ""
  restartCount: 0
  ready: false
  started: false
  state:
    terminated:
      exitCode: {{ $code }}
      reason: {{ $reason }}
      message: {{ $words | Quote }}
      startedAt: {{ or $.status.startTime $now | Quote }}
      finishedAt: {{ $now | Quote }}
{{ end }}
"""

_READY = '.status.conditions.[] | select( .type == "Ready" ) | .status'
_PHASE = ".status.phase"
_DELETED = ".metadata.deletionTimestamp"

Rule = tuple[str, str, list[str]]


def start(processes: Processes, kubeconfig: Path, state: Path) -> None:
    """Start kwok; it manages all nodes of the cluster."""
    config = state / "kwok.yaml"
    config.write_text(yaml.safe_dump_all(_stages(), sort_keys=False))
    command = [
        binary("kwok"),
        f"--kubeconfig={kubeconfig}",
        f"--config={config}",
        "--manage-all-nodes=true",
        "--cidr=10.244.0.1/16",
        f"--node-lease-duration-seconds={LEASE_SECONDS}",
    ]
    processes.start("kwok", command)


def add_nodes(api: Api, processes: Processes, count: int) -> None:
    """Add `count` nodes of 64 CPUs and 256 GiB each and wait until they are ready."""
    names = [f"simulated-{number}" for number in range(count)]
    for name in names:
        labels = {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
        node = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": labels},
            "status": {"capacity": _CAPACITY, "allocatable": _CAPACITY},
        }
        api.create(node)

    def ready() -> bool:
        # A node is also tainted as not ready for a moment; nothing is scheduled to it until then.
        nodes = [api.get("v1", "Node", name) for name in names]
        return all(_is_ready(node) and not node["spec"].get("taints") for node in nodes)

    processes.wait_until("the simulated nodes are ready", ready, START_SECONDS)


def _is_ready(node: dict[str, Any]) -> bool:
    conditions = node["status"].get("conditions", [])
    return {"Ready": "True"}.items() <= {c["type"]: c["status"] for c in conditions}.items()


def _stages() -> list[dict[str, Any]]:
    alive: Rule = (_DELETED, "DoesNotExist", [])
    deleted: Rule = (_DELETED, "Exists", [])
    pending: Rule = (_PHASE, "In", ["Pending"])
    running: Rule = (_PHASE, "In", ["Running"])
    ended: Rule = (_PHASE, "In", ["Succeeded", "Failed"])
    ready: Rule = (_READY, "In", ["True"])
    unready: Rule = (_READY, "NotIn", ["True"])
    told_pending, told_unready, told_code = map(_annotation, (PENDING, UNREADY, EXIT_CODE))
    answers: Rule = (_annotation(STUCK), "NotIn", ["true"])
    lively = {"statusTemplate": _RUNNING.replace("UNREADY", UNREADY)}
    ended_template = _ENDED.replace("EXIT_CODE", EXIT_CODE).replace("LAST_WORDS", LAST_WORDS)
    ending = {"statusTemplate": ended_template}
    going = {"delete": True}
    quiet: Rule = (told_code, "DoesNotExist", [])
    return [
        _stage("Node", "node-runs", [unready], {"statusTemplate": _NODE_STATUS}),
        _stage("Pod", "pod-runs", [alive, pending, (told_pending, "NotIn", ["true"])], lively),
        _stage(
            "Pod", "pod-unready", [alive, running, quiet, ready, (told_unready, "In", ["true"])],
            lively,
        ),
        _stage(
            "Pod", "pod-ready", [alive, running, quiet, unready, (told_unready, "NotIn", ["true"])],
            lively,
        ),
        _stage("Pod", "pod-ends", [alive, running, (told_code, "Exists", [])], ending),
        _stage(
            "Pod", "pod-stops", [deleted, answers, (_PHASE, "NotIn", ["Succeeded", "Failed"])],
            ending,
        ),
        _stage("Pod", "pod-goes", [deleted, answers, ended], going),
    ]  # fmt: skip


def _annotation(name: str) -> str:
    return f'.metadata.annotations["{name}"]'


def _stage(kind: str, name: str, rules: list[Rule], following: dict[str, Any]) -> dict[str, Any]:
    expressions = [
        {"key": key, "operator": operator} | ({"values": values} if values else {})
        for key, operator, values in rules
    ]
    return {
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": name},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": kind},
            "selector": {"matchExpressions": expressions},
            "next": following,
        },
    }
