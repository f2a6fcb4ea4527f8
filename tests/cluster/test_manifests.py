"""The children of a job on a real API server: accepted, admitted, run, changed as documented."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kube_harness.api import Api, ApiError
from kube_harness.simulated import EXIT_CODE, UNREADY
from operator_harness.jobs import KIND, install_definition, job
from vaco.job import API_VERSION, VACOJob, load_job, parse_job
from vaco_operator.cluster.credentials import derive
from vaco_operator.cluster.labels import MANAGER, JobIdentity
from vaco_operator.cluster.manifests.children import Children, children
from vaco_operator.cluster.manifests.merge import MERGE_KEYS, merged
from vaco_operator.cluster.settings import Settings

if TYPE_CHECKING:
    from kube_harness.cluster import Cluster

pytestmark = pytest.mark.cluster

Document = dict[str, Any]
Make = Callable[..., VACOJob]

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
SETTINGS = Settings(
    namespace="vaco-system",
    learner_image="vaco-learner:1",
    actor_image="vaco-actor:1",
    image_pull_policy="IfNotPresent",
    image_pull_secrets=("registry",),
)
RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(scope="module")
def installed(control_plane: Cluster) -> Iterator[Api]:
    with closing(Api(control_plane.kubeconfig)) as api:
        install_definition(api)
        yield api


@pytest.fixture
def api(installed: Api) -> Api:
    return installed


@pytest.fixture
def simulated(control_plane: Cluster) -> Cluster:
    if control_plane.tier == "existing":
        pytest.skip("needs simulated nodes, and the cluster given has real ones")
    return control_plane


@pytest.fixture
def make(api: Api, namespace: str) -> Make:
    """Makes a job on the API server, with what that adds to it."""

    def create(**spec: Any) -> VACOJob:
        return parse_job(api.create(job("cartpole", namespace, **spec)))

    return create


def built(job: VACOJob, settings: Settings = SETTINGS, **given: Any) -> Children:
    credentials = derive(bytes(32), JobIdentity.of(job), 0, settings.cluster_domain)
    chosen = {"replicas": 2, "attempt": 1, "suspended": False, "credentials": credentials}
    return children(job, settings, **{**chosen, **given})


def applied(api: Api, document: Document, **query: str) -> Document:
    """Applies it as the operator does; a field that the API does not know is an error."""
    metadata = document["metadata"]
    path = api.path(
        document["apiVersion"], document["kind"], metadata["name"], metadata["namespace"]
    )
    query = {"fieldManager": MANAGER, "force": "true", "fieldValidation": "Strict", **query}
    answer = api.request(
        "PATCH", path, document, query=query, content_type="application/apply-patch+yaml"
    )
    parsed: Document = json.loads(answer)
    return parsed


def apply_all(api: Api, made: Children) -> dict[str, Document]:
    """What the API server has of each child afterwards, by kind and name."""
    return {
        f"{each['kind']}/{each['metadata']['name']}": applied(api, each) for each in made.in_order()
    }


def pods(api: Api, job: VACOJob, component: str) -> list[Document]:
    labels = f"training.vaco.dev/job={job.metadata.name},app.kubernetes.io/component={component}"
    return api.list("v1", "Pod", str(job.metadata.namespace), labels=labels)


def running(api: Api, job: VACOJob, component: str, count: int) -> list[Document]:
    """Waits until so many pods run, none of which is being deleted."""

    def found() -> list[Document]:
        alive = [
            pod
            for pod in pods(api, job, component)
            if pod["status"].get("phase") == "Running"
            and "deletionTimestamp" not in pod["metadata"]
        ]
        return alive if len(alive) == count else []

    result: list[Document] = api.wait_for(f"{count} pods of {component} run", found)
    return result


def uids(documents: list[Document]) -> set[str]:
    return {each["metadata"]["uid"] for each in documents}


# Accepted.


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_children_of_the_examples_are_accepted(api: Api, namespace: str, path: Path) -> None:
    document = load_job(path).model_dump(mode="json", by_alias=True, exclude_none=True)
    document["metadata"] = {"name": path.stem, "namespace": namespace}
    made = built(parse_job(api.create(document)))
    for each in made.in_order():
        assert applied(api, each, dryRun="All")["kind"] == each["kind"]


EVERYTHING: Document = {
    "metadata": {"labels": {"team": "rl"}, "annotations": {"sidecar.istio.io/inject": "false"}},
    "spec": {
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}
                    ]
                }
            }
        },
        "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]},
        "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["store"]}],
        "imagePullSecrets": [{"name": "another"}],
        "initContainers": [{"name": "fetch", "image": "fetch:1", "command": ["true"]}],
        "nodeSelector": {"node.kubernetes.io/instance-type": "g5.xlarge"},
        "priorityClassName": "system-node-critical",
        "runtimeClassName": "nvidia",
        "schedulerName": "another",
        "securityContext": {"runAsUser": 1000, "fsGroup": None, "supplementalGroups": [44]},
        "serviceAccountName": "trainer",
        "terminationGracePeriodSeconds": 300,
        "tolerations": [{"key": "spot", "operator": "Exists", "effect": "NoSchedule"}],
        "topologySpreadConstraints": [
            {
                "maxSkew": 1,
                "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {"team": "rl"}},
            }
        ],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "run", "emptyDir": {"medium": "Memory"}},
        ],
    },
}  # fmt: skip
PROGRAM: Document = {
    "image": "mine:2",
    "imagePullPolicy": "Always",
    "command": ["python3", "-m", "mine"],
    "args": ["--fast"],
    "env": [{"name": "HOME", "value": "/home"}, {"name": "TOKEN", "valueFrom": {
        "secretKeyRef": {"name": "mine", "key": "token"}}}],
    "envFrom": [{"configMapRef": {"name": "more"}}],
    "livenessProbe": None,
    "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "512Mi"}, "requests": {"cpu": "3"}},
    "securityContext": {"readOnlyRootFilesystem": False},
    "volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": True}],
    "ports": [{"name": "debug", "containerPort": 5678}],
}  # fmt: skip


def overridden(program: str) -> Document:
    beside = {"name": "proxy", "image": "proxy:1", "ports": [{"containerPort": 8080}]}
    containers = [{"name": program, **PROGRAM}, beside]
    return {**EVERYTHING, "spec": {**EVERYTHING["spec"], "containers": containers}}


def test_overrides_of_every_kind_are_accepted_and_in_force(api: Api, make: Make) -> None:
    made = built(
        make(
            learner={"podTemplate": overridden("learner"), "storage": {"size": "1Gi"}},
            actors={"podTemplate": overridden("actor")},
        )
    )
    accepted = [applied(api, each, dryRun="All") for each in made.in_order()]
    assert len(accepted) == 8
    for workload in accepted[-2:]:
        template = workload["spec"]["template"]
        spec, (program, beside) = template["spec"], template["spec"]["containers"]
        assert template["metadata"]["labels"]["team"] == "rl"
        assert beside["name"] == "proxy"
        assert program["image"] == "mine:2"
        assert program["resources"]["requests"] == {"cpu": "3"}, "no request above the limit"
        assert program["resources"]["limits"] == {"nvidia.com/gpu": "1", "memory": "512Mi"}
        assert "livenessProbe" not in program
        assert program["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {each["name"] for each in spec["imagePullSecrets"]} == {"registry", "another"}
        assert spec["securityContext"]["runAsUser"] == 1000
        assert "fsGroup" not in spec["securityContext"]
        assert [each["key"] for each in spec["tolerations"]] == [
            "node.kubernetes.io/not-ready",
            "node.kubernetes.io/unreachable",
            "spot",
        ]
        for name in ("runtimeClassName", "nodeSelector", "schedulerName", "affinity"):
            assert spec[name] == EVERYTHING["spec"][name]


# Merged as Kubernetes merges.


def test_lists_are_merged_by_the_keys_that_the_api_publishes(api: Api) -> None:
    """All lists of a pod template, but tolerations, which ours adds up on purpose."""
    definitions = json.loads(api.request("GET", "/openapi/v2"))["definitions"]
    found: dict[str, tuple[str, ...]] = {}
    seen: set[str] = set()

    def walk(name: str) -> None:
        if name in seen:
            return
        seen.add(name)
        for field, schema in definitions[name].get("properties", {}).items():
            if "merge" in schema.get("x-kubernetes-patch-strategy", ""):
                key = schema.get("x-kubernetes-patch-merge-key")
                if key is not None:
                    found[field] = (key,)
            reference = schema.get("$ref") or schema.get("items", {}).get("$ref", "")
            # What is in a volume is replaced with it; the template's metadata are labels and such.
            if reference and not reference.endswith((".Volume", ".ObjectMeta")):
                walk(reference.removeprefix("#/definitions/"))

    walk("io.k8s.api.core.v1.PodTemplateSpec")
    # Of running pods only.
    found.pop("ephemeralContainers")
    assert found == {name: key for name, key in MERGE_KEYS.items() if name != "tolerations"}


CHANGES: dict[str, Document] = {
    "labels and annotations": {"metadata": {"labels": {"team": "rl"}, "annotations": {"a": "b"}}},
    "image and command": {
        "spec": {"containers": [{"name": "actor", "image": "x", "command": ["y"]}]}
    },
    "another container": {"spec": {"containers": [{"name": "proxy", "image": "proxy:1"}]}},
    "two containers": {
        "spec": {"containers": [{"name": "proxy", "image": "p"}, {"name": "actor", "image": "x"}]}
    },
    "resources": {
        "spec": {"containers": [{"name": "actor", "resources": {
            "limits": {"nvidia.com/gpu": "1"}, "requests": {"cpu": "2", "nvidia.com/gpu": "1"}}}]}
    },
    "environment": {
        "spec": {"containers": [{"name": "actor", "env": [
            {"name": "HOME", "value": "/home"}, {"name": "NEW", "value": "$(HOME)"}]}]}
    },
    "mounts and ports": {
        "spec": {
            "containers": [{
                "name": "actor",
                "volumeMounts": [{"name": "data", "mountPath": "/etc/vaco/job"},
                                 {"name": "data", "mountPath": "/data", "readOnly": True}],
                "ports": [{"containerPort": 9090, "hostPort": 9090}, {"containerPort": 80}],
            }],
            "volumes": [{"name": "data", "emptyDir": {}}],
        }
    },
    "null": {
        "spec": {
            "securityContext": {"runAsUser": None, "fsGroup": None},
            "containers": [{"name": "actor", "livenessProbe": None, "imagePullPolicy": None}],
            "affinity": None,
        }
    },
    "nested mappings": {
        "spec": {"securityContext": {"runAsUser": 5, "seccompProfile": {"type": "Unconfined"}},
                 "affinity": EVERYTHING["spec"]["affinity"]}
    },
    "capabilities": {
        "spec": {"containers": [{"name": "actor", "securityContext": {"capabilities": {
            "add": ["SYS_PTRACE"], "drop": ["NET_RAW"]}}}]}
    },
    "probe": {
        "spec": {"containers": [{"name": "actor", "livenessProbe": {"periodSeconds": 99}}]}
    },
    "pod": {
        "spec": {
            name: EVERYTHING["spec"][name]
            for name in ("dnsConfig", "hostAliases", "imagePullSecrets", "initContainers",
                         "nodeSelector", "runtimeClassName", "topologySpreadConstraints",
                         "terminationGracePeriodSeconds")
        }
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_templates_are_merged_as_the_api_server_merges_them(
    api: Api, make: Make, name: str
) -> None:
    """Its strategic merge patch of the same documents, in a dry run."""
    deployment = built(make()).actors
    applied(api, deployment)
    metadata = deployment["metadata"]
    path = api.path("apps/v1", "Deployment", metadata["name"], metadata["namespace"])
    theirs = json.loads(
        api.request(
            "PATCH", path, {"spec": {"template": CHANGES[name]}}, query={"dryRun": "All"},
            content_type="application/strategic-merge-patch+json",
        )
    )  # fmt: skip
    template = merged(deployment["spec"]["template"], CHANGES[name], "podTemplate")
    mine = {**deployment, "spec": {**deployment["spec"], "template": template}}
    ours = applied(api, mine, dryRun="All")
    before = api.get("apps/v1", "Deployment", metadata["name"], metadata["namespace"])
    assert _sorted(ours["spec"]["template"]) == _sorted(theirs["spec"]["template"])
    assert theirs["spec"]["template"] != before["spec"]["template"], "the change changes something"


def test_a_volume_is_replaced_as_by_a_patch_that_keeps_only_its_keys(api: Api, make: Make) -> None:
    """`$retainKeys` is what `kubectl apply` sends; without it two sources would be left."""
    deployment = built(make()).actors
    applied(api, deployment)
    metadata = deployment["metadata"]
    path = api.path("apps/v1", "Deployment", metadata["name"], metadata["namespace"])
    volume: Document = {"name": "tmp", "hostPath": {"path": "/scratch"}}
    patch = {"spec": {"volumes": [{**volume, "$retainKeys": ["name", "hostPath"]}]}}
    theirs = json.loads(
        api.request(
            "PATCH", path, {"spec": {"template": patch}}, query={"dryRun": "All"},
            content_type="application/strategic-merge-patch+json",
        )
    )  # fmt: skip
    base = deployment["spec"]["template"]
    template = merged(base, {"spec": {"volumes": [volume]}}, "podTemplate")
    mine = {**deployment, "spec": {**deployment["spec"], "template": template}}
    ours = applied(api, mine, dryRun="All")["spec"]["template"]["spec"]["volumes"]
    assert _sorted(ours) == _sorted(theirs["spec"]["template"]["spec"]["volumes"])


def _sorted(value: Any) -> Any:
    """The same with keyed lists in one order: a patch may put new items first."""
    if isinstance(value, dict):
        return {name: _sorted(each) for name, each in value.items()}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return sorted(
            (_sorted(each) for each in value), key=lambda each: json.dumps(each, sort_keys=True)
        )
    return value


# Admitted and run.


def test_case_28_pods_are_admitted_where_only_restricted_ones_are(
    simulated: Cluster, api: Api, namespace: str, make: Make
) -> None:
    api.patch("v1", "Namespace", namespace, "", {"metadata": {"labels": RESTRICTED}})
    careless = {"containers": [{"name": "main", "image": simulated.image}]}
    with pytest.raises(ApiError) as refused:
        api.create(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "careless", "namespace": namespace},
                "spec": careless,
            }
        )
    assert "violates PodSecurity" in str(refused.value), "the profile is enforced"
    job = make()
    apply_all(api, built(job))
    (learner,) = running(api, job, "learner", 1)
    assert len(running(api, job, "actor", 2)) == 2
    assert learner["metadata"]["labels"]["training.vaco.dev/attempt"] == "1"


@pytest.mark.usefixtures("simulated")
def test_the_scheduler_spreads_actors_by_itself(api: Api, make: Make) -> None:
    job = make(actors={"maxReplicas": 12})
    apply_all(api, built(job, replicas=12))
    nodes = {pod["spec"]["nodeName"] for pod in running(api, job, "actor", 12)}
    assert len(nodes) == len(api.list("v1", "Node"))


@pytest.mark.usefixtures("simulated")
def test_the_learner_is_found_before_it_is_ready(api: Api, make: Make) -> None:
    template = {"metadata": {"annotations": {UNREADY: "true"}}}
    job = make(learner={"podTemplate": template})
    namespace = str(job.metadata.namespace)
    apply_all(api, built(job))

    def address() -> str:
        (pod,) = running(api, job, "learner", 1)
        return str(pod["status"].get("podIP", ""))

    def published() -> list[str]:
        slices = api.list("discovery.k8s.io/v1", "EndpointSlice", namespace)
        endpoints = [each for found in slices for each in found.get("endpoints") or []]
        return [ip for each in endpoints for ip in each["addresses"]]

    expected = api.wait_for("the learner has an address", address)
    api.wait_for("it is published", lambda: published() == [expected])


@pytest.mark.usefixtures("simulated")
@pytest.mark.parametrize(
    ("status", "failed", "ended"),
    [
        pytest.param(143, 0, False, id="143: told to stop"),
        pytest.param(1, 1, False, id="1: died"),
        pytest.param(3, 1, True, id="3: trying again is in vain"),
    ],
)
def test_how_a_learner_ends_decides_what_follows(
    api: Api, make: Make, status: int, failed: int, ended: bool
) -> None:
    job = make(backoffLimit=2)
    namespace = str(job.metadata.namespace)
    apply_all(api, built(job, replicas=0))
    (first,) = running(api, job, "learner", 1)
    name = first["metadata"]["name"]
    change = {"metadata": {"annotations": {EXIT_CODE: str(status)}}}
    api.patch("v1", "Pod", name, namespace, change)

    def state() -> Document:
        found: Document = api.get("batch/v1", "Job", "cartpole-learner", namespace)["status"]
        return found

    if ended:

        def reason() -> str:
            conditions = state().get("conditions", [])
            return "".join(c["reason"] for c in conditions if c["type"] == "Failed")

        assert api.wait_for("the Job fails", reason) == "PodFailurePolicy"
        assert uids(pods(api, job, "learner")) == uids([first])
        return

    def replaced() -> bool:
        alive = [
            pod for pod in pods(api, job, "learner") if pod["status"].get("phase") == "Running"
        ]
        return len(alive) == 1 and uids(alive) != uids([first])

    api.wait_for("another learner runs", replaced, seconds=90)
    assert state().get("failed", 0) == failed


# Changed.


@pytest.mark.usefixtures("simulated")
def test_case_03_applying_the_same_again_writes_nothing(api: Api, make: Make) -> None:
    made = built(
        make(learner={"storage": {"size": "1024Mi"}, "podTemplate": overridden("learner")})
    )
    documents = made.in_order()

    def settled() -> dict[str, str]:
        """Versions as they are once the controllers have nothing more to say."""
        answers = apply_all(api, made)
        again = {
            key: api.get(each["apiVersion"], each["kind"], each["metadata"]["name"],
                         each["metadata"]["namespace"])
            for key, each in answers.items()
        }  # fmt: skip
        same = all(
            again[key]["metadata"]["resourceVersion"] == each["metadata"]["resourceVersion"]
            for key, each in answers.items()
        )
        return {k: v["metadata"]["resourceVersion"] for k, v in again.items()} if same else {}

    before = api.wait_for("the children rest", settled)
    for _ in range(3):
        answers = [applied(api, each) for each in documents]
        assert [each["metadata"]["resourceVersion"] for each in answers] == list(before.values())


@pytest.mark.usefixtures("simulated")
def test_case_07_a_newer_operator_restarts_no_pod(api: Api, make: Make) -> None:
    """Its images and the rest of its manifests differ; the job's spec does not."""
    job = make()
    namespace = str(job.metadata.namespace)
    older = built(job)
    older.learner["spec"]["podFailurePolicy"]["rules"].pop()
    apply_all(api, older)
    before = uids(running(api, job, "learner", 1)) | uids(running(api, job, "actor", 2))
    newer = replace(SETTINGS, learner_image="vaco-learner:2", actor_image="vaco-actor:2",
                    image_pull_secrets=())  # fmt: skip

    def live(api_version: str, kind: str, name: str) -> Document:
        return api.get(api_version, kind, name, namespace)

    def upgraded(**given: Any) -> dict[str, Document]:
        learner = live("batch/v1", "Job", "cartpole-learner")
        actors = live("apps/v1", "Deployment", "cartpole-actors")
        made = built(job, newer, live_learner=learner, live_actors=actors, **given)
        return apply_all(api, made)

    actors = live("apps/v1", "Deployment", "cartpole-actors")
    after = upgraded()["Deployment/cartpole-actors"]
    assert after["metadata"]["generation"] == actors["metadata"]["generation"]
    # A pod that the newer operator adds is of the same release as those that are there.
    upgraded(replicas=3)
    found = running(api, job, "actor", 3)
    assert {pod["spec"]["containers"][0]["image"] for pod in found} == {"vaco-actor:1"}
    assert before < uids(running(api, job, "learner", 1)) | uids(found)


@pytest.mark.usefixtures("simulated")
def test_case_07_a_changed_template_rolls_the_actors_and_leaves_the_learner(
    api: Api, make: Make
) -> None:
    job = make()
    namespace = str(job.metadata.namespace)
    apply_all(api, built(job))
    learner, actors = running(api, job, "learner", 1), running(api, job, "actor", 2)
    template = {"spec": {"containers": [{"name": "actor", "env": [{"name": "A", "value": "1"}]}]}}
    change = {"spec": {"actors": {"podTemplate": template}}}
    changed = parse_job(api.patch(API_VERSION, KIND, "cartpole", namespace, change))
    live = api.get("batch/v1", "Job", "cartpole-learner", namespace)
    apply_all(api, built(changed, live_learner=live))

    def rolled() -> bool:
        return not uids(running(api, job, "actor", 2)) & uids(actors)

    api.wait_for("other actors run", rolled)
    assert uids(running(api, job, "learner", 1)) == uids(learner)


@pytest.mark.usefixtures("simulated")
def test_a_live_learner_is_suspended_and_its_limit_changed_in_place(api: Api, make: Make) -> None:
    """Neither is part of the template, which could not be changed."""
    job = make()
    namespace = str(job.metadata.namespace)
    apply_all(api, built(job))
    running(api, job, "learner", 1)
    change = {"spec": {"backoffLimit": 9, "suspend": True}}
    changed = parse_job(api.patch(API_VERSION, KIND, "cartpole", namespace, change))
    live = api.get("batch/v1", "Job", "cartpole-learner", namespace)
    after = applied(api, built(changed, suspended=True, live_learner=live).learner)
    assert after["spec"]["backoffLimit"] == 9
    api.wait_for("no learner is left", lambda: not pods(api, job, "learner"))
    live = api.get("batch/v1", "Job", "cartpole-learner", namespace)
    applied(api, built(changed, live_learner=live).learner)
    running(api, job, "learner", 1)


@pytest.mark.usefixtures("simulated")
def test_children_go_with_their_job(api: Api, make: Make) -> None:
    job = make(learner={"storage": {}})
    namespace = str(job.metadata.namespace)
    made = built(job, replicas=0)
    apply_all(api, made)
    api.delete(API_VERSION, KIND, "cartpole", namespace)

    def left() -> list[str]:
        return [
            each["kind"]
            for each in made.in_order()
            if api.find(each["apiVersion"], each["kind"], each["metadata"]["name"], namespace)
        ]

    api.wait_for("all children are collected", lambda: not left())
