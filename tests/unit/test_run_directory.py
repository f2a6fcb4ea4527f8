"""A run directory: one holder, files replaced as a whole, and one job for all its runs."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from vaco.checkpoints import checkpoint_name
from vaco.errors import UserError
from vaco.job import VACOJob, VACOJobStatus, parse_job
from vaco.metrics_file import read_lines
from vaco.schema.changes import change_of, presence_of
from vaco.schema.tree import tree_of
from vaco_operator.local.adoption import MAY_CHANGE, adopt, differences
from vaco_operator.local.run_directory import RunDirectory
from vaco_operator.local.scale_request import (
    ScaleRequest,
    answer_request,
    ask_to_scale,
    take_request,
)

HOLDER = """
import sys
import threading
from pathlib import Path
from vaco_operator.local.run_directory import RunDirectory
with RunDirectory(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def pole(name: str = "pole", uid: str | None = None, **spec: object) -> VACOJob:
    metadata = {"name": name} | ({"uid": uid} if uid else {})
    return parse_job(
        {
            "apiVersion": "training.vaco.dev/v1alpha1",
            "kind": "VACOJob",
            "metadata": metadata,
            "spec": {"task": {"environment": "CartPole-v1"}, "stop": {"envSteps": 1000}, **spec},
        }
    )


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    root = tmp_path / "run"
    root.mkdir()
    return RunDirectory(root)


def test_the_lock_has_one_holder_and_dies_with_it(directory):
    assert not directory.in_use()
    command = [sys.executable, "-c", HOLDER, str(directory.root)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert directory.in_use()
        with pytest.raises(UserError, match=f"process {holder.pid}"), directory.locked():
            pytest.fail("two runners hold one directory")
    finally:
        holder.kill()
        holder.communicate()
    assert not directory.in_use()
    with directory.locked():
        assert directory.in_use()
    assert not directory.in_use()


def test_a_new_job_gets_an_identity_that_later_runs_keep(directory):
    first = adopt(directory, pole())
    assert first.changes is None
    assert first.job.metadata.uid
    assert first.job.metadata.generation == 1
    again = adopt(directory, pole())
    assert again.changes == ()
    assert again.job == first.job == directory.load_job()


def test_an_identity_given_is_kept_and_another_refused(directory):
    assert adopt(directory, pole(uid="abc")).job.metadata.uid == "abc"
    assert adopt(directory, pole()).job.metadata.uid == "abc"
    with pytest.raises(UserError, match=r'metadata\.uid: "abc" -> "xyz"'):
        adopt(directory, pole(uid="xyz"))


def test_what_may_change_is_told_and_stored(directory):
    first = adopt(directory, pole())
    longer = pole(stop={"envSteps": 2000}, actors={"maxReplicas": 3})
    adoption = adopt(directory, longer)
    assert adoption.changes == (
        "spec.actors.maxReplicas: 1 -> 3",
        "spec.stop.envSteps: 1000 -> 2000",
    )
    assert adoption.touches("stop")
    assert adoption.touches("actors")
    assert not adoption.touches("evaluation")
    assert adoption.job.metadata.uid == first.job.metadata.uid
    assert adoption.job.metadata.generation == 2
    assert directory.load_job().spec.stop.env_steps == 2000


@pytest.mark.parametrize(
    "spec",
    [
        {"startDeadlineSeconds": 60, "activeDeadlineSeconds": 3600},
        {"learner": {"storage": {"size": "20Gi"}}},
        {"learner": {"podTemplate": {"spec": {"nodeSelector": {"gpu": "yes"}}}}},
    ],
)
def test_what_has_no_meaning_here_may_change(directory, spec):
    adopt(directory, pole())
    assert adopt(directory, pole(**spec)).changes


@pytest.mark.parametrize(
    ("job", "difference"),
    [
        (pole(seed=7), "spec.seed: 0 -> 7"),
        (pole("rod"), 'metadata.name: "pole" -> "rod"'),
        (pole(algorithm={"delta": 0.3}), "spec.algorithm.delta: 0.2 -> 0.3"),
        (pole(algorithm={"name": "spo"}), 'spec.algorithm.name: "vaco" -> "spo"'),
        (pole(policy={"core": {"type": "gru"}}), 'spec.policy.core.type: not set -> "gru"'),
    ],
)
def test_another_job_is_refused_with_the_fields_named(directory, job, difference):
    adopt(directory, pole())
    stored = directory.job_file.read_text()
    with pytest.raises(UserError) as refused:
        adopt(directory, job)
    assert difference in str(refused.value)
    assert "--run-dir" in str(refused.value)
    assert directory.job_file.read_text() == stored


def test_a_run_that_trained_nothing_makes_way_for_the_mended_job(directory):
    first = adopt(directory, pole(task={"environment": "CartPol-v1"}))
    directory.write_status(VACOJobStatus(phase="Failed", message="no such environment"))
    directory.next_incarnation("actor-0")
    directory.append_event("failed")
    (directory.checkpoints / checkpoint_name(0)).mkdir(parents=True)
    (directory.root / "notes.txt").write_text("precious")
    mended = adopt(directory, pole())
    assert mended.changes is None
    assert mended.replaced == ('spec.task.environment: "CartPol-v1" -> "CartPole-v1"',)
    assert mended.job.metadata.uid != first.job.metadata.uid
    assert directory.load_job() == mended.job
    assert sorted(path.name for path in directory.root.iterdir()) == ["job.yaml", "notes.txt"]


@pytest.mark.parametrize("what", ["steps", "checkpoint", "complete", "name"])
def test_a_run_with_something_to_lose_stays(directory, what):
    adopt(directory, pole())
    steps, phase = (5 if what == "steps" else 0), "Complete" if what == "complete" else "Failed"
    directory.write_status(VACOJobStatus(phase=phase, env_steps=steps))
    if what == "checkpoint":
        (directory.checkpoints / checkpoint_name(3)).mkdir(parents=True)
    with pytest.raises(UserError, match=rf"rm -r {directory.root}") as refused:
        adopt(directory, pole("rod" if what == "name" else "pole", seed=7))
    assert "spec.seed: 0 -> 7" in str(refused.value)


def test_what_may_change_at_any_time_on_a_cluster_may_change_between_runs_here():
    wishes = {path for path, _ in tree_of(VACOJob).fields["spec"].walk()}
    wishes = {path for path in wishes if change_of(path) == "any time"}
    allowed = tuple(f"{name}." for name in MAY_CHANGE)
    assert {path for path in wishes if not f"{path}.".startswith(allowed)} == set()
    never = [name for name in MAY_CHANGE if presence_of(name) == "never"]
    assert never == ["learner.storage"]  # which has no meaning here


def test_differences_are_named_in_both_directions():
    assert differences(pole(), pole()) == ()
    core = pole(policy={"core": {"type": "gru"}})
    assert 'spec.policy.core.type: "gru" -> not set' in differences(core, pole())


def test_a_directory_with_other_things_in_it_is_refused(directory):
    (directory.root / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match=r"thesis\.tex"):
        adopt(directory, pole())
    assert not directory.job_file.exists()


def test_a_status_is_read_as_it_was_written_and_never_half(directory):
    assert directory.read_status() is None
    status = VACOJobStatus(phase="Running", env_steps=12)
    directory.write_status(status)
    assert directory.read_status() == status
    document = json.loads(directory.status_file.read_text())
    assert (document["phase"], document["envSteps"]) == ("Running", 12)
    directory.status_file.write_text('{"phase": "Runn')
    with pytest.raises(UserError, match=r"status\.json"):
        directory.read_status()


def test_incarnations_grow_over_all_runs_of_an_actor(directory):
    assert [directory.next_incarnation("actor-0") for _ in range(3)] == [1, 2, 3]
    assert RunDirectory(directory.root).next_incarnation("actor-0") == 4
    assert directory.next_incarnation("actor-1") == 1
    (directory.root / "actors.json").write_text("[1]")
    with pytest.raises(UserError, match=r"actors\.json"):
        directory.next_incarnation("actor-0")


def test_events_are_lines_and_a_torn_one_is_told_apart(directory):
    directory.append_event("scaled", before=1, after=2, reason="demand")
    with directory.events_file.open("a") as file:
        file.write('{"event": "sca')
    whole, torn = read_lines(directory.events_file)
    assert whole is not None
    assert (whole["event"], whole["after"]) == ("scaled", 2)
    assert whole["time"] > 1.7e9
    assert torn is None
    assert list(read_lines(directory.root / "none.jsonl")) == []


def test_a_request_to_scale_is_taken_once_and_nonsense_is_dropped(directory):
    assert take_request(directory) is None
    file = directory.root / "scale.request.json"
    file.write_text('{"id": "a", "replicas": 3}')
    request = take_request(directory)
    assert request is not None
    assert (request.id, request.replicas) == ("a", 3)
    assert take_request(directory) is None
    for nonsense in ("{", "[]", '{"id": "a"}', '{"id": "a", "replicas": true}'):
        file.write_text(nonsense)
        assert take_request(directory) is None
        assert not file.exists()


def test_who_asks_to_scale_gets_the_answer_to_its_own_question(directory):
    adopt(directory, pole())
    stop = threading.Event()

    def runner() -> None:
        while not stop.wait(0.01):
            if request := take_request(directory):
                answer_request(directory, request, f"{request.replicas} actors")
                return

    with directory.locked():
        answer_request(directory, ScaleRequest("another's", 9), "9 actors")
        thread = threading.Thread(target=runner)
        thread.start()
        try:
            assert ask_to_scale(directory, 3) == "3 actors"
        finally:
            stop.set()
            thread.join()
        with pytest.raises(UserError, match="did not answer"):
            ask_to_scale(directory, 4, patience=0.2)
    with pytest.raises(UserError, match="not running"):
        ask_to_scale(directory, 3)
