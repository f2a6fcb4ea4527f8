"""Lets pods of a namespace run this machine's Python, torch and vaco included, without an image.

The machine's folders come as PersistentVolumes of the kind hostPath, each bound to a claim of the
namespace: a namespace under the restricted profile of the Pod Security Standards takes claims, but
no hostPath. A MutatingAdmissionPolicy mounts them into every pod there and lowers what it requests,
as tests share two cores. So a job is what a user writes, and its pods are what the operator makes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from kube_harness.api import ApiError
from kube_harness.programs import PROJECT

if TYPE_CHECKING:
    from kube_harness.api import Api

LABEL: Final = "test.vaco.dev/machine-python"
FOLDERS: Final = tuple(sorted({"/usr", sys.base_prefix, sys.prefix, str(PROJECT)}))
PATH: Final = f"{Path(sys.prefix) / 'bin'}:/usr/bin:/bin"
REQUESTS: Final = {"cpu": "50m", "memory": "64Mi"}
_POLICY: Final = "machine-python"
_ADMISSION: Final = "admissionregistration.k8s.io/v1"


def install(api: Api) -> None:
    """Make the policy, for namespaces with the label; it may be there from another module."""
    selector = {"matchLabels": {LABEL: "true"}}
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"]}
    api.apply(
        {
            "apiVersion": _ADMISSION,
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": _POLICY},
            "spec": {
                "failurePolicy": "Fail",
                "reinvocationPolicy": "Never",
                "matchConstraints": {
                    "namespaceSelector": selector,
                    "resourceRules": [{**rule, "resources": ["pods"]}],
                },
                "mutations": [
                    {
                        "patchType": "ApplyConfiguration",
                        "applyConfiguration": {"expression": _mounted()},
                    }
                ],
            },
        },
        manager="test",
        force=True,
    )
    api.apply(
        {
            "apiVersion": _ADMISSION,
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": _POLICY},
            "spec": {"policyName": _POLICY},
        },
        manager="test",
        force=True,
    )


def bring(api: Api, namespace: str) -> None:
    """Make the claims in a namespace with the label, and wait until the policy acts there."""
    for number, folder in enumerate(FOLDERS):
        bind_folder(api, namespace, _volume(number), Path(folder))
    api.wait_for("pods get the folders", lambda: _is_mounted(api, namespace))


def bind_folder(api: Api, namespace: str, claim: str, folder: Path, *, made: bool = True) -> None:
    """Make a volume of a folder of this machine, for one claim.

    Args:
        api: an administrator's.
        namespace: of the claim.
        claim: its name.
        folder: is there.
        made: whether to make the claim as well.

    """
    size, modes = {"storage": "1Gi"}, ["ReadWriteOnce"]
    api.create(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"{namespace}-{claim}"},
            "spec": {
                "capacity": size,
                "accessModes": modes,
                "hostPath": {"path": str(folder), "type": "Directory"},
                "claimRef": {"namespace": namespace, "name": claim},
            },
        }
    )
    if not made:
        return
    api.create(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": claim, "namespace": namespace},
            "spec": {
                "accessModes": modes,
                "storageClassName": "",
                "volumeName": f"{namespace}-{claim}",
                "resources": {"requests": size},
            },
        }
    )


def _mounted() -> str:
    """What is applied to a pod, in CEL."""
    volumes = ", ".join(
        f'Object.spec.volumes{{name: "{_volume(n)}", persistentVolumeClaim:'
        f' Object.spec.volumes.persistentVolumeClaim{{claimName: "{_volume(n)}", readOnly: true}}}}'
        for n in range(len(FOLDERS))
    )
    mounts = ", ".join(
        f'Object.spec.containers.volumeMounts{{name: "{_volume(number)}",'
        f' mountPath: "{folder}", readOnly: true}}'
        for number, folder in enumerate(FOLDERS)
    )
    requests = ", ".join(f'"{name}": "{quantity}"' for name, quantity in REQUESTS.items())
    return f"""
        Object{{spec: Object.spec{{
            volumes: [{volumes}],
            containers: object.spec.containers.map(container, Object.spec.containers{{
                name: container.name,
                env: [Object.spec.containers.env{{name: "PATH", value: "{PATH}"}}],
                volumeMounts: [{mounts}],
                resources: Object.spec.containers.resources{{requests: {{{requests}}}}}
            }})
        }}}}
    """


def _is_mounted(api: Api, namespace: str) -> bool:
    """Ask what would become of a pod; the API server takes a moment to know a new policy."""
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "probe"},
        "spec": {
            "securityContext": {
                "runAsNonRoot": True,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "probe",
                    "image": "probe",
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }
    try:
        told = api.request("POST", api.path("v1", "Pod", "", namespace), pod, query=_DRY)
    except ApiError as error:
        if error.status != 403:
            raise
        return False
    return f'"claimName":"{_volume(0)}"' in told


_DRY: Final = {"dryRun": "All"}


def _volume(number: int) -> str:
    return f"machine-{number}"
