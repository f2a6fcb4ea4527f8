"""What the children of a job are made of, as those see it who depend on it."""

from __future__ import annotations

import base64
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from vaco.errors import UserError
from vaco.job import VACOJob, load_job, parse_job
from vaco_operator.cluster.credentials import derive
from vaco_operator.cluster.labels import ChildNames, JobIdentity, actor_selector, child_labels
from vaco_operator.cluster.manifests.children import Children, children
from vaco_operator.cluster.manifests.credentials_secret import read_root_key, root_secret
from vaco_operator.cluster.manifests.learner_job import live_attempt
from vaco_operator.cluster.manifests.pod import live_spec_hash
from vaco_operator.cluster.manifests.spec_hash import spec_hash
from vaco_operator.cluster.settings import Settings

MakeJob = Callable[..., VACOJob]
Document = dict[str, Any]

SETTINGS = Settings(namespace="vaco-system", learner_image="learner:1", actor_image="actor:1")
NEWER = replace(SETTINGS, learner_image="learner:2", actor_image="actor:2")
GPU = {"containers": [{"name": "learner", "resources": {"limits": {"nvidia.com/gpu": 1}}}]}


def built(job: VACOJob, settings: Settings = SETTINGS, **given: Any) -> Children:
    return children(job, settings, **{"replicas": 2, "attempt": 1, "suspended": False, **given})


def pod(workload: Document) -> Document:
    spec: Document = workload["spec"]["template"]["spec"]
    return spec


def program(workload: Document) -> Document:
    """The container that runs the learner or an actor."""
    container: Document = pod(workload)["containers"][0]
    return container


def environment(workload: Document) -> dict[str, str]:
    return {each["name"]: each.get("value", "") for each in program(workload)["env"]}


def learner_of(job: VACOJob) -> Document:
    return built(job).learner


# What all children have in common.


def test_every_child_is_the_jobs_and_says_so(cluster_job: MakeJob) -> None:
    job = cluster_job(learner={"storage": {}})
    credentials = derive(bytes(32), JobIdentity.of(job), 0, "cluster.local")
    everything = built(job, credentials=credentials).in_order()
    assert [(each["kind"], each["metadata"]["name"]) for each in everything] == [
        ("ConfigMap", "cartpole-job"),
        ("Secret", "cartpole-credentials"),
        ("PersistentVolumeClaim", "cartpole-checkpoints"),
        ("NetworkPolicy", "cartpole-learner"),
        ("NetworkPolicy", "cartpole-actors"),
        ("Service", "cartpole-learner"),
        ("Job", "cartpole-learner"),
        ("Deployment", "cartpole-actors"),
    ]
    for each in everything:
        metadata = each["metadata"]
        assert metadata["namespace"] == "research"
        assert metadata["labels"]["app.kubernetes.io/managed-by"] == "vaco-operator"
        assert metadata["labels"]["training.vaco.dev/job"] == "cartpole"
        (owner,) = metadata["ownerReferences"]
        assert owner["uid"] == job.metadata.uid
        assert owner["controller"]
        assert "finalizers" not in metadata


def wreck(value: Any) -> None:
    """Empties it and all that is in it."""
    if isinstance(value, dict | list):
        for each in list(value.values() if isinstance(value, dict) else value):
            wreck(each)
        value.clear()


def test_builders_are_pure(cluster_job: MakeJob) -> None:
    template = {"spec": {"containers": [{"name": "actor", "env": [{"name": "A", "value": "1"}]}]}}
    job = cluster_job(actors={"podTemplate": template})
    before, expected = job.model_copy(deep=True), deepcopy(built(job))
    for each in built(job).in_order():
        wreck(each)
    assert job == before
    assert built(job) == expected


def test_a_job_that_no_api_server_has_is_refused(cluster_job: MakeJob) -> None:
    with pytest.raises(UserError, match="lacks namespace, uid or creationTimestamp"):
        built(cluster_job({"uid": None}))


def test_names_of_the_longest_job_are_names_that_kubernetes_takes() -> None:
    """A Service's name, and a label's value, have 63 characters at most."""
    names = ChildNames.of("j" * 52)
    assert max(len(names.learner), len(names.actors), len(names.config_map)) <= 63


@pytest.mark.parametrize("path", sorted(Path("examples").glob("*.yaml")), ids=lambda p: p.stem)
def test_examples_have_children(cluster_job: MakeJob, path: Path) -> None:
    known = cluster_job({"name": path.stem}).metadata
    job = load_job(path).model_copy(update={"metadata": known})
    storage = job.spec.learner.storage
    claims = storage is not None and storage.claim_name is None
    assert len(built(job).in_order()) == 6 + claims


# ConfigMap and Secret.


def test_programs_read_the_job_back(cluster_job: MakeJob, tmp_path: Path) -> None:
    job = cluster_job(
        {"labels": {"team": "rl"}},
        actors={"replicas": 3, "minReplicas": 2, "maxReplicas": 9},
        learner={"podTemplate": {"spec": GPU}},
        algorithm={"name": "ppo"},
    )
    (tmp_path / "job.yaml").write_text(built(job).config_map["data"]["job.yaml"])
    read = load_job(tmp_path / "job.yaml")
    assert read.metadata.uid == job.metadata.uid
    assert read.status is None
    assert read.spec.algorithm == job.spec.algorithm
    assert read.spec.learner.pod_template == {}
    assert read.metadata.labels == {}


def test_programs_of_an_older_release_are_told_nothing_that_nobody_said(
    cluster_job: MakeJob,
) -> None:
    """Their pods outlive an upgrade of the operator, and they refuse fields they do not know."""
    job = cluster_job(
        rollout={"fragmentLength": 32},
        autoscaling={"intervalSeconds": 7},
        backoffLimit=3,
        actors={"replicas": 2, "threads": 4},
    )
    spec = yaml.safe_load(built(job).config_map["data"]["job.yaml"])["spec"]
    assert spec["rollout"] == {"fragmentLength": 32}
    assert spec["actors"] == {"threads": 4}
    said = parse_job(job.model_dump(mode="json", by_alias=True, exclude_none=True))
    assert built(said).config_map == built(job).config_map, "the API server fills in defaults"
    assert not {"autoscaling", "backoffLimit", "suspend"} & set(spec)


@pytest.mark.parametrize(
    "change", [{"suspend": True}, {"actors": {"replicas": 4, "maxReplicas": 8}}]
)
def test_scaling_and_suspension_leave_the_config_map_alone(
    cluster_job: MakeJob, change: Document
) -> None:
    before = cluster_job(actors={"replicas": 2, "maxReplicas": 8})
    after = cluster_job(**{"actors": {"replicas": 2, "maxReplicas": 8}, **change})
    assert built(before).config_map == built(after).config_map


def test_each_pod_sees_its_own_part_of_the_secret(cluster_job: MakeJob) -> None:
    job = cluster_job()
    credentials = derive(bytes(32), JobIdentity.of(job), 0, "cluster.local")
    made = built(job, credentials=credentials)
    assert made.credentials is not None

    def seen(workload: Document) -> dict[str, bytes]:
        (volume,) = [each for each in pod(workload)["volumes"] if each["name"] == "credentials"]
        assert volume["secret"]["secretName"] == made.credentials["metadata"]["name"]  # type: ignore[index]
        data = made.credentials["data"]  # type: ignore[index]
        return {
            item["path"]: base64.b64decode(data[item["key"]]) for item in volume["secret"]["items"]
        }

    for workload, pair in ((made.learner, credentials.learner), (made.actors, credentials.actor)):
        assert seen(workload) == {
            "ca.crt": credentials.authorities,
            "tls.crt": pair.certificate,
            "tls.key": pair.key,
            "token": credentials.token.encode(),
        }


def test_a_root_key_comes_back_from_its_secret() -> None:
    key = bytes(range(32))
    secret = root_secret(SETTINGS, key)
    assert secret["metadata"]["namespace"] == "vaco-system"
    assert read_root_key(secret) == key


@pytest.mark.parametrize("data", [None, {}, {"key": "?"}, {"key": base64.b64encode(b"k").decode()}])
def test_a_secret_without_a_root_key_is_refused(data: Document | None) -> None:
    secret = {**root_secret(SETTINGS, bytes(32)), "data": data}
    with pytest.raises(UserError, match=r"vaco-operator-root, data\.key"):
        read_root_key(secret)


# The learner's Job.


def test_how_the_learners_pod_ends_decides_what_follows(cluster_job: MakeJob) -> None:
    spec = learner_of(cluster_job(backoffLimit=2))["spec"]
    assert spec["backoffLimit"] == 2
    assert spec["podReplacementPolicy"] == "Failed"
    rules = [
        (rule["action"], rule.get("onExitCodes", {}).get("values"))
        for rule in spec["podFailurePolicy"]["rules"]
    ]
    assert rules == [("Ignore", None), ("FailJob", [3]), ("Ignore", [143])]


def test_the_service_finds_the_learner_of_the_newest_attempt_only(cluster_job: MakeJob) -> None:
    """Case 15: a learner that comes back from a lost node is not found any more."""
    first, second = built(cluster_job()), built(cluster_job(), attempt=2)

    def finds(service: Document, workload: Document) -> bool:
        labels = workload["spec"]["template"]["metadata"]["labels"]
        return bool(service["spec"]["selector"].items() <= labels.items())

    assert finds(second.service, second.learner)
    assert not finds(second.service, first.learner)
    assert not finds(second.service, second.actors)
    assert second.learner["metadata"]["labels"]["training.vaco.dev/attempt"] == "2"


@pytest.mark.parametrize(("label", "attempt"), [("3", 3), ("", 0), ("-1", 0), ("x", 0), (None, 0)])
def test_the_attempt_is_read_from_what_nobody_can_edit(
    cluster_job: MakeJob, label: str | None, attempt: int
) -> None:
    live = learner_of(cluster_job())
    live["metadata"]["labels"]["training.vaco.dev/attempt"] = "9"
    live["spec"]["template"]["metadata"]["labels"]["training.vaco.dev/attempt"] = label
    assert live_attempt(live) == attempt


@pytest.mark.parametrize(
    ("storage", "volume", "claims"),
    [
        (None, {"emptyDir": {}}, 0),
        ({}, {"persistentVolumeClaim": {"claimName": "cartpole-checkpoints"}}, 1),
        ({"claimName": "mine"}, {"persistentVolumeClaim": {"claimName": "mine"}}, 0),
    ],
)
def test_checkpoints_are_where_the_job_says(
    cluster_job: MakeJob, storage: Document | None, volume: Document, claims: int
) -> None:
    job = cluster_job(learner={"storage": storage})
    made = built(job)
    (found,) = [each for each in pod(made.learner)["volumes"] if each["name"] == "run"]
    assert found == {"name": "run", **volume}
    assert (made.volume_claim is not None) == bool(claims)


def test_a_claim_of_the_users_is_shared_with_others(cluster_job: MakeJob) -> None:
    def place(metadata: Document | None) -> str:
        learner = learner_of(cluster_job(metadata, learner={"storage": {"claimName": "mine"}}))
        (mount,) = [m for m in program(learner)["volumeMounts"] if m["name"] == "run"]
        return str(mount["subPath"])

    assert place(None) != place({"uid": "another"}), "a namesake is another job"
    assert place(None) != place({"name": "another"})


@pytest.mark.parametrize(
    ("size", "live", "asked"),
    [
        ("10Gi", "20Gi", "20Gi"),
        ("20Gi", "10Gi", "20Gi"),
        ("1Gi", "1024Mi", "1Gi"),
        ("20G", "20Gi", "20Gi"),
        ("500M", "0.5Gi", "0.5Gi"),
        ("10Gi", "2e10", "2e10"),
        ("1.5Ti", "1536000000000m", "1.5Ti"),
        ("1E", "2E", "2E"),
    ],
)
def test_a_claim_that_was_grown_by_hand_is_not_asked_to_shrink(
    cluster_job: MakeJob, size: str, live: str, asked: str
) -> None:
    job = cluster_job(learner={"storage": {"size": size}})
    there = {"spec": {"resources": {"requests": {"storage": live}}}}
    claim = built(job, live_claim=there).volume_claim
    assert claim is not None
    assert claim["spec"]["resources"]["requests"]["storage"] == asked


def test_a_claim_is_made_as_it_is_asked_for(cluster_job: MakeJob) -> None:
    storage = {"size": "1Gi", "storageClassName": "fast", "accessMode": "ReadWriteOncePod"}
    claim = built(cluster_job(learner={"storage": storage})).volume_claim
    assert claim is not None
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOncePod"],
        "resources": {"requests": {"storage": "1Gi"}},
        "storageClassName": "fast",
    }
    default = built(cluster_job(learner={"storage": {}})).volume_claim
    assert default is not None
    assert "storageClassName" not in default["spec"], "an empty class would be no class"


# The actors' Deployment.


def test_an_actor_goes_to_its_learner_by_the_name_of_its_certificate(cluster_job: MakeJob) -> None:
    command = program(built(cluster_job()).actors)["command"]
    assert command[command.index("--learner") + 1] == "cartpole-learner.research.svc:7600"


def test_an_actor_has_time_to_drain(cluster_job: MakeJob) -> None:
    made = built(cluster_job(actors={"drainSeconds": 45.5}))
    assert pod(made.actors)["terminationGracePeriodSeconds"] >= 46 + 5


def test_a_rollout_of_actors_never_makes_more_than_decided(cluster_job: MakeJob) -> None:
    assert built(cluster_job()).actors["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0
    locked = built(cluster_job(synchronous=True)).actors["spec"]
    assert locked["strategy"] == {"type": "Recreate"}


def test_autoscalers_may_move_actors_but_not_the_learner(cluster_job: MakeJob) -> None:
    made = built(cluster_job())
    evictable = "cluster-autoscaler.kubernetes.io/safe-to-evict"
    learner = made.learner["spec"]["template"]["metadata"]["annotations"]
    actors = made.actors["spec"]["template"]["metadata"]["annotations"]
    assert (learner[evictable], actors[evictable]) == ("false", "true")
    assert learner["karpenter.sh/do-not-disrupt"] == "true"
    assert "karpenter.sh/do-not-disrupt" not in actors


# Pods: settings, resources, the user's template.


def test_pods_are_made_with_the_operators_settings(cluster_job: MakeJob) -> None:
    settings = replace(SETTINGS, image_pull_policy="Never", image_pull_secrets=("registry",))
    made = built(cluster_job(), settings)
    assert program(made.learner)["image"] == "learner:1"
    assert program(made.actors)["image"] == "actor:1"
    for workload in (made.learner, made.actors):
        assert program(workload)["imagePullPolicy"] == "Never"
        assert pod(workload)["imagePullSecrets"] == [{"name": "registry"}]
    assert "imagePullPolicy" not in program(built(cluster_job()).learner)
    assert "imagePullSecrets" not in pod(built(cluster_job()).learner)


def test_threads_of_the_spec_are_requested_and_obeyed(cluster_job: MakeJob) -> None:
    made = built(cluster_job(learner={"threads": 4}, actors={"threads": 2}))
    for workload, threads in ((made.learner, "4"), (made.actors, "2")):
        assert program(workload)["resources"]["requests"]["cpu"] == threads
        assert environment(workload)["OMP_NUM_THREADS"] == threads


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"requests": {"cpu": "1", "memory": "2Gi"}}),
        (
            {"limits": {"nvidia.com/gpu": 1}},
            {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"nvidia.com/gpu": 1}},
        ),
        # A request of ours above the user's limit would be refused.
        (
            {"limits": {"memory": "1Gi"}},
            {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}},
        ),
        ({"requests": {"cpu": 8}}, {"requests": {"cpu": 8, "memory": "2Gi"}}),
        (
            {"requests": {"cpu": "500m"}, "limits": {"cpu": 1, "memory": "4Gi"}},
            {"requests": {"cpu": "500m"}, "limits": {"cpu": 1, "memory": "4Gi"}},
        ),
    ],
)
def test_requests_are_ours_only_where_the_user_says_nothing(
    cluster_job: MakeJob, given: Document, expected: Document
) -> None:
    template = {"spec": {"containers": [{"name": "learner", "resources": given}]}}
    learner = learner_of(cluster_job(learner={"podTemplate": template}))
    assert program(learner)["resources"] == expected


def test_resources_of_the_whole_pod_take_the_place_of_the_containers(cluster_job: MakeJob) -> None:
    template = {"spec": {"resources": {"limits": {"cpu": "500m"}}}}
    learner = learner_of(cluster_job(learner={"podTemplate": template}))
    assert "resources" not in program(learner)


def test_a_gpu_is_the_users_to_ask_for(cluster_job: MakeJob) -> None:
    template = {"spec": {"runtimeClassName": "nvidia", **GPU}}
    learner = learner_of(cluster_job(learner={"podTemplate": template, "device": "cuda"}))
    assert pod(learner)["runtimeClassName"] == "nvidia"
    assert program(learner)["resources"]["limits"] == {"nvidia.com/gpu": 1}
    assert "nvidia" not in str(learner_of(cluster_job(learner={"device": "cuda"})))


def test_the_users_template_cannot_hide_a_pod_or_change_how_it_ends(cluster_job: MakeJob) -> None:
    stolen = {
        "app.kubernetes.io/component": "learner",
        "training.vaco.dev/job": "another",
        "training.vaco.dev/attempt": "7",
        "team": "rl",
    }
    forged = {"training.vaco.dev/spec-hash": "0", "training.vaco.dev/template-hash": "0"}
    template = {
        "metadata": {"labels": stolen, "annotations": forged},
        "spec": {"restartPolicy": "OnFailure"},
    }
    job = cluster_job(learner={"podTemplate": template}, actors={"podTemplate": template})
    made = built(job)
    labels = made.actors["spec"]["template"]["metadata"]["labels"]
    assert labels["team"] == "rl"
    assert child_labels("cartpole", "actor").items() <= labels.items()
    assert made.actors["spec"]["selector"]["matchLabels"].items() <= labels.items()
    learner = made.learner["spec"]["template"]["metadata"]["labels"]
    assert learner["training.vaco.dev/attempt"] == "1"
    assert pod(made.learner)["restartPolicy"] == "Never"
    assert pod(made.actors)["restartPolicy"] == "Always"
    assert live_spec_hash(made.learner) == spec_hash(job, "learner")


def test_a_template_that_cannot_be_merged_names_its_field(cluster_job: MakeJob) -> None:
    job = cluster_job(actors={"podTemplate": {"spec": {"securityContext": "none"}}})
    with pytest.raises(UserError, match=r"spec\.actors\.podTemplate\.spec\.securityContext"):
        built(job)


def test_the_selector_of_the_status_is_the_deployments(cluster_job: MakeJob) -> None:
    labels = built(cluster_job()).actors["spec"]["selector"]["matchLabels"]
    assert actor_selector("cartpole") == ",".join(f"{k}={v}" for k, v in labels.items())


# Case 7: only the operator is upgraded.


def defaulted(workload: Document) -> Document:
    """As the API server has it: with fields that nobody wrote."""
    live = deepcopy(workload)
    live["spec"]["template"]["spec"]["dnsPolicy"] = "ClusterFirst"
    return live


def test_case_07_a_newer_operator_keeps_the_pods_of_the_older_one(cluster_job: MakeJob) -> None:
    old = built(cluster_job())
    live_learner, live_actors = defaulted(old.learner), defaulted(old.actors)
    new = built(cluster_job(), NEWER, live_learner=live_learner, live_actors=live_actors)
    assert new.learner["spec"]["template"] == live_learner["spec"]["template"]
    assert new.actors["spec"]["template"] == live_actors["spec"]["template"]
    again = built(cluster_job(), NEWER, live_learner=live_learner, live_actors=live_actors)
    assert again == new


def test_case_07_a_newer_operator_does_not_make_kubernetes_labels_its_own(
    cluster_job: MakeJob,
) -> None:
    # The older one, back again, would take them away with its next apply, and be refused.
    live = defaulted(built(cluster_job()).learner)
    before = dict(live["spec"]["template"]["metadata"]["labels"])
    for name in ("controller-uid", "job-name"):
        live["spec"]["template"]["metadata"]["labels"] |= {
            name: "x",
            f"batch.kubernetes.io/{name}": "x",
        }
    new = built(cluster_job(), NEWER, live_learner=live)
    assert new.learner["spec"]["template"]["metadata"]["labels"] == before


def test_case_07_a_newer_operator_keeps_what_can_never_change_in_a_job(
    cluster_job: MakeJob,
) -> None:
    live = defaulted(built(cluster_job()).learner)
    live["spec"]["podFailurePolicy"]["rules"].pop()
    del live["spec"]["podReplacementPolicy"]
    new = built(cluster_job(), NEWER, live_learner=live).learner["spec"]
    assert new["podFailurePolicy"] == live["spec"]["podFailurePolicy"]
    assert "podReplacementPolicy" not in new
    assert new["completions"] == 1


def test_case_07_an_upgraded_operator_scales_and_suspends_the_pods_it_keeps(
    cluster_job: MakeJob,
) -> None:
    old = built(cluster_job())
    new = built(
        cluster_job(),
        NEWER,
        replicas=5,
        suspended=True,
        live_learner=defaulted(old.learner),
        live_actors=defaulted(old.actors),
    )
    assert new.actors["spec"]["replicas"] == 5
    assert new.learner["spec"]["suspend"]
    assert program(new.actors)["image"] == "actor:1"


def test_case_02_what_others_changed_in_a_template_of_this_operator_is_reverted(
    cluster_job: MakeJob,
) -> None:
    made = built(cluster_job())
    live = defaulted(made.actors)
    program(live)["image"] = "edited"
    again = built(cluster_job(), live_learner=defaulted(made.learner), live_actors=live)
    assert program(again.actors)["image"] == "actor:1"


def test_case_07_a_changed_template_of_the_users_takes_the_new_images_too(
    cluster_job: MakeJob,
) -> None:
    old = built(cluster_job())
    job = cluster_job(actors={"podTemplate": {"metadata": {"labels": {"team": "rl"}}}})
    new = built(job, NEWER, live_learner=defaulted(old.learner), live_actors=defaulted(old.actors))
    assert program(new.actors)["image"] == "actor:2"
    assert program(new.learner)["image"] == "learner:1"


@pytest.mark.parametrize("live_learner", [True, False], ids=["attempt 1", "none"])
def test_case_07_a_learner_that_is_made_anew_brings_actors_of_its_release(
    cluster_job: MakeJob, live_learner: bool
) -> None:
    old = built(cluster_job())
    new = built(
        cluster_job(),
        NEWER,
        attempt=2 if live_learner else 1,
        live_learner=defaulted(old.learner) if live_learner else None,
        live_actors=defaulted(old.actors),
    )
    assert program(new.learner)["image"] == "learner:2"
    assert program(new.actors)["image"] == "actor:2"


def test_a_spec_that_only_the_program_reads_rolls_its_pods_too(cluster_job: MakeJob) -> None:
    """The ConfigMap is read at the start only, so the pods must start again."""
    before, after = built(cluster_job()), built(cluster_job(rollout={"fragmentLength": 32}))
    assert before.actors["spec"]["template"] != after.actors["spec"]["template"]
    assert before.learner["spec"]["template"] != after.learner["spec"]["template"]
