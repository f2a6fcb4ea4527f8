"""The local runner with children that misbehave: stand-ins that hang, to inject just that fault."""

import os
import signal
import sys
from pathlib import Path

import pytest
from vaco.job import VACOJob, VACOJobStatus, parse_job
from vaco_operator.local import runner as module
from vaco_operator.local.adoption import adopt
from vaco_operator.local.learner_probe import ReservedPort
from vaco_operator.local.processes import Process
from vaco_operator.local.programs import Programs
from vaco_operator.local.run_directory import RunDirectory
from vaco_operator.local.runner import Ended, LocalRunner

HANGS = "import time; print('loading', flush=True); time.sleep(600)"
DOES_NOT_LEAVE = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {HANGS}"


class HangingPrograms(Programs):
    """Its learner never listens, its actors do not leave when told to."""

    def start_learner(self) -> Process:
        return self._stub("learner", HANGS)

    def start_actor(self, index: int) -> Process:
        return self._stub(f"actor-{index}", DOES_NOT_LEAVE)

    def _stub(self, name: str, code: str) -> Process:
        return Process.start(name, [sys.executable, "-c", code], self.directory.log_file(name))


class Recorder:
    """A view that keeps what it is shown, and interrupts once a file is written to."""

    def __init__(self, interrupt_at: Path | None = None) -> None:
        self.shown: list[VACOJobStatus] = []
        self.notes: list[str] = []
        self._interrupt_at = interrupt_at

    def show(self, status: VACOJobStatus) -> None:
        self.shown.append(status)
        file = self._interrupt_at
        if file is not None and file.exists() and file.read_text():
            self._interrupt_at = None
            os.kill(os.getpid(), signal.SIGINT)

    def note(self, text: str) -> None:
        self.notes.append(f"{len(self.shown)} shown: {text}")


def job(**spec: object) -> VACOJob:
    return parse_job(
        {
            "apiVersion": "training.vaco.dev/v1alpha1",
            "kind": "VACOJob",
            "metadata": {"name": "pole"},
            "spec": {
                "task": {"environment": "CartPole-v1"},
                "actors": {"drainSeconds": 2},
                "stop": {"envSteps": 1000},
                **spec,
            },
        }
    )


def run(root: Path, view: Recorder, **spec: object) -> Ended:
    directory = RunDirectory(root)
    with directory.locked() as lock, ReservedPort() as port:
        adopted = adopt(directory, job(**spec)).job
        programs = HangingPrograms(adopted, directory, port.address, lock)
        return LocalRunner(programs, None, 1, view).run()


def test_a_learner_that_never_answers_is_killed_and_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VACO_STUCK_SECONDS", "1")
    monkeypatch.setattr(module, "FAREWELL_SECONDS", 0.5)
    view = Recorder()
    ended = run(tmp_path / "run", view, backoffLimit=1)
    assert (ended.outcome.phase, ended.outcome.reason) == ("Failed", "BackoffLimitExceeded")
    assert ended.outcome.message.startswith("learner hung (it did not answer within ")
    assert "more often than spec.backoffLimit allows" in ended.outcome.message
    assert sum("learner is killed" in note for note in view.notes) == 2


def test_what_a_run_waited_for_is_not_shown_once_it_stops(tmp_path: Path) -> None:
    view = Recorder(interrupt_at=tmp_path / "run" / "logs" / "actor-0.log")
    ended = run(tmp_path / "run", view)
    assert (ended.outcome.phase, ended.by) == ("Suspended", signal.SIGINT)
    (note,) = view.notes
    before = int(note.split()[0])
    assert [status.phase for status in view.shown[before:]] == ["Suspended"]


def test_the_cores_of_this_machine_bound_what_is_added(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda _: set(range(8)))
    directory = RunDirectory(tmp_path / "run")
    with directory.locked() as lock, ReservedPort() as port:
        adopted = adopt(directory, job(learner={"threads": 2}, actors={"threads": 2})).job
        programs = HangingPrograms(adopted, directory, port.address, lock)
        assert LocalRunner(programs, None, 1, Recorder())._scaler.policy.room == 3
