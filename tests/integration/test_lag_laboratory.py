"""The lag laboratory as a command: matrices that are run, killed, gone on with and reported."""

import csv
import json
import signal
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path

import psutil
import pytest
from vaco.job import load_job
from vaco_lab.evaluator import Evaluator
from vaco_lab.matrix import cells_of, load_matrix
from vaco_lab.store import Store
from vaco_policy.stored import read_checkpoint

pytestmark = pytest.mark.timeout(300)
VACO = str(Path(sys.executable).with_name("vaco"))
SMALL = Path(__file__).parents[2] / "benchmarks" / "lag" / "small.yaml"
_POLL = threading.Event()


def lab(*arguments, root):
    return subprocess.run(
        [VACO, "bench", *map(str, arguments)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def table(out, name="table.csv"):
    """Return the rows of a table; how long a run took is not the same twice."""
    with (out / name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]


def end_by_kill(process):
    """Kill the command; what it started ends with it."""
    children = process.children(recursive=True)
    process.kill()
    process.wait()
    _, left = psutil.wait_procs(children, timeout=30)
    for orphan in left:
        orphan.kill()
    assert not left


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The small matrix, run from beginning to end."""
    root = tmp_path_factory.mktemp("whole")
    done = lab("lag", SMALL, "--out", root / "small", "--workers", 2, root=root)
    assert done.returncode == 0, done.stderr
    assert "8 of 8 cells" in done.stdout
    return root / "small"


def test_every_cell_has_a_row_and_a_curve(whole):
    rows = table(whole)
    cells = {(r["algorithm"], r["lag"], r["seed"]) for r in rows}
    assert cells == {(a, k, s) for a in ("vaco", "ppo") for k in "14" for s in "01"}
    for row in rows:
        assert row["outcome"] == "complete"
        assert int(row["env_steps"]) >= 4096
        # A ring of K versions gives lags from 0 to K - 1.
        assert float(row["lag_max"]) == float(row["lag"]) - 1
        assert (float(row["ess_mean"]) < 0.9999999) == (row["lag"] == "4")
    curves, updates = table(whole, "curves.csv"), sum(int(row["updates"]) for row in rows)
    # And one for the evaluation before training.
    assert len(curves) == updates + len(rows)
    for row in rows:
        known = [c for c in curves if all(c[x] == row[x] for x in ("algorithm", "lag", "seed"))]
        judged = [c["evaluation_return"] for c in known if c["evaluation_return"]]
        assert len(judged) == 1 + 5
        assert judged[-1] == known[-1]["evaluation_return"] == row["final_return"]
    # Two epochs of two minibatches.
    assert len(table(whole, "steps.csv")) == 8 * 4


def test_every_row_says_what_ran_it(whole):
    _, cells = Store(whole).load()
    for document in Store(whole).read(cells):
        of = document["provenance"]
        assert of["command"] == f"vaco bench lag {SMALL} --out {whole} --workers 2"
        assert of["workers"] == 2
        assert of["torch"] == metadata.version("torch")
        assert of["date"].startswith("20")


def test_a_matrix_that_was_killed_goes_on_and_gives_the_same_tables(whole, tmp_path):
    out = tmp_path / "small"
    command = ["bench", "lag", str(SMALL), "--out", str(out), "--workers", "1"]
    with (tmp_path / "output.txt").open("w") as output:
        process = psutil.Popen([VACO, *command], cwd=tmp_path, stdout=output, stderr=output)
    try:
        for _ in range(2400):
            before = {path: path.stat().st_mtime_ns for path in out.glob("rows/*.json")}
            if len(before) >= 2:
                break
            _POLL.wait(0.05)
    finally:
        end_by_kill(process)
    before = {path: path.stat().st_mtime_ns for path in out.glob("rows/*.json")}
    assert 2 <= len(before) < 8
    assert not (out / "table.csv").exists()
    done = lab("lag", SMALL, "--out", out, "--workers", 2, root=tmp_path)
    assert done.returncode == 0, done.stderr
    # What was finished is as it was: no cell is run twice.
    assert {path: path.stat().st_mtime_ns for path in before} == before
    for name in ("table.csv", "curves.csv", "steps.csv"):
        assert table(out, name) == table(whole, name)


def test_cells_end_with_the_command_that_runs_them(tmp_path):
    endless = SMALL.read_text().replace("envSteps: 4096", "envSteps: 1000000000")
    (tmp_path / "endless.yaml").write_text(endless)
    with (tmp_path / "output.txt").open("w") as output:
        command = [VACO, "bench", "lag", "endless.yaml", "--out", "out", "--workers", "2"]
        process = psutil.Popen(command, cwd=tmp_path, stdout=output, stderr=output)
    try:
        # The laboratory, the process that the cells are forked from, its helper, and two cells.
        for _ in range(1200):
            if len(process.children(recursive=True)) >= 5:
                break
            _POLL.wait(0.05)
        assert len(process.children(recursive=True)) >= 5
    finally:
        end_by_kill(process)


def test_the_page_tells_what_was_run_and_draws_it(whole, tmp_path):
    done = lab("report", whole, "--out", tmp_path, root=tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "small.md").read_text()
    assert "8 of 8 runs are finished; 0 of them diverged." in page
    assert "made by `vaco bench lag" in page
    assert "CartPole; 2 seeds each." in page
    assert "Under 10 seeds" in page
    # Its author is told what stands above findings of these rows.
    assert "the first line for these rows is <!-- rows: 8 digest: " in done.stderr
    assert (tmp_path / "small.csv").read_bytes() == (whole / "table.csv").read_bytes()
    for name in ("curves", "profiles", "tv"):
        picture = tmp_path / f"small-{name}.png"
        assert picture.name in page
        assert 1000 < picture.stat().st_size < 100_000


def test_without_lag_a_cell_is_a_synchronous_job(whole, start_run):
    """The laboratory adds nothing to the rollout and the update that jobs have."""
    matrix, cells = Store(whole).load()
    cell = next(c for c in cells if (c.algorithm, c.lag, c.seed) == ("vaco", 1, 1))
    assert matrix.axes.lag == [1, 4]
    spec = cell.job.spec.model_copy(update={"synchronous": True})
    document = cell.job.model_copy(update={"spec": spec}).model_dump_json(
        by_alias=True, exclude_none=True
    )
    run = start_run(document.replace('"name":"small"', '"name":"pole"'))
    assert run.end() == 0, run.output()
    lines = [json.loads(x) for x in (run.root / "metrics.jsonl").read_text().splitlines()]
    of_job = [(x["env_steps"], x["tv"], x["kl"], x["entropy"]) for x in lines if "tv" in x]
    (document,) = Store(whole).read([cell])
    of_cell = [(p["env_steps"], p["tv"], p["kl"], p["entropy"]) for p in document["curve"]]
    assert of_cell == of_job


def real_matrix(path, replaced=()):
    """Write the small matrix with one real run in it and nothing else."""
    text = SMALL.read_text().replace("lag: [1, 4]", "lag: [async]").replace("seed: 2", "seed: 1")
    text = text.replace("    ppo: [algorithm.name=ppo]\n", "")
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)
    return path


def test_a_real_run_is_a_cell_whose_lag_is_measured(tmp_path):
    path = real_matrix(tmp_path / "real.yaml")
    done = lab("lag", "real.yaml", "--out", "real", root=tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = table(tmp_path / "real")
    assert (row["lag"], row["outcome"], row["auc"]) == ("async", "complete", "")
    assert int(row["env_steps"]) >= 4096
    (cell,) = cells_of(load_matrix(path), "real.yaml")
    run = tmp_path / "real" / "runs" / cell.key / "run"
    status = json.loads((run / "status.json").read_text())
    assert status["phase"] == "Complete"
    # Fewer updates than the status looks back over: its window is the whole run.
    assert float(row["lag_p95"]) == status["lag"]["p95"]
    # Two epochs of two minibatches.
    assert len(table(tmp_path / "real", "steps.csv")) == 4
    # Its last policy is judged as the product judges it: the same episodes, the same mean.
    (document,) = Store(tmp_path / "real").read([cell])
    assert [steps for steps, _ in document["evaluations"]] == [0, int(row["env_steps"])]
    newest = run / "checkpoints" / f"v{status['version']:09d}"
    stored = read_checkpoint(newest, cell.job.spec.policy, None)
    assert Evaluator(cell, stored.spaces).mean_return(stored.payload) == float(row["final_return"])


def processes_in(directory):
    """Return the command lines that name a directory."""
    lines = [" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(directory) in line]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_real_run_ends_with_the_command_and_begins_anew(tmp_path, number):
    path = real_matrix(tmp_path / "real.yaml", [("envSteps: 4096", "envSteps: 20000")])
    (cell,) = cells_of(load_matrix(path), "real.yaml")
    out = tmp_path / "real"
    run = out / "runs" / cell.key / "run"
    with (tmp_path / "output.txt").open("w") as output:
        command = [VACO, "bench", "lag", str(path), "--out", str(out)]
        process = psutil.Popen(command, cwd=tmp_path, stdout=output, stderr=output)
    try:
        for _ in range(1200):
            if (run / "metrics.jsonl").exists():
                break
            _POLL.wait(0.05)
        assert (run / "metrics.jsonl").exists()
        assert any("vaco_learner" in line for line in processes_in(out))
        first = load_job(run / "job.yaml").metadata.uid
        # As a terminal does it: Ctrl-C is for the command and for the laboratory.
        laboratory = process.children() if number == signal.SIGINT else []
        for each in [process, *laboratory]:
            each.send_signal(number)
        process.wait(timeout=100)
        if number == signal.SIGINT:
            # Then they are gone already: the command waits for what it started.
            assert not processes_in(out)
    finally:
        if process.is_running():
            end_by_kill(process)
    done = lab("lag", path, "--out", out, root=tmp_path)
    assert done.returncode == 0, done.stderr
    assert load_job(run / "job.yaml").metadata.uid != first
    (row,) = table(out)
    updates = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    assert not any(x.get("event") == "restored" for x in updates)
    assert int(row["updates"]) == sum("tv" in x for x in updates)


HUGE = """
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv


class Huge(CartPoleEnv):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, 1e30, *rest


gymnasium.register("Huge-v0", entry_point=Huge, max_episode_steps=20)
"""


def test_a_run_that_diverges_is_a_result_whether_its_lag_is_imposed_or_real(tmp_path):
    (tmp_path / "huge.py").write_text(HUGE)
    task = f"{{environment: Huge-v0, rewardBound: 1.0e31, imports: [{tmp_path / 'huge.py'}]}}"
    real_matrix(
        tmp_path / "huge.yaml",
        [("{environment: CartPole-v1}", task), ("lag: [async]", "lag: [1, async]")],
    )
    done = lab("lag", "huge.yaml", "--out", "huge", root=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = table(tmp_path / "huge")
    assert [row["lag"] for row in rows] == ["1", "async"]
    assert [row["outcome"] for row in rows] == ["diverged"] * 2
    # The low score of the matrix.
    assert [float(row["final_return"]) for row in rows] == [0.0] * 2


def test_a_cell_that_takes_too_long_is_killed_and_counts_as_failed(tmp_path):
    endless = SMALL.read_text().replace("envSteps: 4096", "envSteps: 1000000000")
    endless = endless.replace("lag: [1, 4]", "lag: [1, async]").replace("seed: 2", "seed: 1")
    endless = endless.replace("    ppo: [algorithm.name=ppo]\n", "") + "cellMinutes: 0.05\n"
    (tmp_path / "endless.yaml").write_text(endless)
    out = tmp_path / "out"
    done = lab("lag", "endless.yaml", "--out", out, root=tmp_path)
    assert done.returncode == 1
    assert done.stderr.count("`cellMinutes`: took over 0.05 minutes and was killed. Raise it") == 2
    assert "2 cells failed" in done.stderr
    assert not processes_in(out)


def test_a_cell_that_fails_is_told_and_the_others_go_on(tmp_path):
    # That a policy does not fit its environment is only seen when it is made.
    text = SMALL.read_text().replace(
        "CartPole: []\n", 'CartPole: []\n    Images: ["policy.network={type: cnn}"]\n'
    )
    text = text.replace("[0, 500]\n", "[0, 500]\n  Images: [0, 1]\n")
    text = text.replace("lag: [1, 4]", "lag: [1, async]").replace("seed: 2", "seed: 1")
    text = text.replace("    ppo: [algorithm.name=ppo]\n", "")
    (tmp_path / "bad.yaml").write_text(text)
    done = lab("lag", "bad.yaml", "--out", "bad", root=tmp_path)
    assert done.returncode == 1
    told = "`spec.policy.network"
    assert f"error: Images vaco K=1 seed 0: {told}" in done.stderr
    # Of a real run its last words.
    ended = done.stderr.partition("K=async")[2]
    assert "`vaco run` ended with status" in ended
    assert told in ended
    assert "Mend that; the same command runs the cell again." in ended
    assert {row["environment"] for row in table(tmp_path / "bad")} == {"CartPole"}


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("  seed: 2", "  seed: 2\n  batch: {}", "`axes.batch` (line 23): unknown field"),
        ("name=ppo", "name=poo", "Did you mean `spo`"),
        ("base:", "basis:", "`base`"),
        ("CartPole-v1", "CartPole-v9", "'CartPole-v9' is not the id of an environment"),
    ],
)
def test_a_bad_matrix_is_refused_before_anything_runs(tmp_path, old, new, told):
    (tmp_path / "bad.yaml").write_text(SMALL.read_text().replace(old, new))
    done = lab("lag", "bad.yaml", "--out", "bad", root=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
    assert not (tmp_path / "bad").exists()


def test_there_is_nothing_to_report_where_nothing_was_run(tmp_path):
    done = lab("report", tmp_path, root=tmp_path)
    assert done.returncode == 2
    assert "no matrix was run here" in done.stderr
