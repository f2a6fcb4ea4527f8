"""Cases 10 to 15 of operator-cases.md, as far as no container is needed: what fails, is refused,
dies or belongs to somebody else, and what the job says of it.

What kubelets would report of simulated pods (images that are not there, restarts) is written into
their status by the tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from kube_harness.simulated import EXIT_CODE, LAST_WORDS, PENDING, STUCK, UNREADY
from operator_harness.jobs import KIND, install_definition
from vaco.job import API_VERSION
from vaco_operator.crd.definition import custom_resource_definition

if TYPE_CHECKING:
    from operator_harness.audit import Entry
    from operator_harness.stage import Field, Stage

pytestmark = pytest.mark.cluster

Document = dict[str, Any]


@pytest.fixture(scope="module", autouse=True)
def dead_node(stage: Stage) -> Iterator[tuple[Field, str]]:
    """A learner whose node died: it is told to go, and stays. Begun first: it takes a minute."""
    from operator_harness.stage import Field

    namespace = "test-dead-node"
    stage.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}})
    field = Field(stage, namespace)
    field.wait(
        "it has an account", lambda: stage.api.find("v1", "ServiceAccount", "default", namespace)
    )
    field.create(backoffLimit=0)
    (pod,) = field.wait_for_pods("learner", 1)
    field.annotate(pod, **{STUCK: "true"})
    path = field.api.path("v1", "Pod", pod, namespace)
    field.api.request("DELETE", path, {"gracePeriodSeconds": 1})
    yield field, pod
    stage.api.delete("v1", "Namespace", namespace)


# What is refused.


def test_case_10_a_quota_that_refuses_a_child_is_told_and_heals_when_raised(field: Field) -> None:
    field.limit(services="0")
    field.create()
    condition = field.wait_for_condition("Progressing", "False", reason="QuotaExceeded")
    assert "exceeded quota: small" in condition["message"]
    assert "services=0" in condition["message"]
    assert field.find("Job", "pole-learner") is None
    assert field.status()["message"] == condition["message"]
    event = field.wait("it is told", lambda: field.told("QuotaExceeded"))
    assert event["type"] == "Warning"
    field.limit(services="5")
    field.wait_for_pods("learner", 1)
    field.wait_for_condition("Progressing", "True")
    assert len([e for e in field.events() if e["reason"] == "QuotaExceeded"]) == 1


def test_case_10_a_quota_that_refuses_pods_is_told_and_heals_when_raised(field: Field) -> None:
    field.limit(pods="0")
    field.create(actors={"replicas": 2})
    for kind, truth in (("LearnerAvailable", "False"), ("ScalingLimited", "True")):
        condition = field.wait_for_condition(kind, truth, reason="QuotaExceeded")
        assert "exceeded quota: small" in condition["message"]
    field.wait("it is told", lambda: field.told("QuotaExceeded"))
    field.limit(pods="10")
    # How soon is up to the controllers of Jobs and ReplicaSets, which back off.
    field.wait_for_pods("learner", 1)
    field.wait_for_pods("actor", 2)
    field.wait_for_condition("ScalingLimited", "False")
    field.wait_for_condition("Progressing", "True")


def test_case_10_a_bad_image_fails_the_job_at_its_start_deadline_in_the_kubelets_words(
    field: Field,
) -> None:
    waits = {"metadata": {"annotations": {PENDING: "true"}}}
    field.create(startDeadlineSeconds=6, learner={"podTemplate": waits})
    pod = field.wait("the learner's pod is made", lambda: field.pods("learner"))[0]
    words = 'Back-off pulling image "vaco-learner:test": not found'
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": words}}
    container = {
        "name": "learner", "image": "vaco-learner:test", "imageID": "", "ready": False,
        "restartCount": 0, "state": waiting,
    }  # fmt: skip
    field.patch_status("Pod", pod["metadata"]["name"], {"containerStatuses": [container]})
    field.wait_for_condition("LearnerAvailable", "False", reason="ImagePullBackOff")
    condition = field.wait_for_condition("Failed", reason="StartDeadlineExceeded")
    assert words in condition["message"]
    # No endless loop: nothing of it is left, and nothing comes back.
    field.wait("its pods are gone", lambda: not field.pods("learner") and not field.pods("actor"))
    since = field.wait_until_at_rest()
    assert [e for e in field.asked(since) if e.writes] == []


@pytest.mark.parametrize("kind", ["ConfigMap", "Secret", "Service", "Deployment"])
def test_what_belongs_to_somebody_else_is_never_touched_and_named(field: Field, kind: str) -> None:
    name, foreign = _FOREIGN[kind]
    api_version = {"Deployment": "apps/v1"}.get(kind, "v1")
    metadata = {"name": name, "namespace": field.namespace}
    since = datetime.now(UTC)
    there = field.api.create(
        {"apiVersion": api_version, "kind": kind, "metadata": metadata, **foreign}
    )
    field.create()
    condition = field.wait_for_condition("Progressing", "False", reason="NameConflict")
    assert f"{kind} {name} exists and does not belong to this VACOJob" in condition["message"]
    field.wait("it is told", lambda: field.told("NameConflict"))
    if kind == "Secret":
        field.wait("it was tried three times", lambda: len(_writes(field, "secrets", since)) >= 3)
        assert field.condition("Progressing")["reason"] == "NameConflict"
    if kind != "Deployment":
        assert field.find("Job", "pole-learner") is None
    found = field.get(kind, name)
    assert "ownerReferences" not in found["metadata"]
    assert [m["manager"] for m in found["metadata"]["managedFields"]].count("vaco-operator") == 0
    assert found["metadata"]["uid"] == there["metadata"]["uid"]
    field.delete(kind, name)
    field.wait_for_pods("learner", 1)
    field.wait_for_pods("actor", 1)
    field.wait_for_condition("Progressing", "True")


def _writes(field: Field, resource: str, since: datetime) -> list[Entry]:
    return [e for e in field.asked(since) if e.writes and e.resource == resource]


_FOREIGN: dict[str, tuple[str, Document]] = {
    "ConfigMap": ("pole-job", {"data": {"a": "b"}}),
    "Secret": ("pole-credentials", {"type": "Opaque", "data": {"a": "Yg=="}}),
    "Service": ("pole-learner", {"spec": {"ports": [{"port": 80}]}}),
    "Deployment": (
        "pole-actors",
        {
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": {"app": "other"}},
                "template": {
                    "metadata": {"labels": {"app": "other"}},
                    "spec": {"containers": [{"name": "c", "image": "c"}]},
                },
            }
        },
    ),
}


def test_a_spec_of_a_newer_version_is_told_by_field_and_heals(field: Field) -> None:
    stage = field.stage
    # A watch that was begun before a definition changed tells what the old one knows.
    stage.operator.stop()
    definition = custom_resource_definition()
    (version,) = definition["spec"]["versions"]
    spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
    spec["novelty"] = {"type": "integer", "default": 1}
    spec["cleanPodPolicy"]["enum"].append("Some")
    field.api.apply(definition, manager="test", force=True)
    try:
        field.wait("the field is served", lambda: _accepts_novelty(field))
        field.create(cleanPodPolicy="Some")
        stage.operator = stage.start()
        condition = field.wait_for_condition("Progressing", "False", reason="InvalidSpec")
        assert "`spec.cleanPodPolicy`" in condition["message"]
        assert field.find("ConfigMap", "pole-job") is None
        assert field.status()["phase"] == "Pending"
        field.change(cleanPodPolicy="All")
        # A field that this operator does not know is none of its business.
        assert field.job()["spec"]["novelty"] == 1
        field.wait_for_pods("learner", 1)
    finally:
        install_definition(field.api)
    assert stage.operator.exit_status is None


def _accepts_novelty(field: Field) -> bool:
    metadata = {"name": "probe", "namespace": field.namespace}
    task = {"task": {"environment": "CartPole-v1"}, "stop": {"envSteps": 1}, "novelty": 1}
    probe = {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": task}
    path = field.api.path(API_VERSION, KIND, "", field.namespace)
    return "novelty" in field.api.request("POST", path, probe, query={"dryRun": "All"})


# How a learner ends.


def _words(field: Field, **said: Any) -> str:
    return json.dumps({"jobUid": field.job()["metadata"]["uid"], "incarnation": "1", **said})


def test_a_learner_that_reaches_its_end_completes_the_job_with_its_last_words(
    field: Field,
) -> None:
    field.training(actors=2)
    (pod,) = field.wait_for_pods("learner", 1)
    said = _words(
        field, version="40", envSteps="100000", returnMean=480.5, message="all steps are trained",
        phase="LEARNER_PHASE_COMPLETE",
    )  # fmt: skip
    field.annotate(pod, **{EXIT_CODE: "0", LAST_WORDS: said})
    condition = field.wait_for_condition("Complete")
    assert condition["reason"] == "StopConditionReached"
    status = field.status()
    assert (status["phase"], status["version"], status["envSteps"]) == ("Complete", 40, 100000)
    assert status["message"] == "all steps are trained"
    field.wait("the actors are gone", lambda: not field.pods("actor", going=True))
    event = field.wait("it is told", lambda: field.told("Completed"))
    assert "100000 environment steps with a mean return of 480.5" in event["message"]


def test_a_learner_that_can_never_succeed_fails_the_job_with_its_own_message(
    field: Field,
) -> None:
    field.create()
    (pod,) = field.wait_for_pods("learner", 1)
    said = _words(field, phase="LEARNER_PHASE_FAILED", message="`spec.policy`: fits no such task.")
    field.annotate(pod, **{EXIT_CODE: "3", LAST_WORDS: said})
    condition = field.wait_for_condition("Failed", reason="PermanentFailure")
    assert (
        condition["message"] == "learner ended (exit status 3): `spec.policy`: fits no such task."
    )
    field.wait("the actors are gone", lambda: not field.pods("actor", going=True))
    assert field.status()["learnerRestarts"] == 0


def test_a_learner_that_dies_too_often_fails_the_job_with_the_end_of_its_log(
    field: Field,
) -> None:
    field.create(backoffLimit=0)
    (pod,) = field.wait_for_pods("learner", 1)
    field.annotate(pod, **{EXIT_CODE: "1", LAST_WORDS: "Traceback\nValueError: broken\n"})
    condition = field.wait_for_condition("Failed", reason="BackoffLimitExceeded")
    assert "more often than spec.backoffLimit allows: ValueError: broken" in condition["message"]


def test_case_11_a_learner_that_is_killed_is_counted_and_the_next_goes_on(field: Field) -> None:
    double, names = field.training(actors=1)
    (before,) = field.wait_for_pods("learner", 1)
    double.fall_silent()
    field.annotate(before, **{EXIT_CODE: "137"})
    status = field.wait_for_status("the death is counted", lambda s: s["learnerRestarts"] == 1)
    assert (status["phase"], status["envSteps"], status["attempt"]) == ("Running", 100, 1)
    assert field.condition("LearnerAvailable")["status"] == "False"
    (after,) = field.wait_for_pods("learner", 1)
    assert after != before
    double.train(*names, incarnation=2, version=1, env_steps=150)
    double.listen()
    field.wait_for_condition("LearnerAvailable", "True")
    assert field.status()["incarnation"] == 2
    restarting = field.wait("it is told", lambda: field.told("LearnerRestarting"))
    assert restarting.get("count", 1) == 1


@pytest.mark.parametrize("how", ["evicted", "told to stop"])
def test_case_14_a_learner_that_has_to_move_uses_up_no_attempt(field: Field, how: str) -> None:
    field.create(backoffLimit=0)
    (before,) = field.wait_for_pods("learner", 1)
    if how == "evicted":
        metadata = {"name": before, "namespace": field.namespace}
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata}
        path = f"{field.api.path('v1', 'Pod', before, field.namespace)}/eviction"
        field.api.request("POST", path, eviction)
    else:
        field.annotate(before, **{EXIT_CODE: "143"})
    field.wait("the next learner runs", lambda: _another(field, before))
    status = field.status()
    assert status["phase"] != "Failed"
    assert status["learnerRestarts"] == 0


def _another(field: Field, before: str) -> bool:
    return [p["metadata"]["name"] for p in field.pods("learner")] not in ([], [before])


# How actors end.


def _dies(field: Field, pod: str, restarts: int, code: int, words: str) -> None:
    """Say of an actor what its kubelet would of one whose container dies again and again."""
    field.annotate(pod, **{UNREADY: "true"})

    def unready() -> bool:
        conditions = field.get("Pod", pod)["status"]["conditions"]
        return {"Ready": "False"}.items() <= {c["type"]: c["status"] for c in conditions}.items()

    field.wait("it is unready", unready)
    ended = {
        "exitCode": code, "reason": "Error", "message": words,
        "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:05Z",
    }  # fmt: skip
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off restarting"}}
    container = {
        "name": "actor", "image": "vaco-actor:test", "imageID": "", "ready": False,
        "restartCount": restarts, "state": waiting, "lastState": {"terminated": ended},
    }  # fmt: skip
    field.patch_status("Pod", pod, {"containerStatuses": [container]})


@pytest.mark.parametrize(
    ("restarts", "code", "reason"),
    [(3, 1, "BackoffLimitExceeded"), (1, 3, "PermanentFailure")],
)
def test_an_actor_that_cannot_live_fails_the_job_with_its_own_message(
    field: Field, restarts: int, code: int, reason: str
) -> None:
    field.create(backoffLimit=2, actors={"replicas": 2})
    pods = field.wait_for_pods("actor", 2)
    _dies(field, pods[0], restarts, code, "log\nModuleNotFoundError: No module named 'mine'\n")
    condition = field.wait_for_condition("Failed", reason=reason)
    assert pods[0] in condition["message"]
    assert "No module named 'mine'" in condition["message"]
    field.wait("no pod is left", lambda: not field.pods("actor") and not field.pods("learner"))


def test_an_actor_within_its_limit_is_told_and_fails_nothing(field: Field) -> None:
    field.create(backoffLimit=2, actors={"replicas": 2})
    pods = field.wait_for_pods("actor", 2)
    _dies(field, pods[0], 2, 1, "OSError: no display")
    condition = field.wait_for_condition("ScalingLimited", reason="CrashLoopBackOff")
    assert "OSError: no display" in condition["message"]
    field.annotate(pods[0], **{UNREADY: None})
    field.wait_for_condition("ScalingLimited", "False")
    assert field.status()["phase"] != "Failed"


# Begun at the start of the module.


def test_case_15_a_learner_on_a_dead_node_is_replaced_and_the_old_one_is_not_found(
    dead_node: tuple[Field, str],
) -> None:
    field, before = dead_node
    field.wait("the next learner runs", lambda: _another(field, before), seconds=100)
    assert field.find("Pod", before) is None
    status = field.status()
    # It was no fault of the learner's: with backoffLimit 0 the job would have failed.
    assert status["learnerRestarts"] == 0
    assert status["phase"] in ("Pending", "Starting")
