"""The operator's own process with a reconciler of a few lines: for tests of the runtime alone.

It keeps one ConfigMap for each job, which says what the job's spec says, and the job's
`status.message`. With the annotation `test/heartbeat` on a job it writes again and again, with
`test/stuck` it never comes back.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from vaco_operator.cluster.__main__ import main
from vaco_operator.cluster.contract import Surroundings
from vaco_operator.cluster.labels import JOB, MANAGED_BY, MANAGER
from vaco_operator.cluster.resources import CONFIG_MAPS, VACO_JOBS
from vaco_operator.cluster.store import JobKey

HEARTBEAT = "test/heartbeat"
HEARTBEAT_SECONDS = 0.1
STUCK = "test/stuck"


class SmallReconciler:
    """See the module."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._with = surroundings
        self._beats = 0

    async def reconcile(self, key: JobKey) -> float | None:
        """Bring the job's ConfigMap and its status to what its spec says."""
        api, stores = self._with.api, self._with.stores
        job = stores.vaco_jobs.get(*key)
        if job is None:
            return None
        annotations = job["metadata"].get("annotations") or {}
        if STUCK in annotations:
            await asyncio.Event().wait()
        beats = HEARTBEAT in annotations
        self._beats += beats
        wanted = {"limit": str(job["spec"]["backoffLimit"]), "beat": str(self._beats)}
        known = stores.config_maps.get(key.namespace, f"{key.name}-job")
        if known is None or known["data"] != wanted:
            written = await api.apply(CONFIG_MAPS, _config_map(job, wanted))
            stores.config_maps.put(written)
            self._with.recorder.record(job, "Normal", "Written", f"{key.name}-job is written")
        message = f"limit {wanted['limit']}"
        if job.get("status", {}).get("message") != message:
            answer = await api.patch_status(
                VACO_JOBS,
                key.namespace,
                key.name,
                {"message": message, "observedGeneration": job["metadata"]["generation"]},
                job["metadata"]["resourceVersion"],
            )
            stores.vaco_jobs.put(answer)
        return HEARTBEAT_SECONDS if beats else None

    async def close(self) -> None:
        """Nothing runs in the background."""


def _config_map(job: dict[str, Any], data: dict[str, str]) -> dict[str, Any]:
    metadata = job["metadata"]
    owner = {
        "apiVersion": job["apiVersion"],
        "kind": job["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "controller": True,
    }
    return {
        "metadata": {
            "namespace": metadata["namespace"],
            "name": f"{metadata['name']}-job",
            "labels": {MANAGED_BY: MANAGER, JOB: metadata["name"]},
            "ownerReferences": [owner],
        },
        "data": data,
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], SmallReconciler))
