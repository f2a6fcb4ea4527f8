"""Who may talk to whom in a namespace that denies everything by default (case 28).

No policy engine runs in our test clusters, so the rules are judged here by a reading of the
NetworkPolicy API of our own: a connection needs leave from the policies that select its source and
from those that select its target, and policies add up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from vaco.job import VACOJob
from vaco_operator.cluster.manifests.actors import actors_deployment
from vaco_operator.cluster.manifests.learner_job import learner_job
from vaco_operator.cluster.manifests.network_policy import actors_policy, learner_policy
from vaco_operator.cluster.settings import Settings

MakeJob = Callable[..., VACOJob]
Policy = dict[str, Any]

SETTINGS = Settings(namespace="vaco-system", learner_image="learner:1", actor_image="actor:1")


@dataclass(frozen=True)
class Peer:
    """A pod, or with no namespace an address outside of the cluster."""

    namespace: str
    labels: dict[str, str] = field(default_factory=dict)


def default_deny(namespace: str) -> Policy:
    spec = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    return {"metadata": {"namespace": namespace}, "spec": spec}


def _selected(selector: Policy, labels: dict[str, str]) -> bool:
    assert set(selector) <= {"matchLabels"}, "this reading knows no expressions"
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def _is_peer(peer: Policy, namespace: str, other: Peer) -> bool:
    if not other.namespace:
        return False
    if "namespaceSelector" in peer:
        names = {"kubernetes.io/metadata.name": other.namespace}
        if not _selected(peer["namespaceSelector"], names):
            return False
    elif other.namespace != namespace:
        return False
    return _selected(peer.get("podSelector", {}), other.labels)


def _lets(policies: Sequence[Policy], own: Peer, direction: str, other: Peer, port: str) -> bool:
    key = {"Ingress": "from", "Egress": "to"}[direction]
    selecting = [
        policy
        for policy in policies
        if policy["metadata"]["namespace"] == own.namespace
        and direction in policy["spec"]["policyTypes"]
        and _selected(policy["spec"]["podSelector"], own.labels)
    ]
    rules = [rule for each in selecting for rule in each["spec"].get(direction.lower(), [])]
    return not selecting or any(
        (key not in rule or any(_is_peer(peer, own.namespace, other) for peer in rule[key]))
        and port in [f"{each['port']}/{each['protocol']}" for each in rule["ports"]]
        for rule in rules
    )


Connects = Callable[[str, str, str], bool]


@pytest.fixture
def connects(cluster_job: MakeJob) -> Connects:
    """Tells whether `source` may open a connection to a port of `target`."""
    job, neighbour = cluster_job(), cluster_job({"name": "neighbour", "uid": "2"})
    namesake = cluster_job({"namespace": "elsewhere", "uid": "3"})
    policies = [default_deny("research"), default_deny("elsewhere")]
    for each in (job, neighbour, namesake):
        policies += [learner_policy(each, SETTINGS), actors_policy(each)]

    def learner(job: VACOJob) -> Peer:
        workload = learner_job(job, SETTINGS, attempt=2, suspended=False)
        labels = workload["spec"]["template"]["metadata"]["labels"]
        return Peer(str(job.metadata.namespace), labels)

    def actor(job: VACOJob) -> Peer:
        workload = actors_deployment(job, SETTINGS, replicas=1)
        labels = workload["spec"]["template"]["metadata"]["labels"]
        return Peer(str(job.metadata.namespace), labels)

    operator = {"app.kubernetes.io/component": "operator"}
    peers = {
        "learner": learner(job),
        "actor": actor(job),
        "another job's learner": learner(neighbour),
        "another job's actor": actor(neighbour),
        "a namesake's actor": actor(namesake),
        "operator": Peer("vaco-system", operator),
        "an impostor of the operator": Peer("an open namespace", operator),
        "prometheus": Peer("monitoring", {"app": "prometheus"}),
        "name server": Peer("kube-system", {"k8s-app": "kube-dns"}),
        "name cache of the node": Peer(""),
        "internet": Peer(""),
    }

    def ask(source: str, target: str, port: str) -> bool:
        one, other = peers[source], peers[target]
        return _lets(policies, one, "Egress", other, port) and _lets(
            policies, other, "Ingress", one, port
        )

    return ask


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        ("actor", "learner", "7600/TCP"),
        ("operator", "learner", "7600/TCP"),
        ("prometheus", "learner", "9090/TCP"),
        ("prometheus", "actor", "9090/TCP"),
        ("actor", "name server", "53/UDP"),
        ("actor", "name server", "53/TCP"),
        ("learner", "name server", "53/UDP"),
        ("actor", "name cache of the node", "53/UDP"),
    ],
)
def test_case_28_training_runs_where_everything_is_denied_by_default(
    connects: Connects, source: str, target: str, port: str
) -> None:
    assert connects(source, target, port)


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        ("another job's actor", "learner", "7600/TCP"),
        ("a namesake's actor", "learner", "7600/TCP"),
        ("an impostor of the operator", "learner", "7600/TCP"),
        ("prometheus", "learner", "7600/TCP"),
        ("internet", "learner", "7600/TCP"),
        ("internet", "learner", "9090/TCP"),
        ("operator", "actor", "7600/TCP"),
        ("learner", "actor", "7600/TCP"),
        ("actor", "learner", "22/TCP"),
        ("actor", "another job's learner", "7600/TCP"),
        ("actor", "internet", "443/TCP"),
        ("actor", "prometheus", "7600/TCP"),
        ("learner", "internet", "443/TCP"),
        ("learner", "another job's learner", "7600/TCP"),
    ],
)
def test_nothing_else_is_let_through(
    connects: Connects, source: str, target: str, port: str
) -> None:
    assert not connects(source, target, port)
