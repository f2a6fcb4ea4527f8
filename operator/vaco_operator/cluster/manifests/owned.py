"""What all children of a job have in common: name, labels, and the job as their owner."""

from copy import deepcopy
from typing import Any

from vaco.job import API_VERSION, KIND, VACOJob

from vaco_operator.cluster.labels import Component, JobIdentity, child_labels
from vaco_operator.cluster.resources import Document, Resource


def owned(
    resource: Resource, job: VACOJob, name: str, component: Component, **content: Any
) -> Document:
    """Begin a child's document.

    The job owns it: the garbage collector deletes it with the job, and no finalizer is needed, so
    a job can be deleted although no operator runs.

    Args:
        resource: what the child is.
        job: whose child it is.
        name: of the child.
        component: what it belongs to.
        content: its other fields, `spec` for most; copied.

    Raises:
        UserError: the job does not come from an API server.

    """
    identity = JobIdentity.of(job)
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {
            "name": name,
            "namespace": identity.namespace,
            "labels": child_labels(identity.name, component),
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": KIND,
                    "name": identity.name,
                    "uid": identity.uid,
                    "controller": True,
                    "blockOwnerDeletion": True,
                }
            ],
        },
        **deepcopy(content),
    }
