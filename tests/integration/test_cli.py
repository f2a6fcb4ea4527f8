"""The command line as its user meets it: real processes, exit statuses, errors without traces."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from vaco.checkpoints import PARTS, Manifest
from vaco.job import VACOJobStatus, load_job
from vaco_operator.local.adoption import adopt
from vaco_operator.local.run_directory import RunDirectory

VACO = [str(Path(sys.executable).with_name("vaco"))]
COMMANDS = ("run", "scale", "status", "evaluate", "export", "report", "validate", "explain")
MANIFEST = """
apiVersion: training.vaco.dev/v1alpha1
kind: VACOJob
metadata: {name: pole}
spec:
  task: {environment: CartPole-v1}
  actors: {minReplicas: 1, maxReplicas: 3}
  stop: {envSteps: 1000, return: {mean: 475}}
"""

Vaco = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "job.yaml"
    path.write_text(MANIFEST)
    return path


@pytest.fixture
def vaco(tmp_path: Path) -> Vaco:
    """Call `vaco` in a directory of its own; no error may show a traceback."""

    def call(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [*VACO, *map(str, arguments)]
        done = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        assert "Traceback" not in done.stderr + done.stdout
        return done

    return call


@pytest.fixture
def run(manifest: Path, tmp_path: Path) -> RunDirectory:
    """A run directory in which nothing runs."""
    directory = RunDirectory(tmp_path / "runs" / "pole")
    directory.root.mkdir(parents=True)
    adopt(directory, load_job(manifest))
    return directory


def test_help_answers_at_once_and_names_every_command():
    seconds = []
    for _ in range(3):
        process = subprocess.Popen([*VACO, "--help"], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        text = process.stdout.read()
        _, code, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
        process.stdout.close()
        assert process.returncode == 0
        seconds.append(used.ru_utime + used.ru_stime)
    # Of processor time, because other tests may be using the processor as well.
    assert min(seconds) < 0.5
    for command in COMMANDS:
        assert f"\n  {command} " in text


def test_the_version_is_that_of_the_distribution(vaco):
    done = vaco("--version")
    assert (done.returncode, done.stdout) == (0, f"vaco {version('vaco')}\n")


def test_nothing_of_the_operator_imports_torch_or_gymnasium():
    code = (
        "import importlib, pkgutil, sys, vaco_operator; "
        "names = [m.name for m in pkgutil.walk_packages(vaco_operator.__path__, 'vaco_operator.')"
        " if not m.name.endswith(('__main__', '_guard'))]; "
        "[importlib.import_module(name) for name in names]; "
        "print(len(names), sorted({'torch', 'gymnasium', 'vaco_policy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, found = done.stdout.split(maxsplit=1)
    assert int(count) > 15
    assert found.strip() == "[]"


def test_validate_accepts_what_is_sound(vaco, manifest):
    done = vaco("validate", manifest, "--set", "algorithm.epochs=2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "a sound VACOJob, pole; its environment can be made" in done.stdout


def test_validate_names_place_value_and_cure_of_every_problem_in_every_file(vaco, manifest):
    wrong = manifest.with_name("wrong.yaml")
    wrong.write_text(MANIFEST.replace("actors:", "algorithm: {detla: 3, gamma: 2}\n  actors:"))
    done = vaco("validate", wrong, manifest, "nosuch.yaml", "--no-environment")
    assert done.returncode == 2
    for part in ("wrong.yaml", "spec.algorithm.detla", "`delta`", "spec.algorithm.gamma", "2"):
        assert part in done.stderr
    assert "nosuch.yaml" in done.stderr
    assert "job.yaml" in done.stdout


def test_validate_makes_the_environment_unless_told_not_to(vaco, manifest):
    wrong = ("validate", manifest, "--set", "task.environment=CartPol-v1")
    done = vaco(*wrong)
    assert (done.returncode, done.stdout) == (2, "")
    assert "job.yaml: 1 problem" in done.stderr
    assert "`spec.task.environment`: 'CartPol-v1' is not the id" in done.stderr
    assert "Did you mean `CartPole-v1`?" in done.stderr
    unchecked = vaco(*wrong, "--no-environment")
    assert (unchecked.returncode, unchecked.stderr) == (0, "")
    assert "its environment was not checked" in unchecked.stdout


def test_validate_says_which_module_of_ones_own_cannot_be_imported(vaco, manifest):
    (manifest.parent / "mine.py").write_text("raise RuntimeError('it broke')\n")
    done = vaco("validate", manifest, "--set", "task.imports=[mine.py]")
    assert done.returncode == 2
    assert "it broke" in done.stderr


def test_explain_documents_a_field_and_refuses_an_unknown_one(vaco):
    done = vaco("explain", "spec.algorithm.delta")
    assert done.returncode == 0
    assert "0.2" in done.stdout
    assert "spec" in vaco("explain").stdout
    unknown = vaco("explain", "spec.algorithm.detla")
    assert unknown.returncode == 2
    assert "delta" in unknown.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "nosuch.yaml"], "nosuch.yaml"),
        (["run", "job.yaml", "--set", "algorithm.epochs=0"], "spec.algorithm.epochs"),
        (["run", "job.yaml", "--set", "nonsense"], "nonsense"),
        (["run", "job.yaml", "--actors", "9"], "9 is not within 1 to 3"),
        (["run", "job.yaml", "--run-dir", "job.yaml"], "job.yaml"),
        (["status", "nosuch"], "nosuch"),
        (["fly"], "fly"),
    ],
)
def test_bad_input_is_refused_with_its_cause(vaco, manifest, arguments, words):
    done = vaco(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert not (manifest.parent / "runs").exists()


def test_a_directory_that_cannot_be_made_is_no_traceback(vaco, manifest):
    done = vaco("run", manifest, "--run-dir", "/proc/none/run")
    assert done.returncode == 2
    assert "/proc/none" in done.stderr


@pytest.mark.usefixtures("run")
def test_another_job_may_not_run_in_a_run_directory(vaco, manifest):
    done = vaco("run", manifest, "--set", "seed=7", "--set", "algorithm.delta=0.4")
    assert done.returncode == 2
    assert "spec.seed: 0 -> 7" in done.stderr
    assert "spec.algorithm.delta: 0.2 -> 0.4" in done.stderr


def test_a_second_runner_of_the_same_directory_is_refused(vaco, manifest, run):
    with run.locked():
        done = vaco("run", manifest)
    assert done.returncode == 2
    assert f"process {os.getpid()}" in done.stderr


def test_a_suspended_job_starts_nothing(vaco, manifest):
    done = vaco("run", manifest, "--set", "suspend=true")
    assert done.returncode == 0
    assert "Suspended" in done.stdout
    assert not (manifest.parent / "runs/pole/logs").exists()
    status = json.loads(vaco("status", "pole", "--json").stdout)
    assert status["phase"] == "Suspended"
    assert {"type": "Suspended", "status": "True"}.items() <= status["conditions"][3].items()


def test_a_complete_run_is_left_alone_unless_it_shall_go_further(vaco, manifest, run):
    run.write_status(VACOJobStatus(phase="Complete", message="envSteps 1000 reached 1000"))
    done = vaco("run", manifest)
    assert done.returncode == 0
    assert "complete already: envSteps 1000 reached 1000" in done.stdout
    assert not (run.root / "logs").exists()
    suspended = vaco("run", manifest, "--set", "stop.envSteps=2000", "--set", "suspend=true")
    assert "spec.stop.envSteps: 1000 -> 2000" in suspended.stdout
    assert "Suspended" in suspended.stdout


def test_status_is_the_document_that_the_runner_wrote(vaco, run):
    written = VACOJobStatus(phase="Complete", env_steps=12_345, return_mean=3.5, message="done")
    run.write_status(written)
    for name in ("pole", run.root):
        done = vaco("status", name, "--json")
        assert VACOJobStatus.model_validate_json(done.stdout) == written
        assert json.loads(done.stdout) == json.loads(run.status_file.read_text())
    line = vaco("status", "pole").stdout
    assert "12,345" in line
    assert "Complete: done" in line


def test_status_does_not_believe_a_runner_that_was_killed(vaco, run):
    run.write_status(VACOJobStatus(phase="Running", env_steps=12))
    status = json.loads(vaco("status", "pole", "--json").stdout)
    assert (status["phase"], status["envSteps"]) == ("Suspended", 12)
    assert "resumes" in status["message"]
    with run.locked():
        assert json.loads(vaco("status", "pole", "--json").stdout)["phase"] == "Running"


def test_watching_ends_when_nothing_runs_any_more(vaco, run):
    run.write_status(VACOJobStatus(phase="Failed", message="it broke"))
    done = vaco("status", "pole", "--watch")
    assert done.returncode == 0
    assert "Failed: it broke" in done.stdout


@pytest.mark.usefixtures("run")
def test_scaling_needs_a_runner(vaco):
    done = vaco("scale", "pole", "2")
    assert done.returncode == 2
    assert "not running" in done.stderr
    assert vaco("scale", "pole", "-1").returncode == 2


@pytest.mark.usefixtures("run")
def test_a_run_without_checkpoints_cannot_be_evaluated_or_exported(vaco):
    for command in ("evaluate", "export"):
        done = vaco(command, "pole")
        assert done.returncode == 2
        assert "there is no checkpoint" in done.stderr
    done = vaco("evaluate", "pole", "--version", "7")
    assert "no checkpoint of version 7" in done.stderr


def test_damaged_checkpoints_are_passed_over(vaco, run):
    damaged = run.checkpoints / "v000000009"
    damaged.mkdir(parents=True)
    (damaged / "policy.safetensors").write_bytes(b"half")
    uid = run.load_job().metadata.uid
    manifest = Manifest.of(uid, 1, 9, dict.fromkeys(PARTS, b"whole"))
    (damaged / "MANIFEST.json").write_bytes(manifest.to_bytes())
    done = vaco("evaluate", "pole")
    assert done.returncode == 2
    assert "damaged" in done.stderr


def test_a_report_is_written_for_any_run(vaco, run):
    done = vaco("report", "pole")
    assert done.stdout == "report: runs/pole/report.html\n"
    assert "</html>" in run.report_file.read_text()


def test_a_reader_that_goes_away_is_no_error_to_report():
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(
        [*VACO, "explain", "spec"], stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors == ""
