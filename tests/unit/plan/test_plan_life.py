"""A job's life after its start: suspended and resumed, its deadlines, its end, and what follows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format
from plan_scenes import UID, Scene, applied, reasons, truth, written
from vaco.v1 import learner_pb2 as pb


def ended(code: int, message: str = "", reason: str = "Error", ran: float = 5.0) -> dict[str, Any]:
    """The state of a container that has ended, after it ran for so many seconds."""
    scene = Scene()
    start, end = scene.now.wall, scene.after(ran).now.wall
    return {
        "terminated": {
            "exitCode": code,
            "reason": reason,
            "message": message,
            "startedAt": written(start),
            "finishedAt": written(end),
        }
    }


def words(**said: Any) -> str:
    """Last words of a learner, as it leaves them in its termination message."""
    status = pb.GetStatusResponse(**{"job_uid": UID, "incarnation": 1} | said)
    return json.dumps(json_format.MessageToDict(status))


# Suspension.


def test_case_20_the_actors_leave_first_and_then_the_learner():
    scene = Scene().running()
    scene.change(suspend=True)
    decided = scene.step()
    assert applied(decided, "Deployment")["spec"]["replicas"] == 0
    assert applied(decided, "Job")["spec"]["suspend"] is False
    assert (decided.status.phase, truth(decided.status, "Suspended")[0]) == ("Running", "False")
    assert truth(decided.status, "Progressing") == ("True", "Suspending")
    for name in ("pole-actors-0", "pole-actors-1"):
        scene.delete("Pod", name, 40)
    assert applied(scene.after(20).step(), "Job")["spec"]["suspend"] is False
    scene.remove("Pod", "pole-actors-0")
    scene.remove("Pod", "pole-actors-1")
    decided = scene.step()
    assert applied(decided, "Job")["spec"]["suspend"] is True
    assert decided.status.phase == "Running"
    assert "checkpoints" in decided.status.message
    scene.remove("Pod", "pole-learner-a")
    decided = scene.step()
    assert decided.status.phase == "Suspended"
    assert truth(decided.status, "Suspended") == ("True", "Suspended")
    assert decided.status.steps_per_second == 0
    assert reasons(decided) == ["Suspended"]
    assert reasons(scene.look()) == []


def test_case_20_an_actor_that_does_not_leave_is_waited_for_no_longer_than_its_grace():
    scene = Scene().running()
    scene.change(suspend=True).step()
    scene.delete("Pod", "pole-actors-0", 40)
    scene.delete("Pod", "pole-actors-1", 40)
    scene.step()
    decided = scene.after(39).step()
    assert applied(decided, "Job")["spec"]["suspend"] is False
    assert decided.requeue_after == pytest.approx(1)
    assert applied(scene.after(1).step(), "Job")["spec"]["suspend"] is True


def test_case_20_a_learner_stays_while_the_deployment_may_still_make_actors():
    scene = Scene()
    scene.step()
    scene.learner_pod()
    scene.step()
    decided = scene.change(suspend=True).step()
    assert applied(decided, "Deployment")["spec"]["replicas"] == 0
    assert applied(decided, "Job")["spec"]["suspend"] is False
    assert applied(scene.step(), "Job")["spec"]["suspend"] is True


def test_case_20_a_resumed_job_goes_on_with_its_count_its_attempt_and_new_deadlines():
    scene = Scene(activeDeadlineSeconds=100).running(actors=3)
    suspend(scene)
    scene.after(10_000).change(suspend=False)
    decided = scene.step()
    assert applied(decided, "Job")["spec"]["suspend"] is False
    assert applied(decided, "Deployment")["spec"]["replicas"] == 3
    status = decided.status
    assert (status.phase, status.attempt) == ("Pending", 1)
    assert truth(status, "Suspended") == ("False", "NotSuspended")
    assert reasons(decided) == ["Resumed"]
    assert scene.after(99).step().status.phase != "Failed"
    assert truth(scene.after(1).step().status, "Failed") == ("True", "DeadlineExceeded")


def test_case_20_what_the_learner_said_before_a_suspension_does_not_make_the_job_run():
    scene = Scene().running()
    suspend(scene)
    scene.change(suspend=False).step()
    scene.learner_pod("pole-learner-b")
    assert scene.step().status.phase == "Starting"
    assert scene.status.env_steps == 1000
    scene.hear(version=6, env_steps=1200)
    assert scene.step().status.phase == "Running"


def test_case_21_a_job_created_suspended_has_no_pods_and_its_deadlines_start_at_resume():
    scene = Scene(suspend=True, startDeadlineSeconds=60, activeDeadlineSeconds=600)
    decided = scene.step()
    assert applied(decided, "Job") is None
    assert applied(decided, "Deployment") is None
    assert applied(decided, "ConfigMap") is not None
    assert (decided.status.phase, decided.status.start_time) == ("Suspended", None)
    assert scene.after(10_000).step().status.phase == "Suspended"
    decided = scene.change(suspend=False).step()
    assert applied(decided, "Job") is not None
    assert decided.status.start_time == scene.now.wall
    assert "Started" in reasons(decided)
    assert scene.after(59).step().status.phase == "Pending"
    assert truth(scene.after(1).step().status, "Failed") == ("True", "StartDeadlineExceeded")


def test_a_job_that_completes_while_it_is_suspended_is_complete():
    scene = Scene().running()
    scene.change(suspend=True).step()
    scene.learner_pod(phase="Succeeded", ready=False, state=ended(0, words(version=9)))
    scene.condition("Job", "pole-learner", type="Complete")
    assert scene.step().status.phase == "Complete"


# Deadlines.


def test_case_10_a_job_that_never_trains_fails_at_its_start_deadline_with_the_reason():
    scene = Scene(startDeadlineSeconds=300)
    scene.step()
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image: learner:1"}}
    scene.learner_pod(phase="Pending", ready=False, state=waiting)
    decided = scene.after(299).step()
    assert decided.status.phase == "Pending"
    assert decided.requeue_after <= 1
    decided = scene.after(1).step()
    assert truth(decided.status, "Failed") == ("True", "StartDeadlineExceeded")
    assert "no such image: learner:1" in decided.status.message
    assert "spec.startDeadlineSeconds (300 s)" in decided.status.message
    assert [(p.resource.kind, p.change["spec"]) for p in decided.patches] == [
        ("Deployment", {"replicas": 0}),
        ("Job", {"suspend": True}),
    ]
    assert reasons(decided) == ["Failed"]


def test_a_job_that_may_be_training_is_not_failed_because_the_operator_cannot_ask():
    scene = Scene(startDeadlineSeconds=60)
    scene.step()
    scene.learner_pod()
    decided = scene.after(59).step()
    assert truth(decided.status, "LearnerAvailable") == ("False", "Starting")
    decided = scene.after(1).step()
    for kind in ("LearnerAvailable", "Progressing"):
        assert truth(decided.status, kind) == ("False", "NotAnswering")
    assert decided.status.phase == "Starting"
    assert "let through to port 7600" in decided.status.message
    assert decided.requeue_after > 1
    scene.hear(version=5, env_steps=1000)
    assert scene.after(1).step().status.phase == "Running"


@pytest.mark.parametrize("how", ["not ready", "heard", "suspended"])
def test_a_start_deadline_is_held_for_nobody_who_is_known_not_to_train(how):
    scene = Scene(startDeadlineSeconds=60)
    scene.step()
    scene.learner_pod(ready=how != "not ready")
    scene.after(60)
    if how == "heard":
        scene.hear(phase=pb.LEARNER_PHASE_STARTING)
    if how == "suspended":
        scene.change(suspend=True)
        assert truth(scene.step().status, "LearnerAvailable") == ("False", "Suspending")
    else:
        assert truth(scene.step().status, "Failed") == ("True", "StartDeadlineExceeded")


def test_the_start_deadline_is_over_with_the_first_fragment():
    scene = Scene(startDeadlineSeconds=60).running()
    assert scene.after(10_000).step().status.phase == "Running"


def test_a_learner_made_anew_has_all_of_the_start_deadline_again():
    scene = Scene(startDeadlineSeconds=60).running()
    scene.after(1000).remove("Pod", "pole-learner-a")
    scene.remove("Job", "pole-learner")
    decided = scene.step()
    assert (decided.status.attempt, decided.status.phase) == (2, "Pending")
    assert scene.after(59).step().status.phase == "Pending"
    assert truth(scene.after(1).step().status, "Failed") == ("True", "StartDeadlineExceeded")


def test_the_active_deadline_ends_a_job_that_trains():
    scene = Scene(activeDeadlineSeconds=500).running()
    assert scene.after(499).step().status.phase == "Running"
    decided = scene.after(1).step()
    assert truth(decided.status, "Failed") == ("True", "DeadlineExceeded")
    assert {patch.resource.kind for patch in decided.patches} == {"Deployment", "Job"}


# The end.


def test_a_complete_job_ends_with_the_learners_last_words():
    scene = Scene().running()
    said = words(version=40, env_steps=100_000, return_mean=480.5, message="100000 of 100000 steps")
    scene.learner_pod(phase="Succeeded", ready=False, state=ended(0, said))
    scene.condition("Job", "pole-learner", type="Complete")
    decided = scene.after(3).step()
    status = decided.status
    assert (status.phase, status.version, status.env_steps) == ("Complete", 40, 100_000)
    assert status.completion_time == scene.now.wall
    assert status.message == "100000 of 100000 steps"
    (note,) = decided.notes
    assert note.reason == "Completed"
    assert "100000 environment steps with a mean return of 480.5" in note.message


def test_a_language_models_samples_are_called_completions():
    tiny = {"type": "languageModel", "tiny": {"layers": 1, "hiddenSize": 16, "heads": 2}}
    task, algorithm = {"type": "languageModel"}, {"name": "vaco-lm"}
    scene = Scene(task=task, policy=tiny, algorithm=algorithm).running()
    (message,) = (c.message for c in scene.status.conditions if c.type == "Progressing")
    assert message == "1000 completions."
    said = words(version=40, env_steps=100_000, message="100000 of 100000 completions are trained")
    scene.learner_pod(phase="Succeeded", ready=False, state=ended(0, said))
    scene.condition("Job", "pole-learner", type="Complete")
    (note,) = scene.after(3).step().notes
    assert note.message.startswith("Complete after 100000 completions: ")


def test_a_job_is_complete_though_nothing_was_heard_of_the_end():
    scene = Scene().running()
    scene.remove("Pod", "pole-learner-a")
    scene.condition("Job", "pole-learner", type="Complete")
    status = scene.step().status
    assert (status.phase, status.message, status.version) == ("Complete", "Training is done.", 5)


def test_case_24_a_job_that_ended_while_the_operator_was_down_is_complete_at_its_start():
    scene = Scene().running()
    scene.memory, scene.answer = type(scene.memory)(), None
    scene.learner_pod(phase="Succeeded", ready=False, state=ended(0, words(version=40)))
    scene.condition("Job", "pole-learner", type="Complete")
    status = scene.step().status
    assert (status.phase, status.version) == ("Complete", 40)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (words(message="`spec.task`: no such environment."), "`spec.task`: no such environment."),
        ("Traceback\n  File x\nValueError: broken\n", "ValueError: broken"),
        ("", "learner ended (exit status 3)"),
    ],
)
def test_a_learner_that_cannot_succeed_fails_the_job_with_its_own_message(said, told):
    scene = Scene().running()
    scene.learner_pod(phase="Failed", ready=False, state=ended(3, said))
    scene.condition("Job", "pole-learner", type="Failed", reason="PodFailurePolicy", message="x")
    decided = scene.step()
    assert truth(decided.status, "Failed") == ("True", "PermanentFailure")
    assert decided.status.message.startswith("learner ended (exit status 3)")
    assert decided.status.message.endswith(told)


def test_a_learner_that_dies_too_often_fails_the_job():
    scene = Scene().running()
    state = ended(137, reason="OOMKilled")
    scene.learner_pod(phase="Failed", ready=False, state=state)
    scene.condition("Job", "pole-learner", type="Failed", reason="BackoffLimitExceeded")
    status = scene.step().status
    assert truth(status, "Failed") == ("True", "BackoffLimitExceeded")
    assert status.message == (
        "learner ended (exit status 137 (OOMKilled)), more often than spec.backoffLimit allows"
    )


@pytest.mark.parametrize(
    ("restarts", "ran", "fails"), [(6, 5, False), (7, 5, True), (50, 3600, False)]
)
def test_an_actor_that_dies_again_and_again_fails_the_job_unless_it_runs_well_in_between(
    restarts, ran, fails
):
    scene = Scene().running()
    last = ended(1, "log\nValueError: no display\n", ran=ran)
    scene.actor_pods("pole-actors-0", ready=False, restartCount=restarts, lastState=last)
    status = scene.step().status
    assert (status.phase == "Failed") == fails
    if fails:
        assert truth(status, "Failed") == ("True", "BackoffLimitExceeded")
        assert "actor pole-actors-0 ended (exit status 1): ValueError: no display" in status.message


def test_an_actor_that_says_it_can_never_work_fails_the_job_at_once():
    scene = Scene().running()
    last = ended(3, "`spec.task.environment`: no such environment.")
    scene.actor_pods("pole-actors-1", ready=False, restartCount=1, lastState=last)
    decided = scene.step()
    assert truth(decided.status, "Failed") == ("True", "PermanentFailure")
    assert "no such environment" in decided.status.message


@pytest.mark.parametrize("code", [0, 1, 3])
def test_actors_that_end_when_the_learner_is_done_fail_nothing(code):
    scene = Scene().running()
    scene.hear(version=9, phase=pb.LEARNER_PHASE_COMPLETE)
    scene.actor_pods("pole-actors-0", ready=False, restartCount=9, lastState=ended(code))
    assert scene.step().status.phase == "Running"


# After the end.


def finish(scene: Scene) -> Scene:
    scene.learner_pod(phase="Succeeded", ready=False, state=ended(0, words(version=40)))
    scene.condition("Job", "pole-learner", type="Complete")
    assert scene.step().status.phase == "Complete"
    return scene


def suspend(scene: Scene) -> None:
    scene.change(suspend=True).step()
    for pod in scene.observed.actor_pods:
        scene.remove("Pod", pod.name)
    scene.step()
    for pod in scene.observed.learner_pods:
        scene.remove("Pod", pod.name)
    assert scene.step().status.phase == "Suspended"


@pytest.mark.parametrize(
    ("policy", "replicas", "learner_pod_stays"),
    [("Running", 0, True), ("All", 0, False), ("None", 2, True)],
)
def test_case_22_pods_are_cleaned_up_as_the_policy_says(policy, replicas, learner_pod_stays):
    scene = finish(Scene(cleanPodPolicy=policy).running())
    scene.step()
    assert scene.document("Deployment", "pole-actors")["spec"]["replicas"] == replicas
    pod = scene.document("Pod", "pole-learner-a")
    assert ("deletionTimestamp" not in pod["metadata"]) == learner_pod_stays
    settled = scene.look()
    assert (settled.patches, settled.deletions, settled.status) == ((), (), None)


@pytest.mark.parametrize("policy", ["Running", "All", "None"])
def test_a_learner_that_still_runs_in_a_failed_job_is_ended_whatever_the_policy(policy):
    scene = Scene(cleanPodPolicy=policy, activeDeadlineSeconds=10).running()
    scene.after(10).step()
    assert scene.document("Job", "pole-learner")["spec"]["suspend"] is True


def test_case_22_a_finished_job_ignores_scaling_and_changes_of_its_spec():
    scene = finish(Scene().running())
    scene.change(actors={"replicas": 7}, suspend=True, stop={"envSteps": 10**9})
    scene.remove("Service", "pole-learner")
    decided = scene.look()
    (patch,) = decided.patches
    assert (patch.resource.kind, patch.name, patch.subresource) == ("VACOJob", "pole", "status")
    assert patch.change == {"status": {"observedGeneration": 2}}
    assert (decided.children, decided.deletions) == ((), ())
    assert (decided.status, decided.learner) == (None, None)
    scene.job["status"]["observedGeneration"] = 2
    assert scene.look().patches == ()


def test_case_22_the_job_itself_is_deleted_when_its_time_is_over():
    scene = finish(Scene(ttlSecondsAfterFinished=60).running())
    assert scene.after(20).look().requeue_after == pytest.approx(40)
    decided = scene.after(40).look()
    assert [(d.resource.kind, d.name, d.uid) for d in decided.deletions] == [
        ("VACOJob", "pole", UID)
    ]
    assert finish(Scene().running()).look().requeue_after is None


def test_a_finished_job_whose_spec_cannot_be_read_is_still_cleaned_up():
    scene = finish(Scene(ttlSecondsAfterFinished=0).running())
    scene.job["spec"]["policy"] = {"network": {"type": "transformer"}}
    assert [d.resource.kind for d in scene.look().deletions] == ["VACOJob"]


# A spec that cannot be read.


def test_a_spec_that_cannot_be_read_is_told_by_field_and_cure_and_makes_nothing():
    scene = Scene(cleanPodPolicy="Some")
    decided = scene.step()
    status = decided.status
    assert truth(status, "Progressing") == ("False", "InvalidSpec")
    assert "`spec.cleanPodPolicy`" in status.message
    assert "Running" in status.message
    assert (status.phase, status.completion_time) == ("Pending", None)
    assert decided.children == ()
    assert reasons(decided) == ["InvalidSpec"]
    assert reasons(scene.look()) == []


def test_a_pod_template_that_cannot_be_merged_is_told_likewise():
    containers = [{"image": "no name"}]
    scene = Scene(learner={"podTemplate": {"spec": {"containers": containers}}})
    status = scene.step().status
    assert truth(status, "Progressing") == ("False", "InvalidSpec")
    assert "spec.learner.podTemplate" in status.message


def test_what_runs_is_left_alone_and_the_job_goes_on_when_its_spec_is_mended():
    scene = Scene(startDeadlineSeconds=60, activeDeadlineSeconds=2000).running()
    before = dict(scene.job["spec"])
    scene.after(1000).change(cleanPodPolicy="Some")
    decided = scene.step()
    assert (decided.patches, decided.deletions, decided.children) == ((), (), ())
    assert truth(decided.status, "Progressing") == ("False", "InvalidSpec")
    assert truth(decided.status, "Failed")[0] == "False"
    assert decided.status.phase == "Running"
    scene.job["spec"] = before
    status = scene.after(999).step().status
    assert status.phase == "Running"
    assert truth(status, "Progressing")[1] == "NotAnswering"
    assert truth(scene.after(1).step().status, "Failed") == ("True", "DeadlineExceeded")


def test_fields_of_a_newer_definition_do_not_trouble_a_job_whose_operator_is_about_to_be_newer():
    scene = Scene().running()
    scene.change(novelty=1, task={"novelty": {"a": 1}})
    scene.change(policy={"network": {"type": "mlp", "novelty": [2]}, "novelty": 3})
    decided = scene.look()
    assert decided.deletions == ()
    assert truth(decided.status, "Progressing") == ("True", "Training")


def test_a_status_of_another_version_is_read_as_far_as_it_is_known():
    scene = finish(Scene().running())
    scene.job["status"]["novelty"] = {"a": 1}
    scene.job["status"]["conditions"].append({"type": "Novel", "status": "True"})
    scene.job["status"]["lag"] = "none"
    assert scene.look().status is None
    assert scene.status.phase == "Complete"
    assert truth(scene.status, "Complete")[0] == "True"
