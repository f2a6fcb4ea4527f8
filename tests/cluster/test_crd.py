"""The VACOJob's definition on a real API server: what it refuses, fills in, and lets change."""

from __future__ import annotations

import json
import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kube_harness import admission
from kube_harness.api import Api
from kube_harness.programs import binary
from operator_harness.jobs import KIND, install_definition, job
from vaco.job import API_VERSION, dump_job, load_job, parse_job

if TYPE_CHECKING:
    from kube_harness.cluster import Cluster

pytestmark = pytest.mark.cluster

Change = Callable[[str, dict[str, Any]], dict[str, str]]

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
CARTPOLE = EXAMPLES[0].with_name("cartpole.yaml")
KUBECTL_SECONDS = 30


@pytest.fixture(scope="module")
def installed(control_plane: Cluster) -> Iterator[Api]:
    """The API with the VACOJob's definition, for the whole module."""
    with closing(Api(control_plane.kubeconfig)) as api:
        install_definition(api)
        yield api


@pytest.fixture
def api(installed: Api) -> Api:
    return installed


def kubectl(cluster: Cluster, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [binary("kubectl"), f"--kubeconfig={cluster.kubeconfig}", *arguments],
        input=given,
        capture_output=True,
        text=True,
        timeout=KUBECTL_SECONDS,
        check=False,
    )


def container(name: str, **fields: Any) -> dict[str, Any]:
    return {"podTemplate": {"spec": {"containers": [{"name": name, **fields}]}}}


CASE_08 = {
    "more at least than at most": (
        {"actors": {"minReplicas": 3, "maxReplicas": 2}},
        "spec.actors.minReplicas",
        "3 is more than maxReplicas, which is 2. Lower `minReplicas` or raise `maxReplicas`.",
    ),
    "empty image": (
        {"learner": container("learner", image="")},
        "spec.learner.podTemplate.spec.containers[0].image",
        "should be at least 1 chars long",
    ),
    "bad quantity": (
        {"actors": container("actor", resources={"limits": {"memory": "2 gigabytes"}})},
        "spec.actors.podTemplate.spec.containers[0].resources.limits.memory",
        "should match",
    ),
    "bad size of storage": (
        {"learner": {"storage": {"size": "lots"}}},
        "spec.learner.storage.size",
        "should match",
    ),
    "unknown field": (
        {"learner": {"batchSzie": 64}},
        "spec.learner.batchSzie",
        "unknown field",
    ),
    "unknown algorithm": (
        {"algorithm": {"name": "vcao"}},
        "spec.algorithm.name",
        'Unsupported value: "vcao": supported values: "vaco", "ppo", "ppo-kl", "spo", "impala"',
    ),
    "unknown kind of environment": (
        {"task": {"type": "dm_control", "environment": "cheetah"}},
        "spec.task.type",
        'Unsupported value: "dm_control": supported values: "gymnasium"',
    ),
    "field of another algorithm": (
        {"algorithm": {"name": "ppo", "delta": 0.1}},
        "spec.algorithm.delta",
        "it belongs to `name: vaco` or `name: vaco-lm`, not to `name: ppo`. "
        "Leave it out, or choose `name: vaco` or `name: vaco-lm`.",
    ),
}


@pytest.mark.parametrize(("spec", "path", "cause"), CASE_08.values(), ids=CASE_08)
def test_case_08_a_bad_job_is_refused_with_path_and_cause(
    api: Api, spec: dict[str, Any], path: str, cause: str
) -> None:
    refusal = admission.creation(api, job("bad", "default", **spec))
    assert list(refusal) == [path]
    assert cause in refusal[path]


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("x" * 64, "64 characters are too many. Give at most 52: "),
        ("2nd", "2nd is not spelled as it must be. Use small letters, "),
        ("a.b", "a.b is not spelled as it must be. "),
    ],
)
def test_case_08_a_name_that_children_could_not_be_named_after_is_refused(
    api: Api, name: str, cause: str
) -> None:
    refusal = admission.creation(api, job(name, "default"))
    assert list(refusal) == ["metadata.name"]
    assert cause in refusal["metadata.name"]
    assert admission.creation(api, job("x" * 52, "default")) == {}


def test_case_08_kubectl_tells_an_unknown_field(
    control_plane: Cluster, api: Api, namespace: str
) -> None:
    document = CARTPOLE.read_text().replace("gamma:", "gama:")
    told = kubectl(control_plane, "apply", "-n", namespace, "-f", "-", given=document)
    assert told.returncode == 1
    assert 'unknown field "spec.algorithm.gama"' in told.stderr
    assert api.find(API_VERSION, KIND, "cartpole", namespace) is None


NEVER = {
    "seed": {"seed": 1},
    "synchronous": {"synchronous": True},
    "task.environment": {"task": {"environment": "Acrobot-v1"}},
    "task.frameStack": {"task": {"frameStack": 2}},
    "task.wrappers": {"task": {"wrappers": [{"name": "A", "kwargs": {"b": 2}}]}},
    "policy.core": {"policy": {"core": {"type": "gru"}}},
    "policy.network": {"policy": {"network": {"hiddenSizes": [32]}}},
    "policy.sharedTrunk": {"policy": {"sharedTrunk": True}},
    "algorithm.name": {"algorithm": {"name": "ppo"}},
    "learner.storage": {"learner": {"storage": {}}},
}
WHILE_SUSPENDED = {
    "algorithm.delta": {"algorithm": {"delta": 0.1}},
    "algorithm.learningRate": {"algorithm": {"learningRate": 0.001}},
    "rollout.fragmentLength": {"rollout": {"fragmentLength": 32}},
    "learner.batchSize": {"learner": {"batchSize": 8192}},
    "learner.checkpoint.keep": {"learner": {"checkpoint": {"keep": 5}}},
    "actors.threads": {"actors": {"threads": 2}},
    "actors.drainSeconds": {"actors": {"drainSeconds": 10}},
    "evaluation": {"evaluation": {"intervalEnvSteps": 1000}},
}
ANY_TIME = {
    "stop": {"stop": {"envSteps": 5, "wallClockSeconds": 60}},
    "actors.replicas": {"actors": {"replicas": 3}},
    "actors.maxReplicas": {"actors": {"minReplicas": 2, "maxReplicas": 8}},
    "actors.podTemplate": {"actors": container("actor", image="actor:2")},
    "learner.podTemplate": {"learner": container("learner", image="learner:2")},
    "autoscaling": {"autoscaling": {"mode": "external", "scaleUp": {"maxChange": 1}}},
    "ttlSecondsAfterFinished": {"ttlSecondsAfterFinished": 60},
    "deadlines": {"startDeadlineSeconds": 60, "activeDeadlineSeconds": 3600},
    "ends": {"cleanPodPolicy": "All", "backoffLimit": 1, "suspend": True},
}


@pytest.fixture(scope="module")
def jobs(installed: Api) -> Iterator[str]:
    """A namespace with jobs: `running`, one that is `suspended`, and one with a claim: `stored`."""
    name = f"test-{secrets.token_hex(4)}"
    installed.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    task = {
        "environment": "CartPole-v1",
        "kwargs": {"a": 1},
        "wrappers": [{"name": "A", "kwargs": {"b": 1}}],
    }
    installed.create(job("running", name, task=task))
    installed.create(job("suspended", name, task=task, suspend=True))
    installed.create(job("stored", name, learner={"storage": {"size": "10Gi"}}))
    yield name
    installed.delete("v1", "Namespace", name)


@pytest.fixture
def change(api: Api, jobs: str) -> Change:
    """Asks whether the spec of one of the jobs could be changed; returns the refusal."""

    def ask(name: str, spec: dict[str, Any]) -> dict[str, str]:
        return admission.change(api, API_VERSION, KIND, name, jobs, {"spec": spec})

    return ask


@pytest.mark.parametrize("path", NEVER)
@pytest.mark.parametrize("name", ["running", "suspended"])
def test_case_09_what_the_checkpoint_depends_on_never_changes(
    change: Change, name: str, path: str
) -> None:
    refusal = change(name, NEVER[path])
    assert list(refusal) == [f"spec.{path}"]
    assert refusal[f"spec.{path}"].startswith("Forbidden: it never changes: what was learned ")


@pytest.mark.parametrize(
    "kwargs", [{"a": 2}, {"b": 1}, {"a": None}, {"a": [1]}], ids=["value", "more", "less", "kind"]
)
def test_case_09_free_arguments_are_compared_to_the_last_value(
    change: Change, kwargs: dict[str, Any]
) -> None:
    assert list(change("running", {"task": {"kwargs": kwargs}})) == ["spec.task.kwargs"]


def test_case_09_an_argument_under_another_name_is_a_change(change: Change) -> None:
    """As many arguments as before, none of them there before: not the same arguments."""
    renamed = {"task": {"kwargs": {"a": None, "b": 1}}}
    assert list(change("running", renamed)) == ["spec.task.kwargs"]


@pytest.mark.parametrize(
    ("storage", "path"),
    [
        (None, ""),
        ({"accessMode": "ReadWriteMany"}, ".accessMode"),
        ({"storageClassName": "fast"}, ".storageClassName"),
        ({"claimName": "mine"}, ".claimName"),
    ],
)
def test_case_09_a_claim_never_changes_but_for_its_size(
    change: Change, storage: dict[str, Any] | None, path: str
) -> None:
    assert list(change("stored", {"learner": {"storage": storage}})) == [
        f"spec.learner.storage{path}"
    ]
    assert change("stored", {"learner": {"storage": {"size": "20Gi"}}}) == {}


@pytest.mark.parametrize("path", WHILE_SUSPENDED)
def test_case_09_what_the_programs_were_started_with_changes_only_while_suspended(
    change: Change, path: str
) -> None:
    refusal = change("running", WHILE_SUSPENDED[path])
    assert list(refusal) == [f"spec.{path}"]
    assert "Set `spec.suspend` to true first." in refusal[f"spec.{path}"]
    # To suspend and to change at once would be a change while it still runs.
    assert list(change("running", {"suspend": True, **WHILE_SUSPENDED[path]}))
    assert change("suspended", WHILE_SUSPENDED[path]) == {}
    assert change("suspended", {"suspend": False, **WHILE_SUSPENDED[path]}) == {}


@pytest.mark.parametrize("path", ANY_TIME)
def test_case_09_wishes_change_at_any_time(change: Change, path: str) -> None:
    assert change("running", ANY_TIME[path]) == {}


def test_case_03_the_same_manifest_applied_again_changes_nothing(
    control_plane: Cluster, api: Api, namespace: str
) -> None:
    """And what spells out the defaults of its variant is accepted while the job runs.

    But for those that CEL has no words for (decision 0010).
    """
    manifest = CARTPOLE.read_text()
    document = yaml.safe_load(dump_job(load_job(CARTPOLE)))
    as_written = yaml.safe_load(manifest)["spec"]
    document["spec"]["policy"]["network"] = as_written["policy"]["network"]
    document["spec"]["task"] = as_written["task"]
    spelled_out = yaml.safe_dump(document)
    generations = []
    for text in (manifest, manifest, spelled_out, spelled_out):
        told = kubectl(control_plane, "apply", "-n", namespace, "-f", "-", given=text)
        assert told.returncode == 0, told.stderr
        stored = api.get(API_VERSION, KIND, "cartpole", namespace)
        generations.append(stored["metadata"]["generation"])
    assert generations == [1, 1, 2, 2]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_is_accepted_and_means_what_it_means_here(
    control_plane: Cluster, path: Path
) -> None:
    told = kubectl(control_plane, "apply", "--dry-run=server", "-o", "json", "-f", str(path))
    assert told.returncode == 0, told.stderr
    stored = parse_job(json.loads(told.stdout))
    here = load_job(path)
    assert stored.spec.model_copy(update={"task": here.spec.task}) == here.spec
    if not here.spec.is_language:
        assert stored.spec.control.task.kwargs == here.spec.control.task.kwargs


@pytest.mark.parametrize("algorithm", ["vaco", "ppo", "ppo-kl", "spo", "impala"])
def test_what_the_server_fills_in_is_what_the_models_fill_in(
    api: Api, namespace: str, algorithm: str
) -> None:
    document = job(
        "smallest",
        namespace,
        algorithm={"name": algorithm},
        evaluation={"intervalEnvSteps": 5},
        autoscaling={"scaleDown": {"maxChange": 2}},
        learner={"storage": {}},
    )
    stored = api.create(document)
    assert stored["spec"]["autoscaling"]["scaleDown"]["stabilizationWindowSeconds"] == 60
    assert stored["spec"]["learner"]["storage"]["size"] == "10Gi"
    assert "maxReplicas" not in stored["spec"]["actors"]
    assert parse_job(stored).spec == parse_job(document).spec


def test_the_scale_subresource_reads_and_sets_the_number_of_actors(
    control_plane: Cluster, api: Api, namespace: str
) -> None:
    api.create(job("elastic", namespace, actors={"minReplicas": 2, "maxReplicas": 4}))
    selector = "training.vaco.dev/job=elastic,app.kubernetes.io/component=actor"
    status = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": "elastic", "namespace": namespace},
        "status": {"actors": {"ready": 2, "selector": selector}},
    }
    api.apply(status, manager="test", subresource="status")
    # Outside of the bounds is no mistake: scaling holds it to them and says so.
    for replicas in (9, 0, 3):
        told = kubectl(
            control_plane, "-n", namespace, "scale", "vj/elastic", f"--replicas={replicas}"
        )
        assert told.returncode == 0, told.stderr
        stored = api.get(API_VERSION, KIND, "elastic", namespace)
        assert stored["spec"]["actors"]["replicas"] == replicas
    path = api.path(API_VERSION, KIND, "elastic", namespace)
    scale = json.loads(api.request("GET", f"{path}/scale"))
    assert scale["spec"]["replicas"] == 3
    assert scale["status"] == {"replicas": 2, "selector": selector}


def test_a_status_may_say_little_and_its_conditions_have_owners(api: Api, namespace: str) -> None:
    api.create(job("told", namespace))
    head = {"apiVersion": API_VERSION, "kind": KIND}
    head["metadata"] = {"name": "told", "namespace": namespace}
    for manager, kind in (("one", "Ready"), ("two", "Complete")):
        condition = {"type": kind, "status": "True"}
        api.apply(
            {**head, "status": {"conditions": [condition]}}, manager=manager, subresource="status"
        )
    partly = {**head, "status": {"phase": "Dreaming", "returnMean": 3, "envSteps": 2**40}}
    stored = api.apply(partly, manager="three", subresource="status")
    assert {each["type"] for each in stored["status"]["conditions"]} == {"Ready", "Complete"}
    assert stored["status"]["phase"] == "Dreaming"
    assert stored["metadata"]["generation"] == 1


EXPLAINED = {
    "vj.spec.algorithm.delta": [
        "FIELD: delta <number>",
        "Only with `name: vaco`. Total variation allowed between the policy and the anchor;",
        "Value: a number above 0 and up to 2 (default 0.01). May change: while suspended.",
    ],
    "vj.spec.actors": ["maxReplicas <integer>", "Actors that scaling never goes above."],
    "vj.spec.learner": ["enum: auto, cpu, cuda", "Where the learner computes;"],
    "vj.spec.learner.podTemplate.spec.containers.resources": [
        "limits <map[string]Object>",
        "What the container never gets more of, by resource; devices stand here, such as",
    ],
    "vacojobs.status.lag": ["p95 <number>", "95th percentile."],
}


@pytest.mark.parametrize("path", EXPLAINED)
def test_kubectl_explain_reads_like_documentation(
    control_plane: Cluster, api: Api, path: str
) -> None:
    def explained() -> str:
        return kubectl(control_plane, "explain", path).stdout

    # The OpenAPI document follows the definition after a moment.
    told = " ".join(api.wait_for(f"{path} is explained", explained).split())
    for part in EXPLAINED[path]:
        assert part in told


def test_kubectl_get_shows_what_matters(control_plane: Cluster, api: Api, namespace: str) -> None:
    api.create(job("shown", namespace))
    head = {"apiVersion": API_VERSION, "kind": KIND}
    head["metadata"] = {"name": "shown", "namespace": namespace}
    status = {
        "phase": "Running",
        "actors": {"ready": 2, "desired": 3},
        "version": 7,
        "envSteps": 4096,
        "returnMean": 12.5,
        "lag": {"p95": 2},
        "message": "Training.",
    }
    api.apply({**head, "status": status}, manager="test", subresource="status")
    lines = kubectl(control_plane, "-n", namespace, "get", "vj").stdout.splitlines()
    names = ["NAME", "PHASE", "READY", "DESIRED", "VERSION", "STEPS", "RETURN", "LAG", "AGE"]
    assert lines[0].split() == names
    assert lines[1].split()[:-1] == ["shown", "Running", "2", "3", "7", "4096", "12.5", "2"]
    wide = kubectl(control_plane, "-n", namespace, "get", "vaco", "-o", "wide").stdout
    assert "TASK" in wide
    assert "Training." in wide
