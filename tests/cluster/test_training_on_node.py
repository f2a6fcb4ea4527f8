"""Jobs that train in real pods, and what nodes, pods and people do to them.

The chart is installed, its operator runs as a pod of its own image, and every namespace admits pods
of the restricted profile only. One job, `pole`, lives through all cases here, in the order of this
file; after each, its journal is audited: no version goes back, no sample is trained twice, and the
ledger balances.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from kube_harness.programs import PROJECT
from training_harness import warming
from training_harness.installed import Installed, installed, make_field
from training_harness.kubectl import Kubectl
from training_harness.run import PARTS, Document, Run, manifest, prepare, scripted_pod
from training_harness.second_node import second_node

if TYPE_CHECKING:
    from kube_harness.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(400)]

AWAY_SECONDS = 60.0
CARTPOLE = PROJECT / "examples" / "cartpole.yaml"
DENY_ALL = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


def lost_node(seconds: int) -> list[Document]:
    """Tolerations: for how long a pod stays bound to a node that is lost."""
    return [
        {
            "key": f"node.kubernetes.io/{taint}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": seconds,
        }
        for taint in ("not-ready", "unreachable")
    ]


# The learner's node is given up soon. The actors' is not: it is the same, and they stand for actors
# on other nodes.
LEARNER_POD = {"tolerations": lost_node(2), "terminationGracePeriodSeconds": 15}
ACTOR_POD = {"tolerations": lost_node(3600)}


@pytest.fixture(scope="module")
def vaco(node: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    def say(text: str) -> None:
        sys.stderr.write(f"{text}\n")

    with installed(node, tmp_path_factory.mktemp("helm"), say) as vaco:
        yield vaco


@pytest.fixture(scope="module")
def pole(vaco: Installed) -> Iterator[Run]:
    api, namespace = vaco.api, "fields"
    volumes = vaco.cluster.kubeconfig.parent / "volumes"
    make_field(api, namespace)
    metadata = {"name": "default-deny", "namespace": namespace}
    policy = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy"}
    api.create({**policy, "metadata": metadata, "spec": DENY_ALL})
    run = prepare(api, namespace, "pole", volumes / "pole")
    api.create(
        manifest(
            run,
            learner={
                "batchSize": 512,
                "checkpoint": {"intervalSeconds": 0.5, "keep": 3},
                "storage": {"size": "1Gi"},
                "podTemplate": {"spec": LEARNER_POD},
            },
            actors={
                **dict.fromkeys(("replicas", "minReplicas", "maxReplicas"), 2),
                "drainSeconds": 10,
                "podTemplate": {"spec": ACTOR_POD},
            },
            backoffLimit=3,
        )
    )
    yield run
    api.delete("v1", "Namespace", namespace)
    shutil.rmtree(volumes)


@pytest.fixture
def first(vaco: Installed) -> Iterator[Run]:
    """A namespace for one job, which ends with the test: the next one wants both cores."""
    make_field(vaco.api, "first")
    folder = vaco.cluster.kubeconfig.parent / "volumes" / "first"
    warming.prepare(vaco.api, "first", folder)
    yield Run(vaco.api, "first", "cartpole", folder)
    vaco.api.delete("v1", "Namespace", "first")
    vaco.api.wait_for(
        "nothing of it runs", lambda: not vaco.api.list("v1", "Pod", "first"), seconds=90
    )


def test_a_job_that_is_applied_trains_to_its_goal_and_is_scaled_both_ways(
    vaco: Installed, first: Run, tmp_path: Path
) -> None:
    """Its simulator is slow at first: more actors are wanted then, and fewer when it is warm."""
    kubectl = Kubectl(vaco.cluster.kubeconfig)
    change = ("--local", "--type=merge", f"--patch={json.dumps({'spec': warming.CHANGE})}")
    path = tmp_path / "cartpole.yaml"
    path.write_text(kubectl.run("patch", f"--filename={CARTPOLE}", *change, "--output=yaml"))
    kubectl.run("--namespace=first", "apply", f"--filename={path}")
    first.wait_for_status("it is scaled up", lambda s: s["actors"]["ready"] == 4, seconds=240)
    warming.signal(first.folder).touch()
    kubectl.run(
        *("--namespace=first", "wait", "vj/cartpole"),
        *("--for=condition=Complete", "--timeout=280s"),
    )

    status = first.status()
    assert status["phase"] == "Complete"
    assert status["returnMean"] >= 475
    assert status["envSteps"] == status["ledger"]["trained"]
    assert status["learnerRestarts"] == 0
    ledger = status["ledger"]
    assert ledger["received"] == sum(ledger[part] for part in PARTS)
    changes = [*first.events("ScaledUp"), *first.events("ScaledDown")]
    changes.sort(key=lambda event: event["metadata"]["creationTimestamp"])
    assert [event["reason"] for event in changes][:1] == ["ScaledUp"]
    assert "ScaledDown" in [event["reason"] for event in changes], changes
    assert all("/s per actor x 1.1 asks for" in event["message"] for event in changes)
    assert status["scaling"]["events"] == len(changes)


def test_case_28_restricted_pods_train_in_a_namespace_that_denies_all_traffic(pole: Run) -> None:
    """The policies are stored and not enforced: no policy engine runs on the node."""
    pole.wait_until_training()
    policies = pole.api.list("networking.k8s.io/v1", "NetworkPolicy", pole.namespace)
    assert {p["metadata"]["name"] for p in policies} == {
        "default-deny",
        "pole-learner",
        "pole-actors",
    }
    for pod in (pole.learner(), *pole.pods("actor")):
        process = pole.process(pod)
        assert process.uids().real == 65532
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "\nNoNewPrivs:\t1\n" in status
        assert "\nSeccomp:\t2\n" in status
        assert "\nCapEff:\t0000000000000000\n" in status
        mounts = Path(f"/proc/{process.pid}/mounts").read_text().splitlines()
        root = next(line.split() for line in mounts if line.split()[1] == "/")
        assert "ro" in root[3].split(","), "the root file system is read-only"
        assert not Path(f"/proc/{process.pid}/root/run/secrets/kubernetes.io").exists()
    pole.audit()


ASK = """
import itertools, json
import grpc
from pathlib import Path
from vaco.channels import Security, sync_channel
from vaco.v1 import learner_pb2, learner_pb2_grpc

def ask(security):
    with sync_channel("pole-learner.fields.svc:7600", security) as channel:
        try:
            stub = learner_pb2_grpc.LearnerServiceStub(channel)
            return stub.GetStatus(learner_pb2.GetStatusRequest(), timeout=30).job_uid
        except grpc.RpcError as error:
            return error.code().name

def credentials(authority, pair, token):
    def file(job, name):
        return Path(f"/secrets/{job}-credentials/{name}")
    return Security(file(authority, "ca.crt"), file(pair, "actor.crt"), file(pair, "actor.key"),
                    file(token, "token"))

answers = {" ".join(jobs): ask(credentials(*jobs))
           for jobs in itertools.product(("pole", "other"), repeat=3)}
answers["nothing"] = ask(None)
print(json.dumps(answers))
"""


def test_case_29_who_has_not_all_of_the_jobs_credentials_is_refused(
    vaco: Installed, pole: Run
) -> None:
    """Of another job's: the authority, the actor's certificate, the token, and each mixture."""
    pole.wait_until_training()
    other = Run(pole.api, pole.namespace, "other", pole.folder)
    pole.api.create(manifest(other, suspend=True))
    secret = ("v1", "Secret", "other-credentials", pole.namespace)
    pole.wait("the other job has credentials", lambda: pole.api.find(*secret))
    secrets = ["pole-credentials", "other-credentials"]
    pole.api.create(scripted_pod(pole, "stranger", ASK, secrets, vaco.cluster.image))

    def over() -> bool:
        phase = pole.api.get("v1", "Pod", "stranger", pole.namespace)["status"]["phase"]
        return phase in ("Succeeded", "Failed")

    pole.wait("the stranger has asked", over)
    # gRPC's own log comes between.
    told = pole.api.logs("stranger", pole.namespace).splitlines()
    answers = json.loads(next(line for line in told if line.startswith("{")))

    assert answers.pop("pole pole pole") == pole.job()["metadata"]["uid"]
    assert answers.pop("pole pole other") == "UNAUTHENTICATED"
    assert len(answers) == 7
    assert set(answers.values()) == {"UNAVAILABLE"}, answers
    pole.api.delete("training.vaco.dev/v1alpha1", "VACOJob", "other", pole.namespace)
    pole.api.delete("v1", "Pod", "stranger", pole.namespace)


def test_case_14_an_actor_that_is_told_to_go_hands_over_and_is_replaced(pole: Run) -> None:
    pole.wait_until_training()
    going, staying = pole.pods("actor")
    pole.hold(going)
    pole.api.delete("v1", "Pod", going["metadata"]["name"], pole.namespace)
    end = pole.ended(going)
    told = pole.api.logs(going["metadata"]["name"], pole.namespace)
    deleted = pole.api.get("v1", "Pod", going["metadata"]["name"], pole.namespace)["metadata"]
    pole.let_go(going)

    assert end["exitCode"] == 0, told
    assert "drained" in told, "the learner had everything"
    # A pod's deletion is stamped with the end of its grace.
    assert _time(end["finishedAt"]) < _time(deleted["deletionTimestamp"])
    pole.wait_until_training()
    pods = {pod["metadata"]["name"] for pod in pole.pods("actor")}
    assert len(pods) == 2
    assert staying["metadata"]["name"] in pods
    assert going["metadata"]["name"] not in pods
    pole.audit()


def test_cases_11_13_a_learner_killed_in_a_checkpoint_goes_on_at_the_last_whole_one(
    pole: Run,
) -> None:
    before = pole.wait_until_training()
    killed, actors = pole.learner(), _names(pole.pods("actor"))
    whole = pole.kill_while_it_writes_a_checkpoint(killed)
    pole.wait_for_status("another begins", lambda s: s["incarnation"] > before["incarnation"])
    after = pole.wait_until_training()

    assert after["version"] > before["version"]
    assert after["learnerRestarts"] == before["learnerRestarts"] + 1
    assert f"v{pole.restored()[-1]['checkpoint_version']:09d}" == whole
    assert pole.learner()["metadata"]["uid"] != killed["metadata"]["uid"]
    assert _names(pole.pods("actor")) == actors
    updates = pole.audit()
    assert {actor for u in updates[-20:] for actor, *_ in u["fragments"]} == actors


def test_case_20_a_suspended_job_goes_on_at_the_same_version(pole: Run) -> None:
    pole.wait_until_training()
    pole.change(suspend=True)
    pole.wait_for_status("it is suspended", lambda s: _is(s, "Suspended", "True"))
    pole.wait("no pods are left", lambda: not pole.pods("learner") + pole.pods("actor"))
    rested, last = pole.status(), pole.journal()[-1]
    assert rested["phase"] == "Suspended"
    assert rested["version"] == rested["checkpointVersion"] == last["version"]
    assert rested["actors"]["ready"] == 0
    pole.change(suspend=False)
    after = pole.wait_until_training()

    restored = pole.restored()[-1]
    assert restored["checkpoint_version"] == restored["version"] == rested["version"]
    assert after["learnerRestarts"] == rested["learnerRestarts"], "nothing has failed"
    assert not _is(after, "Suspended", "True")
    pole.audit()


def test_case_14_a_drained_node_sees_the_actors_go_first_and_costs_no_attempt(
    vaco: Installed, pole: Run
) -> None:
    before = pole.wait_until_training()
    kubectl = Kubectl(vaco.cluster.kubeconfig)
    learner, actors = pole.learner(), pole.pods("actor")
    for pod in (learner, *actors):
        pole.hold(pod)
    drain = kubectl.start(
        *("drain", "node", "--pod-selector=training.vaco.dev/job=pole"),
        *("--delete-emptydir-data", "--timeout=90s"),
    )
    try:
        ends = [pole.ended(pod) for pod in actors]
        last = pole.ended(learner)
        names = [pod["metadata"]["name"] for pod in actors]
        logs = [pole.api.logs(name, pole.namespace) for name in names]
        for pod in (learner, *actors):
            pole.let_go(pod)
        said, _ = drain.communicate(timeout=100)
        assert drain.returncode == 0, said
    finally:
        drain.kill()
        kubectl.run("uncordon", "node")

    assert [end["exitCode"] for end in ends] == [0, 0], "\n".join(logs)
    assert last["exitCode"] == 143
    assert all(_time(end["finishedAt"]) <= _time(last["finishedAt"]) for end in ends)
    words = json.loads(last["message"])
    assert words["phase"] == "LEARNER_PHASE_INTERRUPTED"
    assert words["checkpointVersion"] == words["version"]
    after = pole.wait_until_training()
    assert pole.restored()[-1]["version"] == int(words["version"])
    assert after["learnerRestarts"] == before["learnerRestarts"]
    failed = pole.api.get("batch/v1", "Job", "pole-learner", pole.namespace)["status"]
    assert failed.get("failed", 0) <= 1, "the SIGKILL of before is all that counts"
    pole.audit()


def test_cases_12_15_a_lost_nodes_learner_is_replaced_waited_for_and_fenced_out(
    vaco: Installed, pole: Run
) -> None:
    """The one node hangs, its containers' runtime too, and then comes back with all it had.

    Nothing can start on it meanwhile, so the learner is away for well over a minute.
    """
    before = pole.wait_until_training()
    old, actors = pole.learner(), _names(pole.pods("actor"))
    process, kubelet = pole.process(old), _kubelet(vaco.cluster)
    runtime = process.parent()
    assert runtime is not None
    away = time.monotonic()
    for hanging in (process, runtime, kubelet):
        hanging.send_signal(signal.SIGSTOP)
    try:
        # It is told to go, is given up a minute after its grace, and only then replaced.
        with second_node(pole.api):
            pole.wait("another is made", lambda: _uids(pole.pods("learner")) - _uids([old]))
        assert pole.status()["phase"] != "Failed"
        assert _is(pole.status(), "LearnerAvailable", "False")
        assert time.monotonic() - away > AWAY_SECONDS
        kubelet.send_signal(signal.SIGCONT)
        after = pole.wait_until_training()
        new = pole.learner()
        process.send_signal(signal.SIGCONT)
        # Its kubelet wants to end it, but its runtime still hangs: it ends by itself.
        pole.wait("the old one ends", lambda: process.status() == psutil.STATUS_ZOMBIE)
        words = json.loads(_last_words(vaco.cluster, old))
    finally:
        for hanging in (kubelet, process, runtime):
            hanging.send_signal(signal.SIGCONT)

    assert f"incarnation {after['incarnation']} has taken over" in words["message"]
    assert int(words["incarnation"]) == before["incarnation"]
    assert after["incarnation"] > before["incarnation"]
    assert after["version"] > before["version"]
    assert new["status"]["podIP"] != old["status"]["podIP"]
    assert _names(pole.pods("actor")) == actors, "they waited"
    for pod in pole.pods("actor"):
        assert pod["status"]["containerStatuses"][0]["restartCount"] == 0
    later = pole.wait_until_training()
    assert later["incarnation"] == after["incarnation"], "the new one was not disturbed"
    updates = pole.audit()
    lives = [update["incarnation"] for update in updates]
    assert lives == sorted(lives)
    assert updates[-1]["ledger"]["rejected"] == 0
    assert {actor for u in updates[-20:] for actor, *_ in u["fragments"]} == actors


def _names(pods: list[Document]) -> set[str]:
    return {pod["metadata"]["name"] for pod in pods}


def _uids(pods: list[Document]) -> set[str]:
    return {pod["metadata"]["uid"] for pod in pods}


def _is(status: Document, kind: str, truth: str) -> bool:
    return any(c["type"] == kind and c["status"] == truth for c in status.get("conditions", []))


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _kubelet(cluster: Cluster) -> psutil.Process:
    root = f"--root-dir={cluster.kubeconfig.parent / 'kubelet'}"
    (kubelet,) = [p for p in psutil.process_iter() if p.name() == "kubelet" and root in p.cmdline()]
    return kubelet


def _last_words(cluster: Cluster, pod: Document) -> str:
    """What a container wrote into its termination log, as the kubelet keeps it."""
    folder = cluster.kubeconfig.parent / "kubelet" / "pods" / pod["metadata"]["uid"]
    (log,) = (folder / "containers" / "learner").iterdir()
    return log.read_text()
