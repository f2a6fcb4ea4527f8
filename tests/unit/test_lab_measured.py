"""Real runs: nobody else writes in a directory that one is to begin in, or has left."""

import fcntl
import subprocess
import sys

import pytest
from vaco.errors import UserError
from vaco_lab import measured
from vaco_lab.cell import Cell
from vaco_lab.evaluation import EvaluationPlan

CELL = Cell("CartPole", "vaco", "async", "-", 0, None, EvaluationPlan())

# Takes the lock, says so, and does not care for SIGTERM.
STUBBORN = """
import fcntl, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
signal.pause()
"""


@pytest.fixture
def run(tmp_path):
    """The run directory of a cell, with a file in it."""
    run = tmp_path / "cell" / "run"
    run.mkdir(parents=True)
    (run / "run.lock").touch()
    (run / "metrics.jsonl").write_text("{}\n")
    return run


def test_a_directory_in_which_a_run_still_lives_is_left_alone(run, monkeypatch):
    monkeypatch.setattr(measured, "_LOCK_SECONDS", 0.0)
    with (run / "run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"cell/run`: an earlier run is still going\. End it"):
            measured.run_measured(CELL, run.parent)
    assert (run / "metrics.jsonl").exists()


def test_a_run_that_does_not_end_when_it_is_told_is_killed_before_its_cell_leaves(run, monkeypatch):
    monkeypatch.setattr(measured, "_TERM_SECONDS", 0.1)
    command = [sys.executable, "-c", STUBBORN, str(run / "run.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        measured._end(process, run)
        assert process.returncode == -9
    with (run / "run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_run_that_has_ended_is_told_nothing(run):
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        with (run / "run.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            measured._end(process, run)
        assert process.returncode == 0


def test_the_last_words_of_a_run_that_failed_are_told(tmp_path):
    output = tmp_path / "output.txt"
    output.write_text("".join(f"line {n}\n" for n in range(20)))
    told = str(measured._failure(output, 1))
    assert told.startswith(f"`{output}`: `vaco run` ended with status 1")
    assert "    line 12\n" in told
    assert "line 11\n" not in told
    assert told.endswith("line 19. Mend that; the same command runs the cell again.")
