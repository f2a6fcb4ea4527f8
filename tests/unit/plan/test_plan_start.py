"""A job that begins: what is made, in which order, and what is said of it meanwhile."""

import pytest
from plan_scenes import Scene, applied, connected, reasons, truth
from vaco.v1 import learner_pb2 as pb
from vaco_operator.cluster import labels
from vaco_operator.cluster.desired import REISSUE_SECONDS, child_of
from vaco_operator.cluster.observed import Child
from vaco_operator.cluster.resources import SERVICES
from vaco_operator.cluster.steps import Memory
from vaco_operator.cluster.troubles import (
    NAME_CONFLICT,
    QUOTA_EXCEEDED,
    Complaint,
    Refusal,
    refused,
)
from vaco_operator.status import Trouble


def test_case_01_a_new_job_gets_all_its_children_what_a_pod_needs_before_the_pod():
    decided = Scene().look()
    kinds = [child["kind"] for child in decided.children]
    assert kinds == [
        *("ConfigMap", "Secret", "NetworkPolicy", "NetworkPolicy", "Service", "Job", "Deployment")
    ]
    assert decided.children[-1]["spec"]["replicas"] == 2
    assert applied(decided, "Job")["spec"]["suspend"] is False


def test_case_01_the_first_status_has_all_conditions_of_this_generation():
    decided = Scene().look()
    status = decided.status
    assert status.phase == "Pending"
    assert {c.observed_generation for c in status.conditions} == {1} == {status.observed_generation}
    assert {c.type: c.status for c in status.conditions} == {
        "LearnerAvailable": "False",
        "Ready": "False",
        "Progressing": "True",
        "Suspended": "False",
        "Complete": "False",
        "Failed": "False",
        "ScalingLimited": "False",
    }
    assert (status.attempt, status.scaling.requested, status.actors.desired) == (1, 2, 2)
    assert status.actors.selector == "app.kubernetes.io/component=actor,training.vaco.dev/job=pole"
    assert reasons(decided) == ["Started", "NoStorage", "LearnerStarted"]


def test_a_job_with_storage_gets_a_claim_before_its_pods_and_no_warning():
    decided = Scene(learner={"storage": {"size": "1Gi"}}).look()
    kinds = [child["kind"] for child in decided.children]
    assert kinds.index("PersistentVolumeClaim") < kinds.index("Job")
    assert "NoStorage" not in reasons(decided)


def test_what_bears_a_childs_name_is_in_the_way_and_what_bears_only_its_labels_is_not():
    scene = Scene()

    def theirs(name: str) -> None:
        metadata = {"name": name, "labels": labels.child_labels("pole", "job")}
        scene.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})

    theirs("notes-about-pole")
    decided = scene.look()
    assert truth(decided.status, "Progressing")[1] != NAME_CONFLICT
    assert applied(decided, "ConfigMap") is not None

    theirs("pole-job")
    decided = scene.look()
    assert truth(decided.status, "Progressing") == ("False", NAME_CONFLICT)
    assert applied(decided, "ConfigMap") is None


def test_a_claim_that_somebody_grew_is_wanted_as_it_is_and_grows_with_the_spec():
    scene = Scene(learner={"storage": {"size": "1Gi"}})
    scene.step()
    claim = scene.document("PersistentVolumeClaim", "pole-checkpoints")
    claim["spec"]["resources"]["requests"]["storage"] = "2Gi"
    scene.put(claim)
    for size, wanted in (("1Gi", "2Gi"), ("3Gi", "3Gi")):
        scene.change(learner={"storage": {"size": size}})
        document = applied(scene.look(), "PersistentVolumeClaim")
        assert document["spec"]["resources"]["requests"]["storage"] == wanted


def test_it_goes_from_pending_over_starting_to_running_and_is_ready_when_actors_are_connected():
    scene = Scene()
    scene.step()
    scene.learner_pod(phase="Pending", ready=False)
    assert scene.step().status.phase == "Pending"
    scene.learner_pod()
    assert scene.step().status.phase == "Starting"
    scene.hear(phase=pb.LEARNER_PHASE_STARTING, message="waits for an actor")
    status = scene.step().status
    assert (status.phase, status.message) == ("Starting", "waits for an actor")
    assert truth(status, "LearnerAvailable") == ("True", "Answering")
    assert truth(status, "Ready") == ("False", "ActorsMissing")
    scene.actor_pods("a", "b")
    scene.hear(actors=connected("a", "b"))
    status = scene.step().status
    assert (status.phase, status.actors.ready) == ("Running", 2)
    assert truth(status, "Ready") == ("True", "ActorsConnected")


def test_nothing_is_left_to_do_for_a_job_that_runs():
    decided = Scene().running().look()
    assert not decided.patches
    assert not decided.deletions
    assert not decided.notes
    assert applied(decided, "Secret") is None


def test_the_secret_is_written_again_for_a_pod_that_waits_on_its_node_and_for_no_other():
    scene = Scene()
    assert applied(scene.step(), "Secret") is not None
    scene.learner_pod(phase="Pending", node="")
    scene.actor_pods("a", phase="Pending", node="")
    decided = scene.after(10 * REISSUE_SECONDS).step()
    assert applied(decided, "Secret") is None
    assert decided.requeue_after > REISSUE_SECONDS

    scene.actor_pods("a", phase="Pending")
    assert applied(scene.step(), "Secret") is not None
    assert applied(scene.after(REISSUE_SECONDS - 1).step(), "Secret") is None
    assert applied(scene.after(2).step(), "Secret") is not None


def test_only_actors_that_are_pods_of_the_job_count_as_ready():
    scene = Scene().running()
    scene.hear(version=5, actors=connected("pole-actors-0", "somebody-else"))
    assert scene.look().status.actors.ready == 1


def test_the_learner_is_asked_at_the_address_of_its_pod_once_it_runs():
    scene = Scene(autoscaling={"intervalSeconds": 2})
    assert scene.step().learner is None
    scene.learner_pod(phase="Pending")
    assert scene.look().learner is None
    uid = scene.learner_pod(ip="10.1.2.3")
    assert scene.look().learner == (uid, "10.1.2.3", 2.0)


@pytest.mark.parametrize("waits", ["ErrImagePull", "ImagePullBackOff"])
def test_case_10_an_image_that_is_not_there_is_told_in_the_kubelets_words(waits):
    scene = Scene()
    scene.step()
    state = {"waiting": {"reason": waits, "message": "no such image: learner:1"}}
    scene.learner_pod(phase="Pending", ready=False, state=state)
    status = scene.step().status
    for kind in ("LearnerAvailable", "Progressing"):
        assert truth(status, kind) == ("False", "ImagePullBackOff")
    assert "no such image: learner:1" in status.message


def test_a_pod_that_fits_nowhere_is_told():
    scene = Scene()
    scene.step()
    unschedulable = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/4 nodes are available: 4 Insufficient cpu.",
    }
    scene.learner_pod(phase="Pending", ready=False, conditions=[unschedulable])
    status = scene.step().status
    assert truth(status, "Progressing") == ("False", "Unschedulable")
    assert "Insufficient cpu" in status.message


def test_case_10_a_refused_child_is_told_once_and_not_hammered_at():
    scene = Scene()
    trouble = Trouble(QUOTA_EXCEEDED, "exceeded quota: small, requested: services=1")
    service = next(c for c in scene.look().children if c["kind"] == "Service")
    refusal = refused((), child_of(service), trouble, 1, scene.now.monotonic)
    scene.memory = Memory(refusals=(refusal,))
    decided = scene.look()
    assert [c["kind"] for c in decided.children][-1] == "NetworkPolicy"
    assert decided.status.attempt == 0
    assert truth(decided.status, "Progressing") == ("False", QUOTA_EXCEEDED)
    assert reasons(decided).count(QUOTA_EXCEEDED) == 1
    assert decided.requeue_after <= 1
    scene.job["status"] = decided.status.model_dump(mode="json", by_alias=True, exclude_none=True)
    assert reasons(scene.look()) == []
    assert applied(scene.after(1).look(), "Job") is not None


def test_case_10_a_changed_spec_is_tried_at_once():
    scene = Scene()
    refusal = Refusal(
        Child(SERVICES, "pole-learner"), Trouble("Invalid", "no"), 1, 9, scene.now.monotonic + 30
    )
    scene.memory = Memory(refusals=(refusal,))
    assert applied(scene.look(), "Job") is None
    assert applied(scene.change(backoffLimit=1).look(), "Job") is not None


def test_case_10_pods_that_a_quota_refuses_are_told_for_learner_and_actors():
    scene = Scene()
    scene.step()
    message = 'pods "pole-actors-x" is forbidden: exceeded quota: pods, requested: pods=1'
    scene.condition(
        "Deployment", "pole-actors", type="ReplicaFailure", reason="FailedCreate", message=message
    )
    status = scene.after(3).look().status
    assert truth(status, "ScalingLimited") == ("True", QUOTA_EXCEEDED)
    assert truth(status, "Progressing") == ("False", QUOTA_EXCEEDED)
    assert message in status.message


def test_case_10_a_job_that_makes_no_pod_is_looked_into_and_what_its_events_say_is_told():
    scene = Scene()
    scene.step()
    uid = scene.document("Job", "pole-learner")["metadata"]["uid"]
    assert scene.look().look_into is None
    assert scene.after(2).look().look_into.job_uid == uid
    message = 'pods "pole-learner-x" is forbidden: exceeded quota: pods'
    scene.memory = Memory(complaint=Complaint(uid, message, scene.now.monotonic))
    decided = scene.look()
    assert decided.look_into is None
    assert truth(decided.status, "LearnerAvailable") == ("False", QUOTA_EXCEEDED)
    assert reasons(decided) == [QUOTA_EXCEEDED]
    scene.carry_out(decided)
    assert scene.after(10).look().look_into is not None
    scene.learner_pod()
    healed = scene.step()
    assert truth(healed.status, "LearnerAvailable") == ("False", "Starting")
    assert scene.memory.complaint is None


@pytest.mark.parametrize("owner", [None, "uid-of-somebody"])
def test_what_belongs_to_somebody_else_is_named_and_never_touched(owner):
    scene = Scene()
    service = applied(scene.look(), "Service")
    owners = [{"kind": "Tool", "name": "t", "uid": owner, "controller": True}] if owner else []
    scene.put({**service, "metadata": {**service["metadata"], "ownerReferences": owners}})
    decided = scene.look()
    assert [c["kind"] for c in decided.children][-1] == "NetworkPolicy"
    assert truth(decided.status, "Progressing") == ("False", NAME_CONFLICT)
    assert "Service pole-learner" in decided.status.message
    assert reasons(decided).count(NAME_CONFLICT) == 1


def test_what_an_earlier_job_of_the_same_name_left_is_waited_for_in_silence():
    scene = Scene()
    earlier = applied(scene.look(), "ConfigMap")
    owner = {"kind": "VACOJob", "name": "pole", "uid": "uid-before", "controller": True}
    scene.put({**earlier, "metadata": {**earlier["metadata"], "ownerReferences": [owner]}})
    scene.pod("pole-actors-old", "actor", owner="rs-before")
    decided = scene.look()
    assert decided.children == ()
    assert NAME_CONFLICT not in reasons(decided)
    assert decided.status.attempt == 0
    scene.remove("ConfigMap", "pole-job")
    assert applied(scene.look(), "Job") is not None


def test_a_deleted_job_is_left_to_the_garbage_collector():
    scene = Scene().running()
    scene.job["metadata"]["deletionTimestamp"] = "2026-01-31T12:00:05Z"
    scene.remove("Service", "pole-learner")
    decided = scene.look()
    assert (decided.children, decided.patches, decided.deletions) == ((), (), ())
    assert decided.status is None
    assert decided.learner is None


def test_children_found_as_they_should_be_are_not_built_again_until_something_changes():
    scene = Scene().running()
    scene.memory = scene.look().memory
    assert scene.look().children == ()
    scene.hear(version=6)
    assert scene.after(5).look().children == ()
    service = scene.document("Service", "pole-learner")
    service["spec"]["clusterIP"] = "10.9.8.7"
    scene.put(service)
    assert applied(scene.look(), "Service") is not None
    scene.memory = scene.look().memory
    assert scene.look().children == ()
    scene.change(backoffLimit=1)
    assert applied(scene.look(), "Job")["spec"]["backoffLimit"] == 1
    scene.memory = scene.look().memory
    scene.remove("NetworkPolicy", "pole-actors")
    assert applied(scene.look(), "NetworkPolicy", "pole-actors") is not None
