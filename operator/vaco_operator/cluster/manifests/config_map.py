"""The job as its programs read it, when they start."""

from typing import Final

from vaco.job import Metadata, VACOJob, dump_job

from vaco_operator.cluster.labels import ChildNames
from vaco_operator.cluster.manifests.owned import owned
from vaco_operator.cluster.resources import CONFIG_MAPS, Document

JOB_FILE: Final = "job.yaml"


def config_map(job: VACOJob) -> Document:
    """Build the ConfigMap with the resolved job: all defaults, the uid, no status.

    Whether and with how many actors the job runs, and what its pods look like, is left out: that is
    the operator's to know, and a scaled job needs no new ConfigMap.
    """
    metadata = job.metadata
    spec = job.spec
    learner = spec.learner.model_copy(update={"pod_template": {}})
    actors = spec.actors.model_copy(
        update={"pod_template": {}, "replicas": spec.actors.min_replicas}
    )
    readable = job.model_copy(
        update={
            "metadata": Metadata(
                name=metadata.name, namespace=metadata.namespace, uid=metadata.uid
            ),
            "spec": spec.model_copy(
                update={"suspend": False, "learner": learner, "actors": actors}
            ),
            "status": None,
        }
    )
    name = ChildNames.of(metadata.name).config_map
    return owned(CONFIG_MAPS, job, name, "job", data={JOB_FILE: dump_job(readable)})
