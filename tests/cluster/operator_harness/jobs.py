"""VACOJobs for tests: the definition installed, and manifests that the API server accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vaco.job import API_VERSION

if TYPE_CHECKING:
    from kube_harness.api import Api

KIND: Final = "VACOJob"
CRD: Final = ("apiextensions.k8s.io/v1", "CustomResourceDefinition")


def install_definition(api: Api) -> None:
    """Install the VACOJob's definition, and wait until jobs can be created."""
    # Generating it takes as long as importing the whole schema.
    from vaco_operator.crd.definition import custom_resource_definition

    definition = custom_resource_definition()
    api.apply(definition, manager="test", force=True)
    name = definition["metadata"]["name"]

    def established() -> bool:
        conditions = api.get(*CRD, name).get("status", {}).get("conditions") or []
        return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)

    api.wait_for("the definition is established", established)
    api.wait_for("jobs are served", lambda: _served(api))


def job(name: str, namespace: str, **spec: Any) -> dict[str, Any]:
    """Return the manifest of a small job; `spec` replaces its top-level fields."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "task": {"environment": "CartPole-v1"},
            "stop": {"envSteps": 1_000_000},
            **spec,
        },
    }


def _served(api: Api) -> bool:
    from kube_harness.api import ApiError

    try:
        api.list(API_VERSION, KIND)
    except (ApiError, KeyError):
        # A moment passes before the new resource is among those served.
        return False
    return True
