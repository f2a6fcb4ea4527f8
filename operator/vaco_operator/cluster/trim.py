"""What of an object is worth keeping: the less, the more jobs fit into the operator's memory.

`managedFields` and kubectl's copy of the last applied manifest go from everything. Of a pod, of
which there are many, stays what is read: who it is, where it runs and how it is.
"""

from collections.abc import Iterable
from typing import Final

from vaco_operator.cluster.resources import PODS, Document, Resource

LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_POD_SPEC: Final = ("nodeName",)
_POD_STATUS: Final = (
    "phase",
    "podIP",
    "conditions",
    "containerStatuses",
    "initContainerStatuses",
)
_CONTAINER: Final = ("name", "restartCount", "state", "lastState")


def trim(resource: Resource, document: Document) -> Document:
    """Return `document` without what nobody reads; it itself is not changed."""
    metadata = {k: v for k, v in document["metadata"].items() if k != "managedFields"}
    if LAST_APPLIED in metadata.get("annotations", ()):
        metadata["annotations"] = {
            k: v for k, v in metadata["annotations"].items() if k != LAST_APPLIED
        }
    trimmed = {**document, "metadata": metadata}
    # Lists leave these out, watches have them.
    trimmed["apiVersion"], trimmed["kind"] = resource.api_version, resource.kind
    if resource == PODS:
        trimmed["spec"] = _only(document.get("spec", {}), _POD_SPEC)
        trimmed["status"] = _pod_status(document.get("status", {}))
    return trimmed


def _pod_status(status: Document) -> Document:
    kept = _only(status, _POD_STATUS)
    for name in ("containerStatuses", "initContainerStatuses"):
        if name in kept:
            kept[name] = [_only(container, _CONTAINER) for container in kept[name]]
    return kept


def _only(document: Document, names: Iterable[str]) -> Document:
    return {name: document[name] for name in names if name in document}
