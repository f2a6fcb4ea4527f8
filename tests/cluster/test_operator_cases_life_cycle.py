"""Cases 20 to 23 of operator-cases.md: suspended, resumed, over, cleaned up, deleted."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from kube_harness.simulated import EXIT_CODE, LAST_WORDS, STUCK, UNREADY

if TYPE_CHECKING:
    from operator_harness.stage import Field

pytestmark = pytest.mark.cluster

Document = dict[str, Any]
CHILDREN = (
    ("ConfigMap", "pole-job"),
    ("Secret", "pole-credentials"),
    ("Service", "pole-learner"),
    ("NetworkPolicy", "pole-learner"),
    ("NetworkPolicy", "pole-actors"),
    ("Job", "pole-learner"),
    ("Deployment", "pole-actors"),
)


def test_case_20_a_suspended_job_drains_its_actors_then_its_learner_and_resumes(
    field: Field,
) -> None:
    double, names = field.training(actors=2)
    (learner,) = field.wait_for_pods("learner", 1)
    double.train(*names, version=7, env_steps=700, checkpoint_version=7)
    field.wait("it is heard", double.heard())
    # An actor that takes its time keeps the learner from being told.
    field.annotate(names[0], **{STUCK: "true"})
    field.change(suspend=True)
    field.wait("the others have left", lambda: field.find("Pod", names[1]) is None)
    condition = field.wait_for_condition("Progressing", reason="Suspending")
    assert "actors send what they have" in condition["message"]
    assert "deletionTimestamp" not in field.get("Pod", learner)["metadata"]
    assert field.get("Job", "pole-learner")["spec"]["suspend"] is False
    field.annotate(names[0], **{STUCK: None})
    condition = field.wait_for_condition("Suspended")
    assert field.pods("learner", going=True) == field.pods("actor", going=True) == []
    status = field.status()
    assert (status["phase"], status["actors"]["desired"]) == ("Suspended", 2)
    field.wait("it is told", lambda: field.told("Suspended"))

    double.train(version=7)
    field.change(suspend=False)
    (resumed,) = field.wait_for_pods("learner", 1)
    assert resumed != learner
    names = field.wait_for_pods("actor", 2)
    double.train(*names, incarnation=2, version=7, env_steps=700)
    status = field.wait_for_status("it trains again", lambda s: s["phase"] == "Running")
    assert (status["version"], status["attempt"], status["learnerRestarts"]) == (7, 1, 0)
    field.wait_for_condition("Suspended", "False")
    resumption = field.wait("it is told", lambda: field.told("Resumed"))
    assert resumption["message"] == "Resumed at version 7 with 2 actors."


def test_case_21_a_job_created_suspended_has_no_pods_and_its_deadlines_start_at_resume(
    field: Field,
) -> None:
    unready = {"podTemplate": {"metadata": {"annotations": {UNREADY: "true"}}}}
    field.create(suspend=True, startDeadlineSeconds=3, activeDeadlineSeconds=1000, learner=unready)
    field.wait_for_condition("Suspended")
    since = field.wait_until_at_rest()
    assert field.asked(since) == []
    assert field.find("Job", "pole-learner") is None
    assert field.find("Deployment", "pole-actors") is None
    assert field.get("ConfigMap", "pole-job")
    # The rest took longer than the deadline.
    status = field.status()
    assert (status["phase"], "startTime" in status) == ("Suspended", False)
    field.change(suspend=False)
    field.wait_for_pods("learner", 1)
    assert "startTime" in field.status()
    field.wait_for_condition("Failed", reason="StartDeadlineExceeded")


def test_a_learner_that_cannot_be_asked_is_let_alone_beyond_its_start_deadline(
    field: Field,
) -> None:
    field.create(startDeadlineSeconds=3)
    condition = field.wait_for_condition("LearnerAvailable", "False", reason="NotAnswering")
    assert "spec.startDeadlineSeconds (3 s)" in condition["message"]
    assert field.status()["phase"] == "Starting"
    field.stage.doubles.of(field.api, field.job()).train(version=1, env_steps=100)
    field.wait_for_status("it trains", lambda s: s["phase"] == "Running")


def test_the_active_deadline_ends_a_job_that_trains(field: Field) -> None:
    _, _ = field.training(actors=1, activeDeadlineSeconds=5)
    condition = field.wait_for_condition("Failed", reason="DeadlineExceeded")
    assert "spec.activeDeadlineSeconds (5 s)" in condition["message"]
    field.wait("nothing runs", lambda: not field.pods("learner") and not field.pods("actor"))
    assert field.get("Job", "pole-learner")["spec"]["suspend"] is True


def _complete(field: Field, **spec: Any) -> str:
    """Create a job and have its learner reach its end; returns the learner's pod."""
    field.training(actors=2, **spec)
    (pod,) = field.wait_for_pods("learner", 1)
    uid = field.job()["metadata"]["uid"]
    said = json.dumps({"jobUid": uid, "incarnation": "1", "version": "9", "message": "done"})
    field.annotate(pod, **{EXIT_CODE: "0", LAST_WORDS: said})
    field.wait_for_condition("Complete")
    return pod


@pytest.mark.parametrize(
    ("policy", "actors", "learner_pod_stays"),
    [("Running", 0, True), ("All", 0, False), ("None", 2, True)],
)
def test_case_22_pods_are_cleaned_up_as_the_policy_says(
    field: Field, policy: str, actors: int, learner_pod_stays: bool
) -> None:
    learner = _complete(field, cleanPodPolicy=policy)
    field.wait_for_pods("actor", actors)
    if not learner_pod_stays:
        field.wait("the learner's pod is gone", lambda: field.find("Pod", learner) is None)
    since = field.wait_until_at_rest()
    assert [e for e in field.asked(since) if e.writes] == []
    assert (field.find("Pod", learner) is not None) == learner_pod_stays
    for kind, name in CHILDREN:
        assert field.find(kind, name) is not None, name


def test_case_22_a_finished_job_ignores_scaling_and_changes_and_is_deleted_in_time(
    field: Field,
) -> None:
    _complete(field)
    since = field.wait_until_at_rest()
    before = field.status()
    field.change(actors={"replicas": 6}, suspend=True)
    field.delete("Service", "pole-learner")
    seen = before["observedGeneration"] + 1
    field.wait_for_status("the change is seen", lambda s: s["observedGeneration"] == seen)
    assert field.status() == {**before, "observedGeneration": seen}
    # A last change that is acted on shows that the others were seen.
    field.change(ttlSecondsAfterFinished=0)
    field.wait("the job is deleted", lambda: field.find("VACOJob", "pole") is None)

    def asked() -> list[tuple[str, str]]:
        return [(e.verb, e.resource) for e in field.asked(since) if e.writes]

    field.wait("the log is complete", lambda: ("delete", "vacojobs") in asked())
    assert asked() == [("patch", "vacojobs/status"), ("delete", "vacojobs")]
    assert before["phase"] == "Complete"
    for kind, name in CHILDREN:
        field.wait("the children go with it", lambda k=kind, n=name: field.find(k, n) is None)


@pytest.mark.parametrize("propagation", ["Foreground", "Background"])
def test_case_23_a_deleted_job_goes_with_its_children_and_nothing_comes_back(
    field: Field, propagation: str
) -> None:
    field.training(actors=2)
    field.delete("VACOJob", "pole", propagation)
    field.wait("the job is gone", lambda: field.find("VACOJob", "pole") is None)
    for kind, name in CHILDREN:
        field.wait(f"{name} is gone", lambda k=kind, n=name: field.find(k, n) is None)
    field.wait("no pod is left", lambda: not field.api.list("v1", "Pod", field.namespace))
    since = field.wait_until_at_rest()
    assert field.asked(since) == []
    assert [k for k, n in CHILDREN if field.find(k, n)] == []


def test_case_23_a_job_deleted_by_orphaning_leaves_its_children_as_they_are(field: Field) -> None:
    _, names = field.training(actors=2)
    learner = field.wait_for_pods("learner", 1)
    field.delete("VACOJob", "pole", "Orphan")
    field.wait("the job is gone", lambda: field.find("VACOJob", "pole") is None)

    def orphaned() -> bool:
        found = [field.get(kind, name) for kind, name in CHILDREN]
        return not any(child["metadata"].get("ownerReferences") for child in found)

    field.wait("nothing owns them", orphaned)
    since = field.wait_until_at_rest()
    assert field.asked(since) == []
    assert field.wait_for_pods("actor", 2) == names
    assert field.wait_for_pods("learner", 1) == learner
    # They are nobody's now: a new job of the same name does not take them over either.
    field.create()
    condition = field.wait_for_condition("Progressing", "False", reason="NameConflict")
    assert "ConfigMap pole-job exists and does not belong to this VACOJob" in condition["message"]
    assert field.wait_for_pods("actor", 2) == names


def test_case_23_a_job_made_again_at_once_waits_for_what_the_one_before_left(field: Field) -> None:
    first, _ = field.training(actors=2)
    first.fall_silent()
    field.delete("VACOJob", "pole")
    created = field.create(actors={"replicas": 1})
    double = field.stage.doubles.of(field.api, created)
    field.wait_for_pods("learner", 1)
    names = field.wait_for_pods("actor", 1)
    double.train(*names, version=1)
    field.wait_for_status("the new one trains", lambda s: s["phase"] == "Running")
    for kind, name in CHILDREN:
        (owner,) = field.get(kind, name)["metadata"]["ownerReferences"]
        assert owner["uid"] == created["metadata"]["uid"], name
    assert field.told("NameConflict") is None
    assert field.condition("Failed")["status"] == "False"


def test_case_23_deleting_the_namespace_never_hangs(field: Field) -> None:
    field.training(actors=2)
    field.create("other")
    field.wait_for_pods("learner", 1, "other")
    field.api.delete("v1", "Namespace", field.namespace)
    field.wait(
        "the namespace is gone", lambda: field.api.find("v1", "Namespace", field.namespace) is None
    )
    assert field.stage.operator.exit_status is None
    # For the end of the test, which deletes it again.
    metadata = {"name": field.namespace}
    field.api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
