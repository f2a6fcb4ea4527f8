"""A matrix on the disk: rows that say what they are of, and what is not this matrix's."""

import csv
import json
from datetime import datetime

import pytest
import yaml
from vaco.errors import UserError
from vaco_lab.matrix import cells_of, load_matrix
from vaco_lab.measures import Point, Record
from vaco_lab.provenance import Provenance
from vaco_lab.store import Store

HERE = Provenance("abc1234", False, "a machine", "3.11", "2.13", "2.3", 2, "vaco bench lag x.yaml")
MATRIX = {
    "name": "lag",
    "title": "Lag",
    "base": {
        "apiVersion": "training.vaco.dev/v1alpha1",
        "kind": "VACOJob",
        "metadata": {"name": "base"},
        "spec": {"task": {"environment": "CartPole-v1"}, "stop": {"envSteps": 1000}},
    },
    "axes": {
        "environment": {"CartPole": []},
        "algorithm": {"vaco": [], "ppo": ["algorithm.name=ppo"]},
        "lag": [1, "async"],
        "seed": 1,
    },
    "reference": "vaco",
    "scores": {"CartPole": [-7, 500]},
    "evaluation": {"points": 2},
}


@pytest.fixture
def cells(tmp_path):
    """The cells of the matrix above, with some of its fields replaced."""

    def make(**fields):
        path = tmp_path / "given.yaml"
        path.write_text(yaml.safe_dump({**MATRIX, **fields}))
        return cells_of(load_matrix(path), "given.yaml")

    return make


@pytest.fixture
def store(tmp_path):
    """A directory for it."""
    store = Store(tmp_path / "out")
    with store.locked():
        return store


def record(**fields):
    points = [Point(n, 9.0, 0.1, 0.2, 0.1, 0.1, 0.0, 0.0, 1.0, 0.0, 0.0) for n in (400, 800, 1200)]
    return Record(
        **{"points": points, "evaluations": [(0, 10.0), (800, 50.0), (1200, 90.0)], **fields}
    )


def test_a_row_ends_with_the_last_evaluation(store, cells):
    imposed, real, *_ = cells()
    store.finish(imposed, record(), HERE)
    store.finish(real, record(), HERE)
    of_imposed, of_real = store.read([imposed, real])
    assert of_imposed["row"]["final_return"] == of_real["row"]["final_return"] == 90.0
    # Behind the budget of 1000 steps nothing counts: 30 over 800 steps, 60 over 200.
    assert of_imposed["row"]["auc"] == pytest.approx((30 * 800 + 60 * 200) / 1000)
    assert of_real["row"]["auc"] is None


def test_a_row_says_what_ran_it(store, cells):
    cell, *_ = cells()
    store.finish(cell, record(), HERE)
    (document,) = store.read([cell])
    of = dict(document["provenance"])
    assert datetime.fromisoformat(of.pop("date")).tzinfo is not None
    assert Provenance(**of) == HERE


def test_a_run_that_diverged_is_not_judged_by_how_it_was_before(store, cells):
    lost = record(outcome="diverged", evaluations=[(0, 10.0), (400, 480.0)])
    cell, *_ = cells()
    store.finish(cell, lost, HERE)
    (document,) = store.read([cell])
    assert document["evaluations"] == [(0, 10.0), (400, 480.0), (500, -7.0), (1000, -7.0)]
    assert document["row"]["final_return"] == -7.0
    assert document["row"]["auc"] < (245 * 400 + 480 * 600) / 1000 - 200
    # Its file has what was measured, so that the matrix may say otherwise later.
    (document,) = store.read(cells(scores={})[:1])
    assert document["row"]["final_return"] == 10.0


def test_a_renamed_label_finds_its_row(store, cells):
    cell, *_ = cells()
    store.finish(cell, record(), HERE)
    renamed, *_ = cells(axes={**MATRIX["axes"], "environment": {"Pole": []}}, scores={})
    (document,) = store.read([renamed])
    assert document["row"]["environment"] == "Pole"


def test_files_that_no_cell_claims_are_counted(store, cells):
    before = cells()
    for cell in before:
        store.finish(cell, record(), HERE)
    assert store.unclaimed(before) == 0
    after = cells(evaluation={"points": 3})
    assert len(store.read(after)) == 2  # the real ones, evaluated at their end alone
    assert store.unclaimed(after) == 2


@pytest.mark.parametrize("text", ["", "{}", '{"row": 3}', '{"row": {}, "evaluations": [], "x'])
def test_a_damaged_row_is_named_with_its_cure(store, cells, text):
    cell, *_ = cells()
    store.finish(cell, record(), HERE)
    (path,) = (store.root / "rows").glob("*.json")
    path.write_text(text)
    with pytest.raises(UserError, match=r"(?s)rows/\w+\.json.*damaged.*Remove it; the cell runs"):
        store.read([cell])


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("row.tv_mean", "x", r"row\.tv_mean: Input should be a valid number"),
        ("row.outcome", "x", r"row\.outcome: Input should be 'complete' or 'diverged'"),
        ("row.seconds", None, r"row\.seconds: "),
        ("row.updates", 1.5, r"row\.updates: "),
        ("evaluations", [], "evaluations: List should have at least 1"),
        ("evaluations", [[1]], r"evaluations\.0\.1: Field required"),
        ("curve", [1], r"curve\.0: "),
        ("tv_by_step", [[0.1, None]], r"tv_by_step\.0\.1: "),
        ("provenance", {}, r"provenance\.commit: Field required"),
        ("provenance.date", 3, r"provenance\.date: "),
    ],
)
def test_a_row_with_something_else_in_it_is_damaged_too(store, cells, place, value, told):
    cell, *_ = cells()
    store.finish(cell, record(), HERE)
    (path,) = (store.root / "rows").glob("*.json")
    document = json.loads(path.read_text())
    *parents, last = place.split(".")
    here = document
    for step in parents:
        here = here[step]
    here[last] = value
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=rf"rows/\w+\.json`: is damaged \({told}.*Remove it; the"):
        store.read([cell])


def test_a_row_may_have_what_this_version_does_not_know(store, cells):
    cell, *_ = cells()
    store.finish(cell, record(points=[], outcome="diverged"), HERE)
    (path,) = (store.root / "rows").glob("*.json")
    path.write_text(path.read_text().replace('{"row": {', '{"more": 1, "row": {"more": 2, ', 1))
    (document,) = store.read([cell])
    assert (document["more"], document["row"]["more"]) == (1, 2)


def test_curves_have_the_evaluations_also_where_no_point_is(store, cells):
    cell, *_ = cells()
    store.finish(cell, record(evaluations=[(0, 10.0), (800, 50.0), (1300, 90.0)]), HERE)
    assert store.write_tables([cell]) == 1
    with (store.root / "curves.csv").open(newline="") as file:
        rows = [(r["env_steps"], r["evaluation_return"], r["tv"]) for r in csv.DictReader(file)]
    assert rows == [
        ("0", "10.0", ""),
        ("400", "", "0.1"),
        ("800", "50.0", "0.1"),
        ("1200", "", "0.1"),
        ("1300", "90.0", ""),
    ]
    (path,) = (store.root / "rows").glob("*.json")
    assert json.loads(path.read_text())["curve"][0].keys() >= {"env_steps", "tv"}


@pytest.mark.parametrize(("epochs", "kept", "last"), [(2, 8, 7), (64, 128, 254)])
def test_gradient_steps_have_their_number_although_some_are_left_out(
    store, cells, epochs, kept, last
):
    algorithm = {"vaco": [f"algorithm.epochs={epochs}"]}
    cell, *_ = cells(axes={**MATRIX["axes"], "algorithm": algorithm})
    given = record()
    # The learner keeps at most 256 steps of a phase: every second one of 64 x 4.
    given.tv_by_step.add([0.5] * kept)
    store.finish(cell, given, HERE)
    store.write_tables([cell])
    with (store.root / "steps.csv").open(newline="") as file:
        steps = [int(row["gradient_step"]) for row in csv.DictReader(file)]
    assert (len(steps), steps[0], steps[-1]) == (kept, 0, last)
