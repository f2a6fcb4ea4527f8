"""The resources of the Kubernetes API that the operator knows, and their URL paths."""

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

Document = dict[str, Any]
"""An object of the API in plain values, as its JSON has them."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A namespaced resource: where it lives in the API; `plural` is its name in URLs and roles."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """As manifests write it: `batch/v1`, or `v1` for the core group."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """URL path of an object, or without a name of its collection.

        Without a namespace it is the collection of the whole cluster.
        """
        parts = ["/apis/" + self.api_version if self.group else "/api/" + self.version]
        if namespace:
            parts.append(f"namespaces/{quote(namespace, safe='')}")
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


VACO_JOBS: Final = Resource("training.vaco.dev", "v1alpha1", "vacojobs", "VACOJob")
JOBS: Final = Resource("batch", "v1", "jobs", "Job")
DEPLOYMENTS: Final = Resource("apps", "v1", "deployments", "Deployment")
PODS: Final = Resource("", "v1", "pods", "Pod")
SERVICES: Final = Resource("", "v1", "services", "Service")
CONFIG_MAPS: Final = Resource("", "v1", "configmaps", "ConfigMap")
NETWORK_POLICIES: Final = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
VOLUME_CLAIMS: Final = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
SECRETS: Final = Resource("", "v1", "secrets", "Secret")
"""Written, never listed or watched; read is the root key alone, in the operator's namespace."""
EVENTS: Final = Resource("", "v1", "events", "Event")
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases", "Lease")

CHILDREN: Final = (
    JOBS,
    DEPLOYMENTS,
    PODS,
    SERVICES,
    CONFIG_MAPS,
    NETWORK_POLICIES,
    VOLUME_CLAIMS,
)
"""What is watched beside the jobs themselves, if labelled as managed by us."""
