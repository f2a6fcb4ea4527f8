"""The pods of a job on a real kubelet: who they run as, what they see, whom they find by name.

A shell stands in for learner and actor; everything around it is what the operator makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from kube_harness.api import Api
from operator_harness.jobs import install_definition, job
from vaco.job import VACOJob, parse_job
from vaco_operator.cluster.credentials import derive
from vaco_operator.cluster.labels import JobIdentity
from vaco_operator.cluster.manifests.children import Children, children
from vaco_operator.cluster.settings import Settings

if TYPE_CHECKING:
    from kube_harness.cluster import Cluster

pytestmark = pytest.mark.cluster

Document = dict[str, Any]

# Renewed Secrets reach a pod at the kubelet's next round: 90 s, with its caches.
RENEWAL_SECONDS = 150.0
LIBRARY = """
fail() { echo "FAILED: $*"; exit 1; }
[ "$(id -u)" = 65532 ] || fail "user $(id -u)"
for file in ca.crt tls.crt tls.key token; do
  [ -s "/etc/vaco/credentials/$file" ] || fail "no $file"
done
for file in "$VACO_TLS_CA" "$VACO_TLS_CERT" "$VACO_TLS_KEY" "$VACO_TOKEN_FILE"; do
  cat "$file" > /dev/null || fail "cannot read $file"
done
[ -e /etc/vaco/credentials/operator.key ] && fail "sees the operator's key"
[ -e /var/run/secrets/kubernetes.io ] && fail "has a token of the API server"
grep -q "environment: CartPole-v1" /etc/vaco/job/job.yaml || fail "no job"
touch /tmp/file "$HOME/file" || fail "no scratch"
touch /usr/file 2> /dev/null && fail "can write to its root"
[ "$OMP_NUM_THREADS" = 1 ] || fail "threads: $OMP_NUM_THREADS"
"""
LEARNER = (
    LIBRARY
    + """
touch /var/lib/vaco/file || fail "no run directory"
echo ready
while true; do echo from the learner | nc -l -p 7600; done
"""
)
ACTOR = (
    LIBRARY
    + """
case "$POD_NAME" in cartpole-actors-*) ;; *) fail "name: $POD_NAME" ;; esac
for i in $(seq 30); do
  answer="$(nc -w 5 "$LEARNER_HOST" 7600 < /dev/null 2> /dev/null)" && break; sleep 1
done
[ "$answer" = "from the learner" ] || fail "no answer: $answer"
echo ready
while true; do sleep 1; done
"""
)
WATCHER = """
while true; do md5sum < "$VACO_TLS_CERT" | head -c 32; echo; sleep 1; done
"""


@pytest.fixture
def api(node: Cluster) -> Iterator[Api]:
    with closing(Api(node.kubeconfig)) as api:
        install_definition(api)
        yield api


def _program(name: str, script: str, **environment: str) -> Document:
    container = {
        "name": name,
        "command": ["sh", "-c", script],
        "env": [{"name": key, "value": value} for key, value in environment.items()],
        # A shell answers no probes.
        "startupProbe": None,
        "livenessProbe": None,
        "readinessProbe": None,
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
    }
    return {"podTemplate": {"spec": {"containers": [container]}}}


def _job(api: Api, namespace: str, learner: str = LEARNER) -> VACOJob:
    host = f"cartpole-learner.{namespace}.svc"
    document = job(
        "cartpole",
        namespace,
        learner=_program("learner", learner),
        actors=_program("actor", ACTOR, LEARNER_HOST=host),
    )
    return parse_job(api.create(document))


def _children(cluster: Cluster, job: VACOJob, epoch: int) -> Children:
    settings = Settings(
        namespace="vaco-system",
        learner_image=cluster.image,
        actor_image=cluster.image,
        image_pull_policy="IfNotPresent",
    )
    credentials = derive(bytes(32), JobIdentity.of(job), epoch, settings.cluster_domain)
    return children(job, settings, replicas=1, attempt=1, suspended=False, credentials=credentials)


def _pod(api: Api, namespace: str, component: str) -> str:
    """Waits until the only pod of a component says that it is ready; returns its name."""
    selector = f"app.kubernetes.io/component={component}"

    def said() -> str:
        for pod in api.list("v1", "Pod", namespace, labels=selector):
            name = str(pod["metadata"]["name"])
            if pod["status"]["phase"] == "Pending":
                return ""
            text = api.logs(name, namespace)
            assert "FAILED" not in text, text
            return name if "ready" in text else ""
        return ""

    return str(api.wait_for(f"the {component} is ready", said, seconds=90))


def test_pods_run_as_they_are_meant_to(node: Cluster, api: Api, namespace: str) -> None:
    """Admitted by the restricted profile, unprivileged, each with its own part of the Secret."""
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    api.patch("v1", "Namespace", namespace, "", {"metadata": {"labels": restricted}})
    made = _children(node, _job(api, namespace), epoch=0)
    for document in made.in_order():
        api.apply(document, manager="vaco-operator", force=True)

    _pod(api, namespace, "learner")
    _pod(api, namespace, "actor")


def test_a_new_epochs_files_reach_running_pods(node: Cluster, api: Api, namespace: str) -> None:
    job = _job(api, namespace, WATCHER)
    for document in _children(node, job, epoch=0).in_order():
        api.apply(document, manager="vaco-operator", force=True)

    def pods() -> list[Document]:
        return api.list("v1", "Pod", namespace, labels="app.kubernetes.io/component=learner")

    def seen() -> set[str]:
        """Digests of the certificates that the learner has had."""
        started = [pod for pod in pods() if pod["status"]["phase"] == "Running"]
        return set(api.logs(started[0]["metadata"]["name"], namespace).split() if started else [])

    api.wait_for("the learner sees a certificate", lambda: len(seen()) == 1)
    (before,) = pods()
    renewed = _children(node, job, epoch=1).credentials
    assert renewed is not None
    api.apply(renewed, manager="vaco-operator", force=True)
    api.wait_for("it sees another", lambda: len(seen()) == 2, seconds=RENEWAL_SECONDS)
    (after,) = pods()
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"]["containerStatuses"][0]["restartCount"] == 0
