"""Lets pods of a namespace run this machine's Python, torch and vaco included, without an image.

The folders come as PersistentVolumes of the kind hostPath, each bound to a claim of the namespace:
a namespace under the restricted profile of the Pod Security Standards takes claims, but no
hostPath. So the test's pods are what the operator makes of a job, and a claim per folder.

    bring_python(api, namespace)
    job["spec"]["learner"]["podTemplate"] = pod_template("learner")
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from kube_harness.programs import PROJECT

if TYPE_CHECKING:
    from kube_harness.api import Api

FOLDERS: Final = tuple(sorted({"/usr", sys.base_prefix, sys.prefix, str(PROJECT)}))
PATH: Final = f"{Path(sys.prefix) / 'bin'}:/usr/bin:/bin"
# The operator asks for a core for each; tests share two.
REQUESTS: Final = {"cpu": "50m", "memory": "64Mi"}


def need_this_machine() -> None:
    """Skip where pods cannot run what is here."""
    if not Path("/lib").is_symlink():
        pytest.skip("pods run this machine's programs, which needs the merged /usr of Debian")


def bring_python(api: Api, namespace: str) -> None:
    """Make the claims by which pods of `namespace` mount the folders."""
    for number, folder in enumerate(FOLDERS):
        bind_folder(api, namespace, _claim(number), Path(folder))


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


def pod_template(container: str, **spec: Any) -> dict[str, Any]:
    """Return what a user's pod template adds, so that the pod's `python` is this machine's.

    Args:
        container: `learner` or `actor`.
        spec: more fields of the pod's.

    """
    volumes = [
        {"name": _claim(n), "persistentVolumeClaim": {"claimName": _claim(n), "readOnly": True}}
        for n in range(len(FOLDERS))
    ]
    mounts = [
        {"name": _claim(number), "mountPath": folder, "readOnly": True}
        for number, folder in enumerate(FOLDERS)
    ]
    ours = {
        "name": container,
        "env": [{"name": "PATH", "value": PATH}],
        "volumeMounts": mounts,
        "resources": {"requests": REQUESTS},
    }
    return {"spec": {"volumes": volumes, "containers": [ours], **spec}}


def _claim(number: int) -> str:
    return f"machine-{number}"
