"""vaco on the real node as a user installs it: its image, its chart, the restricted profile."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from kube_harness import build, images, programs
from kube_harness.api import Api
from kube_harness.errors import Unavailable
from kube_harness.helm import Helm
from operator_harness.jobs import CRD
from training_harness import machine_python

if TYPE_CHECKING:
    from kube_harness.build import Say
    from kube_harness.cluster import Cluster

NAMESPACE: Final = "vaco-system"
RELEASE: Final = "vaco"
DEFINITION: Final = (*CRD, "vacojobs.training.vaco.dev")
IMPORT_SECONDS: Final = 120
RESTRICTED: Final = {
    "pod-security.kubernetes.io/enforce": "restricted",
    "pod-security.kubernetes.io/enforce-version": "latest",
}


@dataclass(frozen=True, slots=True)
class Installed:
    """An operator that runs as a pod on the node, and looks after all namespaces."""

    cluster: Cluster
    api: Api
    helm: Helm


def values(cluster: Cluster) -> dict[str, Any]:
    """Return the chart's values: the images that the node has."""
    base, _, tag = cluster.image.partition(":")
    operator, _, operator_tag = images.NAME.partition(":")
    trainer = {"repository": base, "tag": tag}
    return {
        "images": {
            "pullPolicy": "Never",
            "operator": {"repository": operator, "tag": operator_tag},
            "learner": trainer,
            "actor": trainer,
        },
        "operator": {"resources": {"requests": machine_python.REQUESTS}},
    }


def import_image(cluster: Cluster, archive: Path) -> None:
    """Give the node an image from an OCI archive."""
    socket = cluster.kubeconfig.parent / "containerd" / "containerd.sock"
    ctr = [programs.binary("ctr"), "--address", str(socket), "--namespace", "k8s.io"]
    subprocess.run(
        [*ctr, "images", "import", str(archive)],
        check=True, capture_output=True, timeout=IMPORT_SECONDS,
    )  # fmt: skip


@contextmanager
def installed(cluster: Cluster, home: Path, say: Say) -> Iterator[Installed]:
    """Install the chart on a cluster whose node is ours, and wait until its operator is ready."""
    if cluster.tier == "existing":
        pytest.skip("pods run this machine's programs, so the node must be this machine")
    helm = Helm("helm", home, cluster.kubeconfig)
    with closing(Api(cluster.kubeconfig)) as api:
        try:
            prepare(cluster, api, say)
        except Unavailable as error:
            if os.environ.get("CI") == "true":
                pytest.fail(f"CI must install vaco on a node: {error}", pytrace=False)
            pytest.skip(str(error))
        helm.install(RELEASE, NAMESPACE, values(cluster))
        wait_until_ready(api)
        yield Installed(cluster, api, helm)


def prepare(cluster: Cluster, api: Api, say: Say) -> None:
    """Give the node what it has instead of a registry, and the chart a namespace.

    Raises:
        Unavailable: this machine cannot build the operator's image, or run its Python in pods.

    """
    if not Path("/lib").is_symlink():
        raise Unavailable("pods run this machine's programs, which needs Debian's merged /usr")
    archive = images.operator(say)
    build.ensure(programs.HELM, say)
    import_image(cluster, archive)
    machine_python.install(api)
    _without_definition(api)
    make_namespace(api, NAMESPACE)


def _without_definition(api: Api) -> None:
    """Remove the definition that another module made: Helm takes over only what it made itself."""
    if api.find(*DEFINITION) is None:
        return
    api.delete(*DEFINITION)
    api.wait_for("the definition is gone", lambda: api.find(*DEFINITION) is None)


def make_namespace(api: Api, name: str, **labels: str) -> None:
    """Make a namespace that admits pods of the restricted profile only."""
    metadata = {"name": name, "labels": {**RESTRICTED, **labels}}
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    api.wait_for(
        "it has its service account", lambda: api.find("v1", "ServiceAccount", "default", name)
    )


def make_field(api: Api, name: str) -> None:
    """Make a namespace, restricted as well, whose pods can train: they run what is here."""
    make_namespace(api, name, **{machine_python.LABEL: "true"})
    machine_python.bring(api, name)


def wait_until_ready(api: Api) -> None:
    """Wait until the operator's pod is ready."""

    def ready() -> bool:
        status = api.get("apps/v1", "Deployment", f"{RELEASE}-operator", NAMESPACE)["status"]
        return bool(status.get("readyReplicas") == 1)

    api.wait_for("the operator is ready", ready, seconds=90)
