"""What is looked at before the first run of a matrix."""

import pytest
import yaml
from vaco.errors import UserError
from vaco_lab import beforehand
from vaco_lab.__main__ import main
from vaco_lab.beforehand import check_environments, few_versions
from vaco_lab.matrix import cells_of, load_matrix

MATRIX = {
    "name": "lag",
    "title": "Lag",
    "base": {
        "apiVersion": "training.vaco.dev/v1alpha1",
        "kind": "VACOJob",
        "metadata": {"name": "base"},
        "spec": {
            "task": {"environment": "CartPole-v1"},
            "learner": {"batchSize": 512},
            "stop": {"envSteps": 1000},
        },
    },
    "axes": {
        "environment": {"CartPole": [], "Acrobot": ["task.environment=Acrobot-v1"]},
        "algorithm": {"vaco": [], "ppo": ["algorithm.name=ppo"]},
        "lag": [1, 8, "async"],
        "seed": 3,
    },
    "reference": "vaco",
    "scores": {"CartPole": [0, 500], "Acrobot": [-500, 0]},
}


@pytest.fixture
def path(tmp_path):
    """The file of the matrix above."""
    path = tmp_path / "matrix.yaml"
    path.write_text(yaml.safe_dump(MATRIX, sort_keys=False))
    return path


@pytest.fixture
def cells(path):
    """The cells of the matrix above."""
    return cells_of(load_matrix(path), "matrix.yaml")


def test_each_environment_is_made_once(cells, monkeypatch):
    made = []
    monkeypatch.setattr(beforehand, "_problem", lambda cell: made.append(cell.environment) or "")
    check_environments(cells, "matrix.yaml")
    assert made == ["CartPole", "Acrobot"]
    check_environments([], "matrix.yaml")
    assert len(made) == 2


def test_an_environment_that_there_is_not_is_told_before_anything_runs(path, capsys, tmp_path):
    path.write_text(path.read_text().replace("Acrobot-v1", "Acrobat-v1"))
    cells = cells_of(load_matrix(path), "matrix.yaml")
    told = r"\(Acrobot, vaco, -\)`: `spec.task.environment`: 'Acrobat-v1' is not the id of an env"
    with pytest.raises(UserError, match=told):
        check_environments(cells, "matrix.yaml")
    assert main(["lag", str(path), "--out", str(tmp_path / "out")]) == 3
    assert "Did you mean `Acrobot-v1`" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_ring_that_never_fills_is_told_once(cells):
    told = "K = 8, but a run has about 2 versions: raise `stop.envSteps` or lower"
    (line,) = few_versions(cells)
    assert line.startswith(told)
    assert list(few_versions([cell for cell in cells if cell.lag != 8])) == []


def test_a_damaged_row_and_a_ring_are_told_before_the_first_run(
    path, cells, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr(beforehand, "_problem", lambda _: pytest.fail("too late"))
    (tmp_path / "out" / "rows").mkdir(parents=True)
    row = tmp_path / "out" / "rows" / f"{cells[-1].key}.json"
    row.write_text('{"row": {}}')
    assert main(["lag", str(path), "--out", str(tmp_path / "out")]) == 3
    told = capsys.readouterr().err
    assert f"error: `{row}`: is damaged (row.outcome: Field required). Remove it" in told
    row.unlink()
    monkeypatch.setattr(beforehand, "_problem", lambda _: "no such thing")
    assert main(["lag", str(path), "--out", str(tmp_path / "out")]) == 3
    told = capsys.readouterr().err
    assert told.startswith("warning: K = 8, but a run has about 2 versions")
