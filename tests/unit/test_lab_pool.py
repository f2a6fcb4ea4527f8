"""Which cells run at once, and what is said of how long it will take."""

from vaco_lab import progress
from vaco_lab.cell import Cell
from vaco_lab.evaluation import EvaluationPlan
from vaco_lab.pool import _may_start
from vaco_lab.progress import Progress

JOB = None  # nobody looks at it


def cell(lag):
    return Cell("CartPole", "vaco", lag, "-", 0, JOB, EvaluationPlan())


def test_as_many_cells_run_as_there_are_workers():
    assert _may_start(cell(1), [], 2)
    assert _may_start(cell(1), [cell(4)], 2)
    assert not _may_start(cell(1), [cell(4), cell(4)], 2)


def test_a_real_run_is_alone():
    assert _may_start(cell("async"), [], 8)
    assert not _may_start(cell("async"), [cell(1)], 8)
    assert not _may_start(cell(1), [cell("async")], 8)
    assert not _may_start(cell("async"), [cell("async")], 8)


def test_before_the_first_cell_ends_it_is_told_how_many_there_are(capsys):
    with Progress(8, 4, 2):
        assert capsys.readouterr().err == "8 cells, 4 there, 2 at once\n"


def test_what_is_left_is_estimated_by_the_cells_of_this_time(monkeypatch, capsys):
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    # 4 of 10 were finished before: they took none of this time.
    told = Progress(10, 4, 2)
    now[0] += 120
    told.ended(cell(1), done=True)
    assert "5/10 finished: CartPole vaco K=1 seed 0; about 10 min left" in capsys.readouterr().err
    now[0] += 120
    # What failed is over as well.
    told.ended(cell(1), done=False)
    assert "5/10 FAILED: CartPole vaco K=1 seed 0; about 8 min left" in capsys.readouterr().err
    for _ in range(4):
        told.ended(cell(1), done=True)
    assert "9/10 finished: CartPole vaco K=1 seed 0; all done" in capsys.readouterr().err
