"""How the learner is found: by a DNS name that its pod of the newest attempt answers to."""

from vaco.job import VACOJob

from vaco_operator.cluster.labels import ATTEMPT, GRPC_PORT, ChildNames, pod_selector
from vaco_operator.cluster.manifests.owned import owned
from vaco_operator.cluster.resources import SERVICES, Document


def learner_service(job: VACOJob, attempt: int) -> Document:
    """Build the headless Service of the learner.

    Headless: there is one pod, and its streams last for hours. Unready pods are published, because
    a learner becomes ready only by actors that have found it. Only pods of this attempt are
    selected: one that comes back from a lost node is not found any more.
    """
    selector = pod_selector(job.metadata.name, "learner") | {ATTEMPT: str(attempt)}
    spec = {
        "type": "ClusterIP",
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": selector,
        "ports": [{"name": "grpc", "port": GRPC_PORT, "targetPort": "grpc", "protocol": "TCP"}],
    }
    name = ChildNames.of(job.metadata.name).learner
    return owned(SERVICES, job, name, "learner", spec=spec)
