"""The volume on which checkpoints survive the learner's pod."""

from decimal import Decimal
from typing import Final

from vaco.job import VACOJob

from vaco_operator.cluster.labels import ChildNames
from vaco_operator.cluster.manifests.owned import owned
from vaco_operator.cluster.resources import VOLUME_CLAIMS, Document

_UNITS: Final = {
    "": Decimal(1),
    **{unit: Decimal(10) ** (3 * power) for power, unit in enumerate("num", -3)},
    **{unit: Decimal(10) ** (3 * power) for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": Decimal(2) ** (10 * power) for power, unit in enumerate("KMGTPE", 1)},
}


def volume_claim(job: VACOJob, live: Document | None = None) -> Document | None:
    """Build the claim; None: the job has no storage, or names a claim that is there already.

    A claim never shrinks, and who was in a hurry may have grown it by hand: `live`, the claim as it
    is, is asked for no less than it asks for.
    """
    storage = job.spec.learner.storage
    if storage is None or storage.claim_name is not None:
        return None
    spec: Document = {
        "accessModes": [storage.access_mode],
        "resources": {"requests": {"storage": _at_least(storage.size, live)}},
    }
    # An empty class would mean none at all; left out, the cluster's default is taken.
    if storage.storage_class_name is not None:
        spec["storageClassName"] = storage.storage_class_name
    name = ChildNames.of(job.metadata.name).volume_claim
    return owned(VOLUME_CLAIMS, job, name, "learner", spec=spec)


def _at_least(size: str, live: Document | None) -> str:
    if live is None:
        return size
    asked: str = live["spec"]["resources"]["requests"]["storage"]
    return max(size, asked, key=_bytes)


def _bytes(quantity: str) -> Decimal:
    """Read a quantity as the API server writes it: `10Gi`, `1500m`, `2e10`."""
    number = quantity.rstrip("numkKMGTPEi")
    return Decimal(number) * _UNITS[quantity.removeprefix(number)]
