"""Who may talk to whom: a job's actors to its learner, the operator to all learners, little else.

Policies only ever add up: these two close the pods of a job, and open what training needs, in a
namespace that denies everything by default too. A further policy that selects the same pods opens
more (docs/pods.md). The kubelet's probes come from the pod's own node and are always let through.
"""

from typing import Any, Final

from vaco.job import VACOJob

from vaco_operator.cluster.labels import (
    GRPC_PORT,
    METRICS_PORT,
    OPERATOR_LABELS,
    ChildNames,
    Component,
    pod_selector,
)
from vaco_operator.cluster.manifests.owned import owned
from vaco_operator.cluster.resources import NETWORK_POLICIES, Document
from vaco_operator.cluster.settings import Settings

_GRPC: Final = {"port": GRPC_PORT, "protocol": "TCP"}
_METRICS: Final = {"port": METRICS_PORT, "protocol": "TCP"}

# To any address: a cache of names on the node is no pod that a selector could name.
_NAMES: Final = {"ports": [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]}
# Prometheus may be in any namespace, but not outside of the cluster.
_SCRAPES: Final = {"from": [{"namespaceSelector": {}}], "ports": [_METRICS]}


def learner_policy(job: VACOJob, settings: Settings) -> Document:
    """Build the learner's policy: actors and operator in, names out."""
    actors = {"podSelector": {"matchLabels": pod_selector(job.metadata.name, "actor")}}
    operator = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": settings.namespace}},
        "podSelector": {"matchLabels": dict(OPERATOR_LABELS)},
    }
    ingress = [{"from": [actors, operator], "ports": [_GRPC]}, _SCRAPES]
    name = ChildNames.of(job.metadata.name).learner
    return _policy(job, name, "learner", ingress, [_NAMES])


def actors_policy(job: VACOJob) -> Document:
    """Build the actors' policy: nobody but Prometheus in, the learner and names out."""
    learner = {"podSelector": {"matchLabels": pod_selector(job.metadata.name, "learner")}}
    egress = [{"to": [learner], "ports": [_GRPC]}, _NAMES]
    name = ChildNames.of(job.metadata.name).actors
    return _policy(job, name, "actor", [_SCRAPES], egress)


def _policy(
    job: VACOJob, name: str, component: Component, ingress: list[Any], egress: list[Any]
) -> Document:
    spec = {
        "podSelector": {"matchLabels": pod_selector(job.metadata.name, component)},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": ingress,
        "egress": egress,
    }
    return owned(NETWORK_POLICIES, job, name, component, spec=spec)
