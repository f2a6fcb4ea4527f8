"""What a result page says, and that it begins with what was lost."""

import copy

import pytest
import yaml
from vaco.errors import UserError
from vaco_lab.findings import stamp_of
from vaco_lab.matrix import cells_of, load_matrix
from vaco_lab.measures import Point, Record
from vaco_lab.page import write_page
from vaco_lab.provenance import Provenance
from vaco_lab.store import Store

MATRIX = {
    "name": "lag",
    "title": "Lag",
    "base": {
        "apiVersion": "training.vaco.dev/v1alpha1",
        "kind": "VACOJob",
        "metadata": {"name": "base"},
        "spec": {
            "task": {"environment": "CartPole-v1"},
            "rollout": {"environmentsPerActor": 16, "fragmentLength": 16},
            "learner": {"batchSize": 500},
            "stop": {"envSteps": 1000},
        },
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


HERE = Provenance(
    "abc1234", False, "2 cores", "3.11", "2.13", "2.4", 2, "vaco bench lag given.yaml"
)


@pytest.fixture
def store(tmp_path):
    """The directory of the matrix above, with the runs whose final return is given."""

    def make(final_return, *, lag=(1, 4), diverged=lambda _: False, provenance=lambda _: HERE):
        path = tmp_path / "given.yaml"
        document = copy.deepcopy(MATRIX)
        document["axes"]["lag"] = list(lag)
        path.write_text(yaml.safe_dump(document, sort_keys=False))
        matrix = load_matrix(path)
        store = Store(tmp_path / "out")
        with store.locked():
            store.keep(matrix)
        for cell in cells_of(matrix, "given.yaml"):
            value = final_return(cell)
            if value is not None:
                store.finish(cell, record(value, diverged=diverged(cell)), provenance(cell))
        return store

    return make


def record(value, *, diverged):
    """Return a run that ends with a return; one that diverged did so before it was evaluated."""
    made = Record(seconds=1.0, evaluations=[(0, 100.0), (1000, value)])
    if diverged:
        made.outcome = "diverged"
        made.evaluations = made.evaluations[:1]
    else:
        made.points = [Point(1000, 20.0, 0.1, 0.2, 0.1, 0.123, 0.0, 0.0, 1.0, 0.0, 0.0)]
        made.tv_by_step.add([0.1, 0.2])
    return made


@pytest.fixture
def page(store, tmp_path):
    """The page of such a store."""

    def write(*arguments, **options):
        return write_page(store(*arguments, **options), tmp_path / "page").read_text()

    return write


def test_the_page_begins_with_what_was_lost(page):
    def final_return(cell):
        ahead = 20 if cell.algorithm == "ppo" and cell.lag == 2 else 0
        # One of vaco's runs is ahead of all.
        return 150.0 + ahead + cell.seed + 40 * (cell.algorithm == "vaco" and cell.seed == 3)

    lines = page(final_return, lag=(1, 2)).splitlines()
    assert lines[2].startswith("**Where vaco is not the best.**")
    assert lines[4].startswith("- K = 2, final score: vaco 0.52")
    assert "higher: ppo 0.71 (0.70 to 0.73)" in lines[4]
    assert not any("K = 1, final" in line for line in lines)


def test_a_ring_that_never_fills_is_told_at_the_head(page):
    lines = page(lambda _: 150.0).splitlines()
    assert lines[2].startswith("**K = 4, but a run has about 2 versions: raise `stop.envSteps` or")
    assert "but a run has" not in page(lambda _: 150.0, lag=(1, 2))


def test_a_page_ends_with_what_was_run(page):
    text = page(lambda _: 150.0).split("## What was run")[1]
    base = yaml.safe_load(text.split("```yaml")[1].split("```")[0])
    assert base == MATRIX["base"]["spec"]
    assert text.rstrip().endswith(
        "- environment CartPole: the base job's\n- algorithm vaco: the base job's\n"
        "- algorithm ppo: `algorithm.name=ppo`\n"
        "- lag: 1, 4; seeds: 4; evaluations: 5 of 16 episodes"
    )


def test_the_matrix_lies_beside_its_page_and_is_the_same(store, tmp_path):
    made = store(lambda _: 150.0)
    for _ in range(2):
        text = write_page(made, tmp_path / "page").read_text()
    assert "its matrix: [lag.yaml](lag.yaml)." in text
    copy = tmp_path / "page" / "lag.yaml"
    assert load_matrix(copy) == load_matrix(tmp_path / "given.yaml")
    # Nothing of this machine is in it.
    assert str(tmp_path) not in copy.read_text()


def test_a_matrix_that_its_author_wrote_is_not_overwritten(store, tmp_path):
    made = store(lambda _: 150.0)
    (tmp_path / "page").mkdir()
    mine = tmp_path / "page" / "lag.yaml"
    mine.write_text("name: lag\n")
    with pytest.raises(UserError, match=r"--out.*lag\.yaml is there, and no copy of the matrix"):
        write_page(made, tmp_path / "page")
    assert mine.read_text() == "name: lag\n"
    assert [path.name for path in (tmp_path / "page").iterdir()] == ["lag.yaml"]


def test_findings_are_not_overwritten_by_the_page(store, tmp_path):
    made = store(lambda _: 150.0)
    # Also where there are none yet: they would be the page.
    with pytest.raises(UserError, match=r"--out.*lag\.md, which is the file of its findings"):
        write_page(made, tmp_path)
    (tmp_path / "lag.md").write_text("Nobody wins.\n")
    (tmp_path / "link").symlink_to(tmp_path)
    for out in (tmp_path, tmp_path / "link"):
        with pytest.raises(UserError, match="Give another directory"):
            write_page(made, out)
    assert (tmp_path / "lag.md").read_text() == "Nobody wins.\n"
    assert not list(tmp_path.glob("*.png"))


def test_a_file_in_the_place_of_the_directory_is_refused_in_words(store, tmp_path):
    made = store(lambda _: 150.0)
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=r"`--out`: .*file.* can be no directory"):
            write_page(made, out)
        with pytest.raises(UserError, match=r"`--out`: .*file.* can be no directory"):
            Store(out).locked().__enter__()


def test_a_page_without_losses_says_so(page):
    text = page(lambda cell: 150.0 + (20 if cell.algorithm == "vaco" else 0))
    assert "No entry has a higher interquartile mean than vaco" in text
    assert "a part of the matrix" not in text


def test_a_page_of_a_part_says_so(page):
    text = page(lambda cell: None if cell.seed else 150.0)
    assert "4 of 16 runs are finished" in text
    assert "a part of the matrix" in text
    assert "CartPole; 1 seed each." in text


def test_a_run_that_diverged_is_counted_and_keeps_its_place(page):
    text = page(
        lambda _: 200.0,
        diverged=lambda cell: cell.algorithm == "vaco" and cell.lag == 4 and cell.seed < 2,
    )
    assert "16 of 16 runs are finished; 2 of them diverged." in text
    of_k4 = text.split("## K = 4")[1].splitlines()
    (vaco,) = [line for line in of_k4 if line.startswith("| vaco |")]
    # Two of its four runs have 0, so the middle half is one of each; ppo lost to none of them.
    assert vaco.startswith("| vaco | 0.50 (0.00 to 1.00) |")
    assert vaco.endswith("| 150 | 2 of 4 |")
    (ppo,) = [line for line in of_k4 if line.startswith("| ppo |")]
    assert ppo.endswith("| 200 | 0 of 4 |")


def test_a_page_of_runs_that_diverged_at_once_is_written(page):
    text = page(lambda _: 200.0, diverged=lambda cell: cell.algorithm == "vaco")
    assert "| K = 1 | vaco | - | - | - |" in text


def test_movement_within_a_phase_stands_beside_tv(page):
    text = page(lambda _: 150.0)
    assert "| TV | TV max | TV to start | TV to β |" in text
    assert "| K = 1 | vaco | 0.100 | 0.200 | 0.123 | 0.100 |" in text


def test_a_page_says_what_made_its_runs(page):
    other = Provenance(
        "def5678", True, "64 cores", "3.11", "2.13", "2.4", 8, "vaco bench lag given.yaml"
    )
    text = page(lambda _: 150.0, provenance=lambda cell: other if cell.seed == 3 else HERE)
    assert "made by `vaco bench lag given.yaml`;" in text
    assert "commit abc1234 (12 runs), def5678 with changes (4 runs)" in text
    assert "2 cores, 2 at once (12 runs), 64 cores, 8 at once (4 runs)." in text


@pytest.mark.parametrize(
    ("lag", "imposed", "measured"),
    [((1, 4), True, False), (("async",), False, True), ((1, "async"), True, True)],
)
def test_a_page_explains_the_lag_that_it_has(page, lag, imposed, measured):
    text = page(lambda _: 150.0, lag=lag)
    assert ("**Lag is imposed**" in text) == imposed
    assert ("K = 1 is no lag" in text) == imposed
    assert ("**Real lag is measured**" in text) == measured
    assert ("## real lag" in text) == measured
    assert "K = async" not in text


def test_a_page_of_real_runs_says_nothing_of_what_they_have_not(page):
    text = page(lambda _: 150.0, lag=("async",))
    assert "2 cores, real runs alone." in text
    assert "at once" not in text
    assert "the area is" not in text
    both = page(lambda _: 150.0, lag=(1, "async"))
    assert "2 cores, 2 at once (8 runs), 2 cores, real runs alone (8 runs)." in both
    assert "the area is the mean of the curve" in both


def test_a_page_says_what_is_drawn(page):
    told = "TV under 0.0001 is drawn at 0.0001"
    one = page(lambda cell: None if cell.seed else 150.0)
    assert f"in profiles shares of runs. {told}" in one
    assert f"bands are their 95 % intervals. {told}" in page(lambda _: 150.0)
    lost = page(lambda _: 150.0, lag=(2,), diverged=lambda _: True)
    assert "is drawn at 0.0001" not in lost


def test_one_of_something_is_no_more(page):
    text = page(lambda cell: None if (cell.algorithm, cell.seed) == ("ppo", 3) else 150.0, lag=(1,))
    assert "1 finished run is left out" in text
    assert "2 comparisons" in text
    assert "This is 1 comparison, not" in page(lambda _: 150.0, lag=("async",))


def test_a_page_says_how_few_draws_a_batch_has(page):
    # 16 environments by 16 steps are a fragment, and 500 samples a batch.
    text = page(lambda _: 150.0)
    assert "A batch is 2 fragments" in text
    assert "in the first K versions, of 1 in a run" in text


def test_findings_beside_the_matrix_are_printed_with_their_author_told(store, tmp_path, capsys):
    made = store(lambda _: 150.0)
    _, cells = made.load()
    stamp = stamp_of([document["row"] for document in made.read(cells)])
    (tmp_path / "lag.md").write_text(f"{stamp}\nNobody wins.\n")
    text = write_page(made, tmp_path / "page").read_text()
    assert "\n## Findings\n\nNobody wins.\n" in text
    assert "other data" not in text
    assert "written for these rows" in capsys.readouterr().err

    made = store(lambda _: 151.0)
    assert "written for other data" in write_page(made, tmp_path / "page").read_text()
    assert "the first line for these rows is <!-- rows: 16 " in capsys.readouterr().err


def test_nothing_is_compared_before_every_entry_has_a_run(store, tmp_path):
    made = store(lambda cell: 150.0 if cell.algorithm == "vaco" else None)
    with pytest.raises(UserError, match="no setting has a run of every entry"):
        write_page(made, tmp_path / "page")


def test_two_matrices_do_not_run_in_one_directory(store):
    made = store(lambda _: None)
    with made.locked(), pytest.raises(UserError, match="being run here"), made.locked():
        pass


def test_the_matrix_that_is_kept_is_the_one_that_was_read(store, tmp_path):
    matrix, cells = store(lambda _: None).load()
    assert [c.key for c in cells] == [c.key for c in cells_of(matrix, "x")]
    assert matrix == load_matrix(tmp_path / "given.yaml")
    assert matrix.base == MATRIX["base"]
