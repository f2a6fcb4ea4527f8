"""The learner's Job and pods: made anew, waited for, declared dead; and what a learner may say."""

from dataclasses import replace

import pytest
from plan_scenes import Scene, applied, reasons, truth
from test_plan_life import ended, words
from vaco.v1 import learner_pb2 as pb


def test_case_07_another_pod_template_replaces_the_learner_pod_first_and_counts_an_attempt():
    scene = Scene().running()
    template = {"spec": {"nodeSelector": {"gpu": "yes"}}}
    scene.change(learner={"podTemplate": template})
    decided = scene.step()
    (deletion,) = decided.deletions
    assert (deletion.name, deletion.propagation) == ("pole-learner", "Foreground")
    decided = scene.step()
    assert applied(decided, "Job") is None
    assert decided.deletions == ()
    scene.remove("Pod", "pole-learner-a")
    scene.remove("Job", "pole-learner")
    decided = scene.step()
    made = applied(decided, "Job")
    assert made["metadata"]["labels"]["training.vaco.dev/attempt"] == "2"
    assert made["spec"]["template"]["spec"]["nodeSelector"] == {"gpu": "yes"}
    assert applied(decided, "Service")["spec"]["selector"]["training.vaco.dev/attempt"] == "2"
    assert (decided.status.attempt, decided.status.phase) == (2, "Pending")
    assert reasons(decided) == ["LearnerStarted"]


def test_case_07_another_operator_version_changes_no_pod():
    scene = Scene().running()
    newer = replace(scene.world.settings, learner_image="learner:2", actor_image="actor:2")
    scene.world = replace(scene.world, settings=newer)
    decided = scene.look()
    assert decided.deletions == ()
    for kind in ("Job", "Deployment"):
        live = scene.document(kind, f"pole-{'learner' if kind == 'Job' else 'actors'}")
        assert applied(decided, kind)["spec"]["template"] == live["spec"]["template"]


def test_a_job_that_is_suspended_and_changed_at_once_drains_its_actors_first():
    scene = Scene().running()
    scene.change(suspend=True, seed=7)
    decided = scene.step()
    assert decided.deletions == ()
    assert applied(decided, "Job") is None
    assert applied(decided, "Deployment")["spec"]["replicas"] == 0
    scene.delete("Pod", "pole-actors-0", 40)
    scene.delete("Pod", "pole-actors-1", 40)
    assert scene.step().deletions == ()
    scene.remove("Pod", "pole-actors-0")
    scene.remove("Pod", "pole-actors-1")
    assert [d.name for d in scene.step().deletions] == ["pole-learner"]
    scene.remove("Pod", "pole-learner-a")
    scene.remove("Job", "pole-learner")
    assert scene.step().status.phase == "Suspended"


def test_a_job_suspended_changed_and_resumed_between_two_looks_drains_its_actors_first():
    scene = Scene().running()
    scene.change(suspend=True).change(seed=7).change(suspend=False)
    for _ in range(3):
        decided = scene.step()
        assert decided.deletions == ()
        assert applied(decided, "Job") is None
        assert applied(decided, "Deployment")["spec"]["replicas"] == 0
        scene.delete("Pod", "pole-actors-0", 40)
        scene.delete("Pod", "pole-actors-1", 40)
    scene.remove("Pod", "pole-actors-0")
    scene.remove("Pod", "pole-actors-1")
    assert [d.name for d in scene.step().deletions] == ["pole-learner"]
    assert applied(scene.step(), "Deployment")["spec"]["replicas"] == 0
    scene.remove("Pod", "pole-learner-a")
    scene.remove("Job", "pole-learner")
    decided = scene.step()
    assert applied(decided, "Job")["metadata"]["labels"]["training.vaco.dev/attempt"] == "2"
    assert applied(decided, "Deployment")["spec"]["replicas"] == 2


def test_a_template_changed_while_suspended_is_made_at_resume():
    scene = Scene().running()
    scene.change(suspend=True).step()
    for pod in ("pole-actors-0", "pole-actors-1"):
        scene.remove("Pod", pod)
    scene.step()
    scene.remove("Pod", "pole-learner-a")
    scene.step()
    scene.change(seed=7).step()
    scene.remove("Job", "pole-learner")
    decided = scene.step()
    assert applied(decided, "Job") is None
    assert decided.status.phase == "Suspended"
    decided = scene.change(suspend=False).step()
    assert applied(decided, "Job")["metadata"]["labels"]["training.vaco.dev/attempt"] == "2"


def test_the_next_learner_waits_for_pods_of_the_one_before():
    scene = Scene().running()
    scene.remove("Job", "pole-learner")
    scene.delete("Pod", "pole-learner-a", 120)
    decided = scene.step()
    assert applied(decided, "Job") is None
    assert applied(decided, "Deployment") is not None
    assert decided.status.attempt == 1
    scene.remove("Pod", "pole-learner-a")
    assert applied(scene.step(), "Job")["metadata"]["labels"]["training.vaco.dev/attempt"] == "2"


def test_an_attempt_is_never_used_twice_though_no_status_tells_of_it():
    scene = Scene().running()
    scene.remove("Job", "pole-learner")
    scene.pod("pole-learner-a", "learner", owner="gone", attempt="4", phase="Failed", ready=False)
    del scene.job["status"]
    assert applied(scene.look(), "Job")["metadata"]["labels"]["training.vaco.dev/attempt"] == "5"


def test_case_02_an_attempt_that_somebody_edited_is_read_from_the_template_and_put_right():
    scene = Scene().running()
    job = scene.document("Job", "pole-learner")
    job["metadata"]["labels"]["training.vaco.dev/attempt"] = "7"
    scene.put(job)
    decided = scene.look()
    assert applied(decided, "Job")["metadata"]["labels"]["training.vaco.dev/attempt"] == "1"
    assert applied(decided, "Service")["spec"]["selector"]["training.vaco.dev/attempt"] == "1"
    assert decided.status.attempt == 1


def test_case_02_a_job_without_the_labels_by_which_it_is_seen_gets_them_back():
    scene = Scene().running()
    job = scene.document("Job", "pole-learner")
    scene.remove("Job", "pole-learner")
    decided = scene.look()
    assert applied(decided, "Job") is None
    (patch,) = decided.patches
    assert (patch.resource.kind, patch.name) == ("Job", "pole-learner")
    assert patch.change["metadata"]["uid"] == job["metadata"]["uid"]
    assert patch.change["metadata"]["labels"] == job["metadata"]["labels"]


def test_a_learner_is_not_replaced_before_the_status_tells_of_its_attempt():
    scene = Scene()
    scene.step()
    scene.learner_pod()
    del scene.job["status"]
    scene.change(seed=7)
    decided = scene.look()
    assert decided.deletions == ()
    assert applied(decided, "Job") is None
    assert decided.status.attempt == 1
    assert decided.requeue_after < 1
    scene.carry_out(decided)
    assert [deletion.name for deletion in scene.step().deletions] == ["pole-learner"]
    scene.remove("Pod", "pole-learner-a")
    scene.remove("Job", "pole-learner")
    assert applied(scene.step(), "Job")["metadata"]["labels"]["training.vaco.dev/attempt"] == "2"


def test_a_learner_pod_that_lost_its_job_is_told_to_go():
    scene = Scene().running()
    scene.pod("pole-learner-a", "learner", owner="", attempt="1")
    scene.remove("Job", "pole-learner")
    decided = scene.step()
    assert [(d.resource.kind, d.name) for d in decided.deletions] == [("Pod", "pole-learner-a")]
    assert applied(decided, "Job") is None
    assert scene.look().deletions == ()


def test_a_pod_of_an_earlier_job_of_the_same_name_is_not_ours():
    scene = Scene()
    scene.job["metadata"]["creationTimestamp"] = "2026-01-31T12:00:10Z"
    scene.pod("pole-learner-old", "learner", owner="", attempt="3")
    decided = scene.after(20).step()
    assert decided.deletions == ()
    assert decided.status.attempt == 1


def test_case_15_a_learner_on_a_dead_node_is_declared_dead_a_minute_after_its_grace():
    scene = Scene().running()
    scene.delete("Pod", "pole-learner-a", 120)
    scene.step()
    decided = scene.after(179).look()
    assert (decided.patches, decided.deletions) == ((), ())
    assert decided.requeue_after <= 1
    decided = scene.after(1).look()
    (patch,) = decided.patches
    assert (patch.name, patch.subresource, patch.applied) == ("pole-learner-a", "status", True)
    assert patch.change["status"]["phase"] == "Failed"
    assert patch.change["status"]["conditions"][0]["type"] == "DisruptionTarget"
    (deletion,) = decided.deletions
    assert (deletion.name, deletion.grace_seconds) == ("pole-learner-a", 0)


def test_case_15_a_pod_that_somebody_forced_to_go_is_declared_dead_once_and_not_deleted_again():
    """Its Job's finalizer keeps it, and says nothing while the pod has not ended."""
    scene = Scene().running()
    scene.delete("Pod", "pole-learner-a", 40)
    pod = scene.document("Pod", "pole-learner-a")
    pod["metadata"]["deletionGracePeriodSeconds"] = 0
    scene.put(pod)
    scene.step()
    decided = scene.after(59).step()
    assert (decided.patches, decided.deletions) == ((), ())
    assert decided.requeue_after == pytest.approx(1)
    decided = scene.after(1).step()
    (patch,) = decided.patches
    assert patch.change["status"]["phase"] == "Failed"
    assert decided.deletions == ()
    decided = scene.after(1).look()
    assert (decided.patches, decided.deletions) == ((), ())


def test_case_15_a_grace_is_over_by_the_operators_own_count_whatever_the_clocks_say():
    scene = Scene().running()
    pod = scene.document("Pod", "pole-learner-a")
    pod["metadata"] |= {
        "deletionTimestamp": "2026-01-31T10:00:00Z",
        "deletionGracePeriodSeconds": 120,
    }
    scene.put(pod)
    scene.step()
    assert scene.after(179).step().patches == ()
    assert len(scene.after(1).step().patches) == 1


def test_case_11_a_learner_that_died_is_counted_and_told_and_the_job_still_runs():
    scene = Scene().running()
    scene.learner_pod(phase="Failed", ready=False, state=ended(137, reason="OOMKilled"))
    job = scene.document("Job", "pole-learner")
    job["status"] = {**job["status"], "failed": 1}
    scene.put(job)
    decided = scene.step()
    assert decided.status.learner_restarts == 1
    assert decided.status.phase == "Running"
    assert truth(decided.status, "LearnerAvailable") == ("False", "Restarting")
    assert truth(decided.status, "Progressing") == ("Unknown", "Restarting")
    assert reasons(decided) == ["LearnerRestarting"]
    assert decided.learner is None
    scene.learner_pod("pole-learner-b")
    assert reasons(scene.step()) == []


def test_case_11_restarts_are_counted_over_all_of_the_learners_jobs():
    scene = Scene().running()
    job = scene.document("Job", "pole-learner")
    job["status"] = {**job["status"], "failed": 2}
    scene.put(job)
    scene.step()
    scene.remove("Pod", "pole-learner-a")
    scene.remove("Job", "pole-learner")
    scene.step()
    job = scene.document("Job", "pole-learner")
    assert job["metadata"]["annotations"]["training.vaco.dev/died-before"] == "2"
    job["status"] = {**job["status"], "failed": 1}
    scene.put(job)
    assert scene.step().status.learner_restarts == 3


# What is believed.


def test_an_answer_about_another_job_is_not_believed():
    scene = Scene().running()
    scene.hear(job_uid="another", version=99, env_steps=5)
    assert scene.step().status.version == 5


@pytest.mark.parametrize(("incarnation", "version", "believed"), [(1, 9, False), (3, 1, True)])
def test_an_answer_of_a_lower_incarnation_is_not_believed(incarnation, version, believed):
    scene = Scene().running()
    scene.hear(incarnation=2, version=7)
    scene.step()
    scene.hear(incarnation=incarnation, version=version)
    assert (scene.step().status.version == version) == believed


def test_an_answer_of_a_lower_incarnation_is_not_believed_by_the_next_operator_either():
    scene = Scene().running()
    scene.hear(incarnation=2, version=7)
    scene.step()
    scene.memory = type(scene.memory)()
    scene.hear(incarnation=1, version=99)
    status = scene.step().status
    assert status.version == 7
    assert truth(status, "LearnerAvailable")[0] == "False"


def test_an_answer_of_a_pod_that_is_the_learner_no_more_is_not_believed():
    scene = Scene().running()
    scene.hear(pod="uid-of-another-pod", version=99)
    assert scene.step().status.version == 5


def test_case_16_an_answer_grows_old():
    scene = Scene().running()
    assert scene.look().requeue_after == pytest.approx(15)
    decided = scene.after(15.1).step()
    assert truth(decided.status, "LearnerAvailable") == ("False", "NotAnswering")
    assert truth(decided.status, "Ready") == ("False", "NotAnswering")
    assert decided.status.actors.ready == 0
    assert decided.status.env_steps == 1000


def test_a_learner_that_is_asked_less_often_is_believed_for_longer():
    scene = Scene().running()
    scene.hear(version=6, every=20)
    scene.step()
    assert truth(scene.after(59).step().status, "LearnerAvailable")[0] == "True"
    assert truth(scene.after(2).step().status, "LearnerAvailable")[0] == "False"


def test_last_words_count_unless_something_newer_was_heard():
    scene = Scene().running()
    scene.learner_pod(phase="Failed", ready=False, state=ended(143, words(version=6)))
    assert scene.step().status.version == 6
    scene.learner_pod(phase="Failed", ready=False, state=ended(143, words(version=3)))
    assert scene.step().status.version == 6


def test_checkpoints_that_were_lost_are_told():
    scene = Scene().running()
    scene.hear(incarnation=2, version=1)
    assert reasons(scene.step()) == ["BeganAnew"]


def test_an_interrupted_learner_does_not_look_as_if_it_trained():
    scene = Scene()
    scene.step()
    scene.learner_pod()
    scene.hear(phase=pb.LEARNER_PHASE_UNSPECIFIED)
    assert scene.step().status.phase == "Starting"
