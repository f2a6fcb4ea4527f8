"""What a result page compares, and that it begins with what was lost."""

import pytest
import yaml
from vaco.errors import UserError
from vaco_lab.comparison import settings_of
from vaco_lab.matrix import cells_of, load_matrix
from vaco_lab.measures import Point, Record
from vaco_lab.page import write_page
from vaco_lab.store import Store

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
        "lag": [1, 4],
        "seed": 4,
    },
    "reference": "vaco",
    "scores": {"CartPole": [100, 200]},
}


@pytest.fixture
def store(tmp_path):
    """The directory of the matrix above, with the runs whose final return is given."""

    def make(final_return):
        path = tmp_path / "given.yaml"
        path.write_text(yaml.safe_dump(MATRIX))
        matrix = load_matrix(path)
        store = Store(tmp_path / "out")
        with store.locked():
            store.keep(matrix)
        for cell in cells_of(matrix, "given.yaml"):
            value = final_return(cell)
            if value is not None:
                point = Point(1000, value, 0.1, 0.2, 0.1, 0.1, 0.0, 0.0, 1.0, 0.0, 0.0)
                store.finish(cell, Record(points=[point], seconds=1.0), "abc1234")
        return store

    return make


def settings(store):
    matrix, cells = store.load()
    return list(settings_of(matrix, [d["row"] for d in store.read(cells)]))


def test_entries_are_compared_over_the_seeds_that_all_of_them_have(store):
    # ppo has no run of seed 3, and none at all at K = 4.
    def final(cell):
        if cell.algorithm == "ppo" and (cell.seed == 3 or cell.lag == 4):
            return None
        return 110.0 + 10 * cell.seed

    (setting,) = settings(store(final))
    assert setting.label == "K = 1"
    assert [entry.runs for entry in setting.entries] == ["3", "3"]
    assert [x.tolist() for x in setting.entries[0].scores] == [pytest.approx([0.1, 0.2, 0.3])]


def test_the_page_begins_with_what_was_lost(store, tmp_path):
    made = store(lambda cell: 150.0 + (20 if cell.algorithm == "ppo" and cell.lag == 4 else 0))
    lines = write_page(made, tmp_path).read_text().splitlines()
    assert lines[2] == "**Where vaco is not the best:**"
    assert lines[4].startswith("- K = 4, final score: ppo 0.70 (0.70 to 0.70); vaco 0.50")
    assert not any("K = 1, final" in line for line in lines)


def test_a_page_without_losses_says_so(store, tmp_path):
    made = store(lambda cell: 150.0 + (20 if cell.algorithm == "vaco" else 0))
    page = write_page(made, tmp_path).read_text()
    assert "No entry has a higher interquartile mean than vaco" in page
    assert "a part of the matrix" not in page
    assert "abc1234" in page


def test_a_page_of_a_part_says_so(store, tmp_path):
    page = write_page(store(lambda cell: None if cell.seed else 150.0), tmp_path).read_text()
    assert "4 of 16 runs" in page
    assert "a part of the matrix" in page


def test_nothing_is_compared_before_every_entry_has_a_run(store, tmp_path):
    made = store(lambda cell: 150.0 if cell.algorithm == "vaco" else None)
    with pytest.raises(UserError, match="no setting has a run of every entry"):
        write_page(made, tmp_path)


def test_two_matrices_do_not_run_in_one_directory(store):
    made = store(lambda _: None)
    with made.locked(), pytest.raises(UserError, match="being run here"), made.locked():
        pass


def test_the_matrix_that_is_kept_is_the_one_that_was_read(store, tmp_path):
    matrix, cells = store(lambda _: None).load()
    assert [c.key for c in cells] == [c.key for c in cells_of(matrix, "x")]
    assert matrix == load_matrix(tmp_path / "given.yaml")
    assert matrix.base == MATRIX["base"]
