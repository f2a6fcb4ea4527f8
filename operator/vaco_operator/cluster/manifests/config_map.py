"""The job as its programs read it, when they start."""

from typing import Final

import yaml
from vaco.job import VACOJob
from vaco.schema.yaml_dialect import ManifestDumper

from vaco_operator.cluster.labels import ChildNames
from vaco_operator.cluster.manifests.owned import owned
from vaco_operator.cluster.manifests.spec_hash import for_programs
from vaco_operator.cluster.resources import CONFIG_MAPS, Document

JOB_FILE: Final = "job.yaml"


def config_map(job: VACOJob) -> Document:
    """Build the ConfigMap with the job: what it says, its uid, no status.

    What has its default is left out, for two reasons. The programs know the defaults, and those of
    an older release, whose pods outlive an upgrade of the operator, would refuse a field that they
    have never heard of. And so is whether and with how many actors the job runs, and what its pods
    look like: that is the operator's to know, and a scaled job needs no new ConfigMap.
    """
    metadata = job.metadata
    readable = {
        "apiVersion": job.api_version,
        "kind": job.kind,
        "metadata": {
            "name": metadata.name,
            "namespace": metadata.namespace,
            "uid": metadata.uid,
        },
        "spec": for_programs(job),
    }
    text = yaml.dump(
        readable, Dumper=ManifestDumper, sort_keys=False, allow_unicode=True, width=100
    )
    name = ChildNames.of(metadata.name).config_map
    return owned(CONFIG_MAPS, job, name, "job", data={JOB_FILE: text})
