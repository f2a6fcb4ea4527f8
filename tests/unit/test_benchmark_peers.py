"""The comparison with other programs: their lines, the figures of a run, the tables of the page."""

import json
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def benchmarks_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)


@pytest.fixture
def lines() -> Any:
    return import_module("benchmarks.peers.lines")


@pytest.fixture
def run() -> Any:
    return import_module("benchmarks.peers.run")


@pytest.fixture
def pages() -> Any:
    return import_module("benchmarks.peers.page")


def test_a_script_s_lines_are_read_as_they_were_written(
    lines: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "lines"
    pipe.touch()
    monkeypatch.setenv(lines.PIPE_VARIABLE, str(pipe))
    report = lines.Report()
    report.start()
    report.progress(512, [20.0, 23.0])
    first, second = map(lines.Line.parse, pipe.read_text().splitlines())
    assert first == lines.Line(0, 0.0, None, 0)
    assert (second.steps, second.mean_return, second.episodes) == (512, 21.5, 2)
    assert second.seconds >= 0


WHOLE = {"steps": 512, "seconds": 0.5, "return": 21.5, "episodes": 24}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("training ...", "not a line of JSON"),
        (json.dumps(WHOLE)[:-4], "not a line of JSON"),
        ("[1, 2]", "not the fields"),
        (json.dumps({"steps": 512, "seconds": 0.5}), "not the fields"),
        (json.dumps(WHOLE | {"loss": 1.0}), "not the fields"),
        (json.dumps(WHOLE | {"steps": -1}), "steps: -1"),
        (json.dumps(WHOLE | {"steps": 5.5}), "steps: 5.5"),
        (json.dumps(WHOLE | {"steps": True}), "steps: True"),
        (json.dumps(WHOLE | {"episodes": "24"}), "episodes: '24'"),
        (json.dumps(WHOLE | {"seconds": -0.1}), "seconds: -0.1"),
        (json.dumps(WHOLE | {"seconds": None}), "seconds: None"),
        (json.dumps(WHOLE | {"return": float("nan")}), "return: nan"),
        (json.dumps(WHOLE | {"return": None}), "return: None of 24 episodes"),
        (json.dumps(WHOLE | {"episodes": 0}), "return: 21.5 of 0 episodes"),
    ],
)
def test_a_malformed_line_is_refused(lines: Any, text: str, told: str) -> None:
    with pytest.raises(ValueError, match="^" + told.replace("(", r"\(")):
        lines.Line.parse(text)


def timed(run: Any, lines: Any, *rows: tuple[float, int, float | None, int]) -> list[Any]:
    return [run.Timed(at, lines.Line(steps, at, *rest)) for at, steps, *rest in rows]


def test_the_threshold_is_one_of_a_hundred_episodes(run: Any, lines: Any) -> None:
    limits = run.Limits(warmup=1, window=2, threshold=10)
    rows = timed(
        run, lines, (0, 0, None, 0), (2, 10, 500, 99), (3, 20, 474.9, 100), (4, 30, 475, 100)
    )
    figures = run.figures(rows, limits, 2**20)
    assert (figures.seconds_to_threshold, figures.steps_to_threshold) == (4, 30)
    assert figures.peak_mib == 1
    late = run.figures(rows, run.Limits(1, 2, threshold=3.5), 0)
    assert late.seconds_to_threshold is None
    assert late.best_return == 500


def test_throughput_is_of_the_window_alone(run: Any, lines: Any) -> None:
    limits = run.Limits(warmup=10, window=20, threshold=0)
    rows = [(0, 0, None, 0), (9, 5, None, 0), (10, 100, None, 0), (30, 2100, None, 0)]
    after = (31, 90_000, None, 0)
    assert run.figures(timed(run, lines, *rows, after), limits, 0).steps_per_second == 100


def test_lines_of_less_than_half_of_the_window_give_no_throughput(run: Any, lines: Any) -> None:
    limits = run.Limits(warmup=10, window=20, threshold=0)
    few = timed(run, lines, (0, 0, None, 0), (12, 100, None, 0), (21, 200, None, 0))
    assert run.figures(few, limits, 0).steps_per_second is None


SCRIPT = """
import os, subprocess, sys, time
from benchmarks.peers.lines import Report
child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE,
                         start_new_session=True)
print("child", child.pid, file=open(sys.argv[1], "w"), flush=True)
print("what the script says", flush=True)
report = Report()
report.start()
for step in range(1, 2000):
    report.progress(step, [500.0] * 100)
    if step == int(sys.argv[2]):
        os.write(report._descriptor, b"gibberish\\n")
    time.sleep(0.02)
"""


def test_a_script_is_ended_with_all_its_processes_when_its_figures_are_complete(
    run: Any, tmp_path: Path
) -> None:
    told = tmp_path / "child"
    command = [sys.executable, "-c", SCRIPT, str(told), "-1"]
    figures = run.measure(command, run.Limits(warmup=0.1, window=0.5, threshold=5))
    assert figures.steps_to_threshold == 1
    assert figures.steps_per_second > 0
    assert figures.peak_mib > 10
    assert not psutil.pid_exists(int(told.read_text().split()[1]))


def test_a_script_that_says_gibberish_gives_no_figures(run: Any, tmp_path: Path) -> None:
    told = tmp_path / "child"
    command = [sys.executable, "-c", SCRIPT, str(told), "3"]
    with pytest.raises(run.FailedError, match=r"not a line of JSON: 'gibberish'\n.*script says"):
        run.measure(command, run.Limits(warmup=0.1, window=60, threshold=0))
    assert not psutil.pid_exists(int(told.read_text().split()[1]))


def test_a_script_that_ends_without_a_line_failed(run: Any) -> None:
    command = [sys.executable, "-c", "raise SystemExit(3)"]
    with pytest.raises(run.FailedError, match="exit status 3"):
        run.measure(command, run.Limits(warmup=0, window=60, threshold=0))


def document(run: Any, pages: Any, rows: list[tuple[Any, ...]]) -> dict[str, Any]:
    records = []
    for entry, kind, seed, seconds, speed in rows:
        figures = run.Figures(
            seconds_to_threshold=seconds,
            steps_to_threshold=None if seconds is None else 50_000,
            steps_per_second=speed,
            peak_mib=1500.0,
            seconds=90.0,
            steps=123_456,
            best_return=312.0,
        )
        records.append(asdict(pages.Record(entry, kind, seed, figures, None)))
    machine = {"date": "2026-01-02", "commit": "abc1234", "cores": 2, "processor": "X"}
    return {
        "commands": ["python -m benchmarks.peers", "python -m benchmarks.peers --resume"],
        "machine": machine | {"memoryGiB": 24},
        "limits": {"own": {"warmup": 5, "window": 20, "threshold": 90}},
        "versions": {"vaco": {"vaco": "0.1.0", "torch": "2.13.0", "gymnasium": "1.4.0"}},
        "load": [1.0, 2.4],
        "records": records,
    }


def rows_of(text: str, entry: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith(f"| {entry} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_row_has_medians_every_turn_and_ratios_within_turns(run: Any, pages: Any) -> None:
    made = document(
        run,
        pages,
        [
            ("RLlib", "own", 0, 20.0, 1000.0),
            ("vaco", "own", 0, 10.0, 20000.0),
            ("RLlib", "own", 1, 60.0, 2000.0),
            ("vaco", "own", 1, 20.0, 10000.0),
            ("RLlib", "own", 2, 40.0, 3000.0),
            ("vaco", "own", 2, 4.0, 10000.0),
        ],
    )
    text = pages.page(json.loads(json.dumps(made)))
    (rllib,) = rows_of(text, "RLlib")
    (vaco,) = rows_of(text, "vaco")
    # The ratio of the medians would be 4.
    assert rllib[2:4] == ["**40.0** (20.0, 60.0, 40.0)", "3"]
    assert rllib[5:7] == ["**2.0 k** (1.0 k, 2.0 k, 3.0 k)", "0.2"]
    assert (vaco[3], vaco[6]) == ("1", "1")
    assert vaco[7] == "**1,500** (1,500, 1,500, 1,500)"
    assert "`python -m benchmarks.peers`, then `python -m benchmarks.peers --resume` on" in text
    assert "on 2026-01-02, commit abc1234" in text
    assert "vaco 0.1.0, torch 2.13.0, gymnasium 1.4.0" in text
    assert "Load average 1 to 2." in text
    assert "Not reached, failed" not in text
    assert "**Load average 3 to 16: other programs ran too" in pages.page(made | {"load": [3, 16]})


def test_the_page_begins_with_where_vaco_is_not_the_best(run: Any, pages: Any) -> None:
    rows = [("RLlib", "own", 0, 5.0, 100.0), ("vaco", "own", 0, 10.0, 200.0)]
    rows += [("TorchRL", "own", 0, None, 300.0), ("vaco, one by one", "wide", 0, None, 900.0)]
    made = document(run, pages, rows)
    losses = [line for line in pages.page(made).splitlines() if line.startswith("- own, ")]
    assert losses[:2] == [
        "- own, seconds to 475: RLlib 5.0; vaco 10.0.",
        "- own, env-steps/s trained: TorchRL 0.3 k; vaco 0.2 k.",
    ]


def test_what_was_not_reached_counts_as_longer_than_all(run: Any, pages: Any) -> None:
    rows = [("RLlib", "own", seed, seconds, 1.0) for seed, seconds in enumerate((None, 30.0, None))]
    rows += [("vaco", "own", seed, 10.0, 1.0) for seed in range(3)]
    text = pages.page(document(run, pages, rows))
    (rllib,) = rows_of(text, "RLlib")
    assert rllib[2] == "**not reached** (not reached, 30.0, not reached)"
    assert rllib[3] == "more"
    assert (
        "- RLlib, own, seed 2: not reached in 90 s and 123,456 steps; best mean return 312" in text
    )


def test_a_run_that_failed_is_told_with_its_error(run: Any, pages: Any) -> None:
    made = document(run, pages, [("vaco", "wide", 0, None, 5000.0)])
    failed = pages.Record("TorchRL", "wide", 0, None, "ended with exit status 1\nTraceback")
    made["records"].append(asdict(failed))
    text = pages.page(made)
    (torchrl,) = rows_of(text, "TorchRL")
    assert torchrl[2:] == ["no figure", "", "no figure"]
    assert "- TorchRL, wide, seed 0: failed: `ended with exit status 1`" in text


def test_where_the_window_gave_no_throughput_it_is_of_the_whole_run(run: Any, pages: Any) -> None:
    text = pages.page(document(run, pages, [("TorchRL", "own", 0, None, None)]))
    (torchrl,) = rows_of(text, "TorchRL")
    # 123,456 steps in 90 s.
    assert torchrl[5] == "**1.4 k** (1.4 k)"


def test_every_peer_has_a_script_and_exact_pins() -> None:
    entries = import_module("benchmarks.peers.entries").ENTRIES
    for entry in entries:
        directory = ROOT / "benchmarks" / "peers" / entry.directory
        assert (directory / "train.py").exists()
        if entry.directory != "vaco":
            pins = (directory / "requirements.txt").read_text().splitlines()
            assert pins
            assert all("==" in pin for pin in pins)
