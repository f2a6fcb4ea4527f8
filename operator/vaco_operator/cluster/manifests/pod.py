"""The pods of a job: what learner and actors have in common, and the user's template merged in.

By themselves they meet the restricted profile of the Pod Security Standards. The user's template
may change everything but what finds a pod again: our labels, our annotations, the restart policy.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic import JsonValue
from vaco.job import VACOJob

from vaco_operator.cluster.labels import (
    METRICS_PORT,
    SPEC_HASH,
    TEMPLATE_HASH,
    ChildNames,
    child_labels,
)
from vaco_operator.cluster.manifests.config_map import JOB_FILE
from vaco_operator.cluster.manifests.credentials_secret import projected_items
from vaco_operator.cluster.manifests.merge import merged
from vaco_operator.cluster.manifests.spec_hash import digest, spec_hash
from vaco_operator.cluster.resources import Document
from vaco_operator.cluster.settings import Settings

JOB_PATH: Final = f"/etc/vaco/job/{JOB_FILE}"
_CREDENTIALS: Final = "/etc/vaco/credentials"
_THREAD_POOLS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

# Of our images. Set here too: another image may name no user, or one without a number.
USER_ID: Final = 65532

# Kubernetes' own labels on a Job's template. Once applied they would be ours, and an operator that
# does not apply them would take them away, which is refused: no way back from an upgrade.
_JOB_CONTROLLERS: Final = frozenset(
    f"{prefix}{name}"
    for prefix in ("", "batch.kubernetes.io/")
    for name in ("controller-uid", "job-name")
)

# Everybody in the container may read the credentials: there is nobody else in it.
_READABLE: Final = 0o444


@dataclass(frozen=True, slots=True)
class PodShape:
    """In what the pods of a component differ from those of the other.

    Attributes:
        component: which of the two, and the name of its container.
        image: unless the user's template names one.
        command: of its container.
        threads: of its computations; it requests as many CPUs.
        memory: that it requests, as a quantity.
        grace_seconds: between SIGTERM and SIGKILL.
        lost_node_seconds: that it waits for a node which does not answer any more.
        restart_policy: of its containers.
        labels: beside those of every child.
        annotations: for those who move pods about.
        ports: beside the metrics'.
        environment: beside what both have.
        volumes: beside what both have, each with where it is mounted.
        template: the user's.

    """

    component: Literal["learner", "actor"]
    image: str
    command: tuple[str, ...]
    threads: int
    memory: str
    grace_seconds: int
    lost_node_seconds: int
    restart_policy: Literal["Always", "Never"]
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    ports: Mapping[str, int]
    environment: tuple[Document, ...]
    volumes: tuple[tuple[Document, Document], ...]
    template: Mapping[str, JsonValue]


def pod_template(job: VACOJob, settings: Settings, shape: PodShape) -> Document:
    """Build a pod template.

    Its annotations say what of the job's spec it follows from and what this operator made of that,
    so that the next one can tell its own work from the user's (`kept`).

    Raises:
        UserError: the user's template cannot be merged.

    """
    spec_path = "learner" if shape.component == "learner" else "actors"
    path = f"spec.{spec_path}.podTemplate"
    base = {
        "metadata": {"annotations": dict(shape.annotations)},
        "spec": _spec(job, settings, shape),
    }
    template = merged(base, shape.template, path)
    pod, metadata = template["spec"], template["metadata"]
    pod["restartPolicy"] = shape.restart_policy
    _request_resources(pod, shape)
    metadata["labels"] = {
        **metadata.get("labels", {}),
        **child_labels(job.metadata.name, shape.component),
        **shape.labels,
    }
    metadata["annotations"] = {
        **metadata.get("annotations", {}),
        SPEC_HASH: spec_hash(job, shape.component),
    }
    metadata["annotations"][TEMPLATE_HASH] = digest(template)
    return template


def kept(fresh: Document, live: Document | None) -> Document:
    """Choose the template to apply: the live one, if only the operator would change it.

    A newer operator makes other templates of the same jobs. Their pods must not restart for it, so
    a template of an older one stays until the user changes the spec or the learner is made anew. A
    template of this very operator is applied as it should be, which reverts what others changed.

    Args:
        fresh: what this operator makes of the job now.
        live: the Job or Deployment as it is; None: there is none, or it is to be replaced.

    """
    if live is None:
        return fresh
    there: Document = live["spec"]["template"]
    ours, theirs = _hashes(fresh), _hashes(there)
    if ours[0] != theirs[0] or ours[1] == theirs[1]:
        return fresh
    labels = {k: v for k, v in there["metadata"]["labels"].items() if k not in _JOB_CONTROLLERS}
    return {**there, "metadata": {**there["metadata"], "labels": labels}}


def live_spec_hash(live: Document) -> str:
    """Tell which spec a live Job or Deployment was made from; empty: nobody knows."""
    return _hashes(live["spec"]["template"])[0]


def _hashes(template: Document) -> tuple[str, str]:
    annotations = template.get("metadata", {}).get("annotations") or {}
    return annotations.get(SPEC_HASH, ""), annotations.get(TEMPLATE_HASH, "")


def _spec(job: VACOJob, settings: Settings, shape: PodShape) -> Document:
    names = ChildNames.of(job.metadata.name)
    volumes = [
        {"name": "job", "configMap": {"name": names.config_map}},
        {
            "name": "credentials",
            "secret": {
                "secretName": names.credentials,
                "defaultMode": _READABLE,
                "items": projected_items(shape.component),
            },
        },
        {"name": "tmp", "emptyDir": {}},
        *(volume for volume, _ in shape.volumes),
    ]
    spec: Document = {
        # Nothing in the pod talks to the API server.
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": shape.grace_seconds,
        "tolerations": [_lost_node(shape, each) for each in ("not-ready", "unreachable")],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            # Volumes belong to root until they are given to a group.
            "fsGroup": USER_ID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumes": volumes,
        "containers": [_container(settings, shape)],
    }
    if settings.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    return spec


def _container(settings: Settings, shape: PodShape) -> Document:
    ports = {**shape.ports, "metrics": METRICS_PORT}
    container: Document = {
        "name": shape.component,
        "image": shape.image,
        "command": list(shape.command),
        "env": [*_environment(shape.threads), *shape.environment],
        "ports": [
            {"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports.items()
        ],
        "volumeMounts": [
            {"name": "job", "mountPath": JOB_PATH.rpartition("/")[0], "readOnly": True},
            {"name": "credentials", "mountPath": _CREDENTIALS, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - the pod's own
            *(mount for _, mount in shape.volumes),
        ],
        **_probes(),
        # The log's end, if the program left no last words.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    if settings.image_pull_policy:
        container["imagePullPolicy"] = settings.image_pull_policy
    return container


def _environment(threads: int) -> list[Document]:
    values = {
        "VACO_TLS_CA": f"{_CREDENTIALS}/ca.crt",
        "VACO_TLS_CERT": f"{_CREDENTIALS}/tls.crt",
        "VACO_TLS_KEY": f"{_CREDENTIALS}/tls.key",
        "VACO_TOKEN_FILE": f"{_CREDENTIALS}/token",
        "HOME": "/tmp",  # noqa: S108 - the only place that can be written to
        "PYTHONUNBUFFERED": "1",
        # Numerical libraries start one thread per core of the node unless told before.
        **dict.fromkeys(_THREAD_POOLS, str(threads)),
    }
    return [{"name": name, "value": value} for name, value in values.items()]


def _probes() -> Document:
    def ask(path: str, **bounds: int) -> Document:
        return {"httpGet": {"path": path, "port": "metrics"}, "timeoutSeconds": 5, **bounds}

    return {
        # Five minutes: torch is read from a cold disk, an environment compiles itself.
        "startupProbe": ask("/livez", periodSeconds=2, failureThreshold=150),
        "livenessProbe": ask("/livez", periodSeconds=10, failureThreshold=6),
        "readinessProbe": ask("/readyz", periodSeconds=5, failureThreshold=3),
    }


def _lost_node(shape: PodShape, taint: str) -> Document:
    return {
        "key": f"node.kubernetes.io/{taint}",
        "operator": "Exists",
        "effect": "NoExecute",
        "tolerationSeconds": shape.lost_node_seconds,
    }


def _request_resources(pod: dict[str, Any], shape: PodShape) -> None:
    """Request what the user's template says nothing of, in place.

    A limit of the user's is a request as well, so ours must not go beyond it.
    """
    if "resources" in pod:
        return
    container = next(each for each in pod["containers"] if each["name"] == shape.component)
    given = container.setdefault("resources", {})
    ours = {"cpu": str(shape.threads), "memory": shape.memory}
    missing = {name: ours[name] for name in ours if name not in given.get("limits", {})}
    given["requests"] = {**missing, **given.get("requests", {})}
