"""Matrices of the lag laboratory: which cells they have, and what is refused, in which words."""

import copy
from pathlib import Path

import pytest
import yaml
from vaco.errors import UserError
from vaco.schema.loading import dump
from vaco_lab.__main__ import main
from vaco_lab.matrix import cells_of, load_matrix

BASE = {
    "apiVersion": "training.vaco.dev/v1alpha1",
    "kind": "VACOJob",
    "metadata": {"name": "base"},
    "spec": {"task": {"environment": "CartPole-v1"}, "stop": {"envSteps": 1000}},
}
MATRIX = {
    "name": "lag",
    "title": "Lag",
    "base": BASE,
    "axes": {
        "environment": {"CartPole": [], "Acrobot": ["task.environment=Acrobot-v1"]},
        "algorithm": {"vaco": [], "ppo": ["algorithm.name=ppo", "algorithm.clipEpsilon=0.1"]},
        "switch": {"one": [], "two": ["algorithm.epochs=2"]},
        "lag": [1, 4],
        "seed": 3,
    },
    "reference": "vaco",
    "scores": {"CartPole": [0, 500], "Acrobot": [-500, 0]},
}


@pytest.fixture
def cells(tmp_path):
    """Reads a matrix from a file and makes its cells."""

    def read(document):
        path = tmp_path / "matrix.yaml"
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        return cells_of(load_matrix(path), "matrix.yaml")

    return read


@pytest.fixture
def changed(cells):
    """Makes the cells of the matrix above with one place replaced, or without it (None)."""

    def make(place, value):
        document = copy.deepcopy(MATRIX)
        *parents, last = place.split(".")
        here = document
        for step in parents:
            here = here.setdefault(step, {})
        if value is None:
            del here[last]
        else:
            here[last] = value
        return cells(document)

    return make


def test_every_combination_is_a_cell_with_its_assignments(cells):
    made = cells(MATRIX)
    assert len(made) == 2 * 2 * 2 * 2 * 3
    assert len({cell.key for cell in made}) == len(made)
    one = next(c for c in made if str(c) == "Acrobot ppo two K=4 seed 2")
    spec = one.job.spec
    assert spec.task.environment == "Acrobot-v1"
    assert (spec.algorithm.name, spec.algorithm.clip_epsilon, spec.algorithm.epochs) == (
        "ppo",
        0.1,
        2,
    )
    assert spec.seed == 2


def test_seeds_are_completed_one_after_the_other(cells):
    first = [cell for cell in cells(MATRIX) if cell.environment == "CartPole"]
    seeds = [cell.seed for cell in first]
    assert seeds == sorted(seeds)


def test_the_base_may_be_a_manifest_beside_the_matrix(tmp_path, cells):
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(BASE))
    by_path = cells({**MATRIX, "base": "job.yaml"})
    assert [cell.key for cell in by_path] == [cell.key for cell in cells(MATRIX)]


def test_a_cell_has_its_old_key_if_it_would_do_the_same(cells, changed):
    before = {cell.key for cell in cells(MATRIX)}
    assert {cell.key for cell in changed("axes.seed", 4)} > before
    # A switch of the same name that does something else is another run.
    other = {cell.key for cell in changed("axes.switch.two", ["algorithm.epochs=3"])}
    assert len(other & before) == len(before) / 2


def test_the_key_of_a_cell_is_what_it_was_in_earlier_versions(cells):
    """If this fails, finished cells are lost: was that meant? Then RESULTS is to be raised too."""
    made = {str(cell): cell.key for cell in cells(MATRIX)}
    assert made["CartPole vaco one K=1 seed 0"] == "e4c89ec957bb4869"
    assert made["Acrobot ppo two K=4 seed 2"] == "04ac627776c3bddc"


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("axes.switch", {"eins": [], "zwei": ["algorithm.epochs=2"]}),
        ("axes.switch.one", ["algorithm.epochs=1", "algorithm.gamma=0.99"]),
        ("axes.switch.one", ["learner.checkpoint.keep=7", "learner.maxPolicyLag=99"]),
        ("axes.environment.CartPole", ["task.frameStack=1", "ttlSecondsAfterFinished=3"]),
        ("base.metadata", {"name": "other"}),
        ("scores.Acrobot", [-500, -80]),
        ("title", "Another"),
    ],
)
def test_what_does_not_decide_a_result_leaves_the_key(cells, changed, place, value):
    assert [cell.key for cell in changed(place, value)] == [cell.key for cell in cells(MATRIX)]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("evaluation", {"points": 4}),
        ("evaluation", {"episodes": 15}),
        ("axes.switch", {"a": ["learner.batchSize=1024"], "b": ["learner.batchSize=1025"]}),
        ("base.spec.stop", {"envSteps": 1001}),
        ("base.spec.policy", {"network": {"type": "mlp", "activation": "relu"}}),
        ("base.spec.rollout", {"fragmentLength": 65}),
    ],
)
def test_what_decides_a_result_changes_every_key(cells, changed, place, value):
    before = {cell.key for cell in cells(MATRIX)}
    assert before.isdisjoint(cell.key for cell in changed(place, value))


def test_algorithms_and_networks_with_their_defaults_are_different_runs(changed):
    def keys(place, value):
        return {cell.key for cell in changed(place, value)}

    names = ("vaco", "ppo", "ppo-kl", "spo", "impala")
    made = keys("axes.algorithm", {name: [f"algorithm.name={name}"] for name in names})
    assert len(made) == 2 * 5 * 2 * 2 * 3
    dense, images = ({"network": {"type": x, "activation": "silu"}} for x in ("mlp", "cnn"))
    assert keys("base.spec.policy", dense).isdisjoint(keys("base.spec.policy", images))


def test_a_file_that_is_imported_decides_by_what_is_in_it(tmp_path, cells):
    def keys(name, text):
        (tmp_path / name).write_text(text)
        task = {"environment": "CartPole-v1", "imports": [str(tmp_path / name)]}
        base = {**BASE, "spec": {**BASE["spec"], "task": task}}
        return [cell.key for cell in cells({**MATRIX, "base": base})]

    assert keys("a.py", "x = 1") == keys("b.py", "x = 1") != keys("a.py", "x = 2")


def test_only_a_real_run_is_decided_by_its_actors(changed):
    def keys(lag):
        return [
            {cell.key for cell in changed("axes", {**MATRIX["axes"], "lag": [lag], "switch": s})}
            for s in ({"-": []}, {"-": ["actors.replicas=2"]})
        ]

    one, two = keys(1)
    assert one == two
    one, two = keys("async")
    assert one.isdisjoint(two)


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("base", None, "`base`.*missing. Give text or a mapping: The job"),
        ("base", "absent.yaml", "matrix.yaml base`: .*absent.yaml: No such file.*Give the path of"),
        ("base", 3, r"`base` \(line \d+\): 3. Give the path of a manifest, or a VACOJob"),
        ("axes.batch", {"small": []}, r"`axes.batch` \(line \d+\): unknown field"),
        ("axes.algorithm.ppo", ["algorithm.name"], r"\(CartPole, ppo, one\) --set.*no assignment"),
        ("axes.algorithm.ppo", ["algorithm.epoch=2"], r"ppo, one.*\n.*algorithm.epoch`.*epochs"),
        ("axes.algorithm", {}, "axes.algorithm`: no entries"),
        ("axes.lag", [0], r"axes.lag`: \[0\]. Give numbers from 1"),
        (
            "axes.lag",
            [1, "asink"],
            '"asink". Did you mean `async`. Give numbers from 1, or `async`',
        ),
        ("axes.lag", [1.5], r"axes.lag` \(line \d+\): 1.5. Give numbers from 1, or `async`"),
        ("axes.lag", [True], r"1 problem\n.*: true. Give numbers from 1, or `async`"),
        ("axes.lag", "async", '"async" is no list. Give numbers from 1, or `async`, as a list'),
        ("axes.lag", [1, 1], "an entry twice"),
        ("axes.lag", [100], "over 64 versions behind.*maxPolicyLag"),
        ("axes.environment.Acrobot", ["stop.return={mean: 1}"], "same number of steps"),
        ("axes.seed", 1000, "16000 cells, over 10000"),
        ("axes.switch.two", ["algorithm.gamma=0.99"], "'CartPole vaco one K=1 seed 0' and 'Cart"),
        ("finalEpisodes", 100, "`finalEpisodes`.*unknown field"),
        ("evaluation.points", 0, "`evaluation.points`"),
        ("cellMinutes", 0, "`cellMinutes`"),
        ("reference", "vacoo", "no 'vacoo'.*Did you mean `vaco`"),
        ("scores.Acrobot", [0, -500], "scores.Acrobot"),
        ("scores.Acrobot", None, "none for 'Acrobot'"),
        ("scores.Pong", [0, 1], "no environment 'Pong'"),
        ("name", "../lag", "name.*Use a-z"),
    ],
)
def test_a_matrix_that_will_not_do_is_refused(changed, place, value, told):
    with pytest.raises(UserError, match=rf"(?s){told}"):
        changed(place, value)


def test_a_matrix_that_is_not_there_is_called_a_matrix(tmp_path):
    with pytest.raises(UserError, match=r"absent\.yaml`: No such file.*Give the path of a matrix"):
        load_matrix(tmp_path / "absent.yaml")


def test_findings_are_beside_the_matrix_wherever_that_is_written(tmp_path):
    path = tmp_path / "matrix.yaml"
    path.write_text(yaml.safe_dump(MATRIX))
    assert load_matrix(path).findings == str(tmp_path / "lag.md")
    path.write_text(yaml.safe_dump({**MATRIX, "findings": "said/of-lag.md"}))
    matrix = load_matrix(path)
    assert matrix.findings == str(tmp_path / "said" / "of-lag.md")
    (tmp_path / "kept").mkdir()
    kept = tmp_path / "kept" / "matrix.yaml"
    kept.write_text(dump(matrix))
    assert load_matrix(kept) == matrix


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[2].glob("benchmarks/lag/?-*.yaml")), ids=lambda p: p.name
)
def test_the_matrices_of_the_studies_are_sound(path):
    made = cells_of(load_matrix(path), str(path))
    assert max(cell.seed for cell in made) >= 9


@pytest.mark.parametrize("workers", ["0", "-1", "1.5", "two"])
def test_a_number_of_workers_is_refused_in_words(workers, capsys):
    with pytest.raises(SystemExit):
        main(["lag", "matrix.yaml", f"--workers={workers}"])
    assert f"--workers: {workers!r} is not a whole number from 1" in capsys.readouterr().err
