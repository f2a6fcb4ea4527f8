"""Cases 1 to 7 of operator-cases.md: children are as the job wants them, and only they change."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from kube_harness.simulated import PENDING
from operator_harness import jobs

if TYPE_CHECKING:
    from operator_harness.stage import Field

pytestmark = pytest.mark.cluster

CHILDREN = (
    ("ConfigMap", "pole-job"),
    ("Secret", "pole-credentials"),
    ("Service", "pole-learner"),
    ("NetworkPolicy", "pole-learner"),
    ("NetworkPolicy", "pole-actors"),
    ("Job", "pole-learner"),
    ("Deployment", "pole-actors"),
)


def test_case_01_a_valid_job_gets_its_children_and_a_status(field: Field) -> None:
    job = field.create(actors={"replicas": 2, "maxReplicas": 4})
    field.wait_for_pods("learner", 1)
    field.wait_for_pods("actor", 2)
    for kind, name in CHILDREN:
        child = field.get(kind, name)
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"]) == (job["metadata"]["uid"], True)
        assert owner["blockOwnerDeletion"] is True
        assert child["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "vaco-operator"
    status = field.wait_for_status("the learner is waited for", lambda s: s["phase"] == "Starting")
    generation = job["metadata"]["generation"]
    assert status["observedGeneration"] == generation
    assert {c["observedGeneration"] for c in status["conditions"]} == {generation}
    assert len({c["type"] for c in status["conditions"]}) == 7
    assert status["attempt"] == 1
    scale = json.loads(field.api.request("GET", f"{_path(field)}/scale"))
    assert scale["spec"]["replicas"] == 2
    assert scale["status"]["selector"].endswith("training.vaco.dev/job=pole")
    field.wait("it is told", lambda: field.told("LearnerStarted"))
    assert [e["reason"] for e in field.events()] == ["Started", "NoStorage", "LearnerStarted"]


@pytest.mark.parametrize(
    ("kind", "name", "field_path", "ours", "edited"),
    [
        ("Service", "pole-learner", ("spec", "publishNotReadyAddresses"), True, False),
        ("ConfigMap", "pole-job", ("metadata", "labels", "training.vaco.dev/job"), "pole", None),
        (
            "NetworkPolicy",
            "pole-actors",
            ("spec", "policyTypes"),
            ["Ingress", "Egress"],
            ["Egress"],
        ),
        ("Deployment", "pole-actors", ("spec", "replicas"), 1, 5),
    ],
)
def test_case_02_what_is_edited_by_hand_is_reverted_and_foreign_fields_survive(
    field: Field, kind: str, name: str, field_path: tuple[str, ...], ours: Any, edited: Any
) -> None:
    field.create()
    field.wait_for_pods("actor", 1)
    foreign = {"metadata": {"labels": {"team": "rl"}, "annotations": {"note": "mine"}}}
    field.patch(kind, name, foreign)
    change: Any = edited
    for step in reversed(field_path):
        change = {step: change}
    field.patch(kind, name, change)

    def value() -> Any:
        found: Any = field.get(kind, name)
        for step in field_path:
            found = found.get(step)
        return found

    field.wait("the edit is reverted", lambda: value() == ours)
    metadata = field.get(kind, name)["metadata"]
    assert metadata["labels"]["team"] == "rl"
    assert metadata["annotations"]["note"] == "mine"


@pytest.mark.parametrize(
    ("label", "edited"),
    [
        ("training.vaco.dev/attempt", "7"),
        ("training.vaco.dev/job", None),
        ("app.kubernetes.io/managed-by", None),
    ],
)
def test_case_02_labels_of_the_learners_job_come_back_and_its_pod_goes_on(
    field: Field, label: str, edited: str | None
) -> None:
    field.create()
    before = field.wait_for_pods("learner", 1)
    ours = field.get("Job", "pole-learner")["metadata"]["labels"][label]
    field.patch("Job", "pole-learner", {"metadata": {"labels": {label: edited}}})

    def reverted() -> bool:
        labels: dict[str, str] = field.get("Job", "pole-learner")["metadata"]["labels"]
        return labels.get(label) == ours

    field.wait("the label is back", reverted)
    assert field.wait_for_pods("learner", 1) == before
    selector = field.get("Service", "pole-learner")["spec"]["selector"]
    assert selector["training.vaco.dev/attempt"] == "1"


@pytest.mark.parametrize(("kind", "name"), CHILDREN)
def test_case_02_a_deleted_child_is_made_again(field: Field, kind: str, name: str) -> None:
    field.create()
    field.wait_for_pods("learner", 1)
    field.wait("the child is made", lambda: field.find(kind, name) is not None)
    before = field.get(kind, name)["metadata"]["uid"]
    field.delete(kind, name)
    if kind == "Secret":
        # The operator cannot see Secrets: a pod that waits is what makes it look.
        waits = {"metadata": {"annotations": {PENDING: "true"}}}
        field.change(actors={"podTemplate": waits})

    def again() -> bool:
        child = field.find(kind, name)
        return child is not None and child["metadata"]["uid"] != before

    field.wait("it is made again", again, seconds=70)
    if kind == "Job":
        # Another Job is another attempt, which waits until nothing is left of the one before.
        labels = field.get(kind, name)["metadata"]["labels"]
        assert labels["training.vaco.dev/attempt"] == "2"
        field.wait_for_status("the attempt is told", lambda s: s["attempt"] == 2)
        assert len(field.wait_for_pods("learner", 1)) == 1


@pytest.fixture
def growing(field: Field) -> Iterator[str]:
    """A storage class whose claims may grow, with one volume."""
    metadata = {"name": f"{field.namespace}-grows"}
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": metadata,
        "provisioner": "kubernetes.io/no-provisioner",
        "allowVolumeExpansion": True,
    }
    volume = {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": metadata,
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "10Gi"},
            "storageClassName": metadata["name"],
            "hostPath": {"path": "/nowhere"},
        },
    }
    for each in (storage_class, volume):
        field.api.create(each)
    try:
        yield metadata["name"]
    finally:
        for each in (volume, storage_class):
            field.api.delete(each["apiVersion"], each["kind"], metadata["name"])


def test_case_02_a_claim_that_was_grown_by_hand_is_left_so_and_grows_with_the_spec(
    field: Field, growing: str
) -> None:
    field.create(learner={"storage": {"size": "10Gi", "storageClassName": growing}})
    claim = ("PersistentVolumeClaim", "pole-checkpoints")
    field.wait_for_pods("learner", 1)
    field.wait("it is bound", lambda: field.get(*claim)["status"]["phase"] == "Bound")

    def size() -> str:
        asked: str = field.get(*claim)["spec"]["resources"]["requests"]["storage"]
        return asked

    field.patch(*claim, {"spec": {"resources": {"requests": {"storage": "20Gi"}}}})
    field.wait_until_at_rest()
    assert size() == "20Gi"
    refusals = {"InvalidChild", "Forbidden"}
    assert refusals.isdisjoint(event["reason"] for event in field.events())
    assert refusals.isdisjoint(c["reason"] for c in field.status()["conditions"])

    field.change(learner={"storage": {"size": "30Gi"}})
    field.wait("it grows", lambda: size() == "30Gi")


def test_case_03_the_same_manifest_applied_a_hundred_times_writes_no_child(field: Field) -> None:
    manifest = jobs.job("pole", field.namespace, actors={"replicas": 2, "maxReplicas": 4})
    field.api.apply(manifest, manager="kubectl")
    double = field.stage.doubles.of(field.api, field.job())
    names = field.wait_for_pods("actor", 2)
    field.wait_for_pods("learner", 1)
    # For one that does not answer the Secret would be written again.
    double.train(*names, version=1)
    field.wait_for_status("both actors are heard of", lambda s: s["actors"]["ready"] == 2)
    field.wait_for_status("all is said", lambda s: "held" in s["scaling"]["lastReason"])
    since = field.wait_until_at_rest()
    versions = {child: field.get(*child)["metadata"]["resourceVersion"] for child in CHILDREN}
    generation = field.job()["metadata"]["generation"]
    for _ in range(100):
        field.api.apply(manifest, manager="kubectl", force=True)
    assert field.job()["metadata"]["generation"] == generation
    # What the operator makes of a change comes after the change: a last one shows it has seen all.
    field.change(backoffLimit=7)
    field.wait_for_status("the last is seen", lambda s: s["observedGeneration"] == generation + 1)
    last = [("patch", "jobs"), ("patch", "vacojobs/status")]

    def written() -> list[tuple[str, str]]:
        return sorted((e.verb, e.resource) for e in field.asked(since) if e.writes)

    field.wait("the last is in the audit log", lambda: last[-1] in written())
    assert written() == last
    for kind, name in CHILDREN:
        if kind not in ("ConfigMap", "Job", "Deployment"):
            version = field.get(kind, name)["metadata"]["resourceVersion"]
            assert version == versions[kind, name], kind


def test_case_03_nothing_is_asked_for_a_job_at_rest(field: Field) -> None:
    double, _ = field.training(actors=2)
    field.wait_for_status("all is said", lambda s: "held" in s["scaling"]["lastReason"])
    since = field.wait_until_at_rest()
    before = double.asked
    field.wait("the learner is asked again and again", lambda: double.asked > before + 20)
    assert field.asked(since) == []


def test_case_04_a_deleted_actor_is_replaced_by_exactly_one(field: Field) -> None:
    field.create(actors={"replicas": 3})
    before = field.wait_for_pods("actor", 3)
    field.delete("Pod", before[0])
    field.wait("it is gone", lambda: field.find("Pod", before[0]) is None)
    after = field.wait_for_pods("actor", 3)
    assert set(before[1:]) < set(after)
    assert before[0] not in after


def test_case_05_bounds_that_move_while_it_runs_move_the_count(field: Field) -> None:
    _, names = field.training(actors=4)
    field.change(actors={"maxReplicas": 2})
    left = field.wait_for_pods("actor", 2)
    assert set(left) < set(names)
    field.change(actors={"minReplicas": 3, "maxReplicas": 5})
    assert set(left) < set(field.wait_for_pods("actor", 3))
    status = field.wait_for_status("both are counted", lambda s: s["scaling"]["events"] == 2)
    assert status["actors"]["desired"] == 3
    assert "outside of 3 to 5" in status["scaling"]["lastReason"]
    assert field.told("ScaledDown")["message"].startswith("Actors 4 -> 2")
    assert field.told("ScaledUp")["message"].startswith("Actors 2 -> 3")


@pytest.mark.parametrize(("asked", "gets", "limit"), [(0, 2, "MinReplicas"), (9, 4, "MaxReplicas")])
def test_case_06_scale_beyond_the_bounds_is_held_to_them_and_told(
    field: Field, asked: int, gets: int, limit: str
) -> None:
    field.training(actors=3)
    field.change(actors={"minReplicas": 2, "maxReplicas": 4})
    body = {"spec": {"replicas": asked}}
    merge = "application/merge-patch+json"
    field.api.request("PATCH", f"{_path(field)}/scale", body, content_type=merge)
    field.wait_for_pods("actor", gets)
    condition = field.wait_for_condition("ScalingLimited", reason=limit)
    assert f"asked for {asked}, limited to {gets}" in condition["message"]
    assert field.status()["scaling"]["requested"] == asked


def test_case_07_an_actors_template_is_rolled_out_and_the_learner_stays(field: Field) -> None:
    _, names = field.training(actors=2)
    learner = field.wait_for_pods("learner", 1)
    field.change(actors={"podTemplate": {"spec": {"hostname": "a"}}})

    def rolled() -> bool:
        pods = field.pods("actor", going=True)
        return len(pods) == 2 and all(p["spec"].get("hostname") == "a" for p in pods)

    field.wait("all actors are of the new template", rolled)
    assert not set(names) & set(field.wait_for_pods("actor", 2))
    assert field.wait_for_pods("learner", 1) == learner


def test_case_07_a_learners_template_makes_a_new_attempt_after_the_one_before_is_gone(
    field: Field,
) -> None:
    _, names = field.training(actors=2)
    (before,) = field.wait_for_pods("learner", 1)
    field.change(learner={"podTemplate": {"spec": {"hostname": "b"}}})
    status = field.wait_for_status("a new attempt is made", lambda s: s["attempt"] == 2)
    assert status["phase"] in ("Pending", "Starting")
    assert field.find("Pod", before) is None
    (after,) = field.wait_for_pods("learner", 1)
    pod = field.get("Pod", after)
    assert pod["spec"]["hostname"] == "b"
    assert pod["metadata"]["labels"]["training.vaco.dev/attempt"] == "2"
    selector = field.get("Service", "pole-learner")["spec"]["selector"]
    assert selector["training.vaco.dev/attempt"] == "2"
    assert names == field.wait_for_pods("actor", 2)


def test_case_07_another_version_of_the_operator_restarts_no_pod(field: Field) -> None:
    stage = field.stage
    _, names = field.training(actors=2)
    learner = field.wait_for_pods("learner", 1)
    assert stage.operator.stop() == 0
    stage.operator = stage.start(**{"learner-image": "learner:2", "actor-image": "actor:2"})
    # It has looked at the job when it has acted on a change.
    field.change(backoffLimit=9)
    field.wait(
        "the change is made",
        lambda: field.get("Job", "pole-learner")["spec"]["backoffLimit"] == 9,
    )
    assert field.wait_for_pods("learner", 1) == learner
    assert field.wait_for_pods("actor", 2) == names
    deployment = field.get("Deployment", "pole-actors")
    assert deployment["metadata"]["generation"] == 1
    field.change(actors={"podTemplate": {"spec": {"hostname": "c"}}})

    def renewed() -> bool:
        pods = field.pods("actor", going=True)
        images = {pod["spec"]["containers"][0]["image"] for pod in pods}
        return images == {"actor:2"}

    field.wait("a rollout of the user's brings the new version", renewed)


def _path(field: Field) -> str:
    return field.api.path("training.vaco.dev/v1alpha1", "VACOJob", "pole", field.namespace)
