"""Every manifest in docs/kubernetes/ is one that the API server takes, field by field."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kube_harness.api import Api
from operator_harness import jobs
from vaco.job import API_VERSION

if TYPE_CHECKING:
    from kube_harness.cluster import Cluster

pytestmark = pytest.mark.cluster

DOCS = Path(__file__).resolve().parents[2] / "docs" / "kubernetes"
# Of programs that are not here; tried once against their definitions (KEDA 2.21).
FOREIGN = ("keda.sh/v1alpha1",)


def _manifests() -> Iterator[Any]:
    for path in sorted(DOCS.glob("*.md")):
        for number, text in enumerate(
            re.findall(r"^```yaml\n(.*?)^```", path.read_text(), re.M | re.S)
        ):
            document = yaml.safe_load(text)
            if document["apiVersion"] not in FOREIGN:
                yield pytest.param(document, id=f"{path.stem}-{number}-{document['kind']}")


def _documented(kind: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = [p.values[0] for p in _manifests()]
    return copy.deepcopy(next(document for document in found if document["kind"] == kind))


@pytest.fixture
def api(control_plane: Cluster) -> Iterator[Api]:
    with closing(Api(control_plane.kubeconfig)) as api:
        jobs.install_definition(api)
        yield api


@pytest.mark.parametrize("document", _manifests())
def test_a_manifest_of_the_documentation_is_taken(
    api: Api, namespace: str, document: dict[str, Any]
) -> None:
    document["metadata"]["namespace"] = namespace
    query = {"dryRun": "All", "fieldValidation": "Strict"}
    api.request(
        "POST",
        api.path(document["apiVersion"], document["kind"], "", namespace),
        document,
        query=query,
    )


def test_the_documented_autoscaler_finds_the_job_and_scales_it(api: Api, namespace: str) -> None:
    """Without metrics it does one thing: it raises a number that is below its least."""
    external = {"autoscaling": {"mode": "external"}, "actors": {"replicas": 1, "maxReplicas": 64}}
    api.create(jobs.job("pong", namespace, **external))
    autoscaler = _documented("HorizontalPodAutoscaler")
    autoscaler["metadata"]["namespace"] = namespace
    api.create(autoscaler)

    def replicas() -> int:
        job = api.get(API_VERSION, jobs.KIND, "pong", namespace)
        return int(job["spec"]["actors"]["replicas"])

    least = autoscaler["spec"]["minReplicas"]
    api.wait_for("the autoscaler has scaled the job", lambda: replicas() == least)
