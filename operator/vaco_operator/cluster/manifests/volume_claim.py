"""The volume on which checkpoints survive the learner's pod."""

from vaco.job import VACOJob

from vaco_operator.cluster.labels import ChildNames
from vaco_operator.cluster.manifests.owned import owned
from vaco_operator.cluster.resources import VOLUME_CLAIMS, Document


def volume_claim(job: VACOJob) -> Document | None:
    """Build the claim; None: the job has no storage, or names a claim that is there already."""
    storage = job.spec.learner.storage
    if storage is None or storage.claim_name is not None:
        return None
    spec: Document = {
        "accessModes": [storage.access_mode],
        "resources": {"requests": {"storage": storage.size}},
    }
    # An empty class would mean none at all; left out, the cluster's default is taken.
    if storage.storage_class_name is not None:
        spec["storageClassName"] = storage.storage_class_name
    name = ChildNames.of(job.metadata.name).volume_claim
    return owned(VOLUME_CLAIMS, job, name, "learner", spec=spec)
