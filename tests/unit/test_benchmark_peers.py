"""The comparison with other programs: their lines, the figures of a run, the tables of the page."""

import json
import sys
from dataclasses import asdict, replace
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
    assert figures.peak_mib > 5
    assert figures.memory == "PSS"
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


def record(pages: Any, run: Any, row: tuple[Any, ...], **changes: Any) -> Any:
    entry, kind, number, seconds, speed = row
    figures = run.Figures(
        seconds_to_threshold=seconds,
        steps_to_threshold=None if seconds is None else 50_000,
        steps_per_second=speed,
        peak_mib=1500.0,
        memory="PSS",
        seconds=90.0,
        steps=123_456,
        best_return=312.0,
    )
    at = {"commit": "abc1234", "date": f"2026-01-02T10:0{number}Z", "load": 1.0, "nice": 0}
    whole = {"figures": replace(figures, **changes), "error": None, **at}
    return pages.Record(entry, kind, number, **whole)


def document(run: Any, pages: Any, rows: list[tuple[Any, ...]], **changes: Any) -> dict[str, Any]:
    machine = {"cores": 2, "processor": "X", "memoryGiB": 24, "python": "3.11.7"}
    return {
        "format": 2,
        "commands": ["python -m benchmarks.peers", "python -m benchmarks.peers --resume"],
        "commit": "abc1234",
        "machine": machine,
        "limits": {"own": {"warmup": 5, "window": 20, "threshold": 90}},
        "one_group": True,
        "nice": -5,
        "versions": {"vaco": {"vaco": "0.1.0", "torch": "2.13.0", "gymnasium": "1.4.0"}},
        "records": [asdict(record(pages, run, row, **changes)) for row in rows],
    }


def rows_of(text: str, entry: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line.startswith(f"| {entry} |")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_row_has_medians_every_turn_and_ratios_within_rounds(run: Any, pages: Any) -> None:
    made = document(
        run,
        pages,
        [
            ("RLlib", "own", 0, 20.0, 1000.0),
            ("vaco", "own", 0, 10.0, 20000.0),
            # A round that was completed later: its place is by its number.
            ("RLlib", "own", 2, 40.0, 3000.0),
            ("vaco", "own", 2, 4.0, 10000.0),
            ("RLlib", "own", 1, 60.0, 2000.0),
            ("vaco", "own", 1, 20.0, 10000.0),
        ],
    )
    text = pages.page(json.loads(json.dumps(made)))
    (rllib,) = rows_of(text, "RLlib")
    (vaco,) = rows_of(text, "vaco")
    # The ratio of the medians would be 4.
    assert rllib[3:5] == ["**40.0**, best 20.0 (20.0, 60.0, 40.0)", "3"]
    assert rllib[6:8] == ["**2.0 k**, best 3.0 k (1.0 k, 2.0 k, 3.0 k)", "0.2"]
    assert (vaco[4], vaco[7]) == ("1", "1")
    assert vaco[8] == "**1,500**, best 1,500 (1,500, 1,500, 1,500)"
    assert "`python -m benchmarks.peers`, then `python -m benchmarks.peers --resume`;" in text
    assert "turns began 2026-01-02T10:00Z to 2026-01-02T10:02Z, commit abc1234" in text
    assert "vaco 0.1.0, torch 2.13.0, gymnasium 1.4.0" in text
    assert "Load average before turns 1.0 to 1.0." in text
    assert "All processes of an entry were in one control group" in text
    assert "starts; nice -5." in text
    assert "Not reached, failed" not in text
    made["records"][0]["load"] = 16.0
    made["one_group"] = False
    text = pages.page(made)
    assert "**Load average before turns 1.0 to 16.0: other programs ran too" in text
    assert "**There was no control group for entries." in text


def test_there_is_no_ratio_of_fewer_than_three_rounds(run: Any, pages: Any) -> None:
    rows = [("RLlib", "wide", number, None, 1000.0) for number in range(3)]
    rows += [("vaco", "wide", number, None, 2000.0) for number in range(2)]
    rows += [("vaco, one by one", "wide", number, None, 500.0) for number in range(3)]
    (rllib,) = rows_of(pages.page(document(run, pages, rows)), "RLlib")
    assert rllib[3:6] == ["**1.0 k**, best 1.0 k (1.0 k, 1.0 k, 1.0 k)", "n = 2", "2"]


def test_the_page_says_which_entries_have_one_core(run: Any, pages: Any) -> None:
    names = ["stable-baselines3", "TorchRL", "TorchRL, two collectors", "vaco"]
    text = pages.page(document(run, pages, [(name, "wide", 0, None, 1000.0) for name in names]))
    assert "**One process, so one core: stable-baselines3, TorchRL. Several" in text
    assert [rows_of(text, name)[0][1] for name in names] == ["one process"] * 2 + ["several"] * 2


def test_the_page_begins_with_where_vaco_is_not_the_best(run: Any, pages: Any) -> None:
    rows = [("RLlib", "own", 0, 5.0, 100.0), ("vaco", "own", 0, 10.0, 200.0)]
    rows += [("TorchRL", "own", 0, 3.0, 300.0), ("vaco, one by one", "wide", 0, None, 900.0)]
    made = document(run, pages, rows)
    losses = [line for line in pages.page(made).splitlines() if line.startswith("- own, ")]
    # TorchRL has no published settings, so no time to the threshold.
    assert losses == [
        "- own, seconds to 475: RLlib 5.0; vaco 10.0.",
        "- own, env-steps/s trained: TorchRL 0.3 k; vaco 0.2 k.",
    ]


def test_what_was_not_reached_counts_as_longer_than_all(run: Any, pages: Any) -> None:
    rows = [("RLlib", "own", turn, seconds, 1.0) for turn, seconds in enumerate((None, 30.0, None))]
    rows += [("vaco", "own", turn, 10.0, 1.0) for turn in range(3)]
    text = pages.page(document(run, pages, rows))
    (rllib,) = rows_of(text, "RLlib")
    assert rllib[3] == "**stopped** (stopped at 123 k steps, 30.0, stopped at 123 k steps)"
    assert rllib[4:6] == ["more", "**more** (more, 50.0 k, more)"]
    assert "- RLlib, own, round 2: not reached in 90 s and 123,456 steps of 1,000,000; best" in text


def test_who_had_all_steps_of_its_publisher_was_not_stopped(run: Any, pages: Any) -> None:
    made = document(run, pages, [("stable-baselines3", "own", 0, None, 1.0)])
    (row,) = rows_of(pages.page(made), "stable-baselines3")
    assert row[3] == "**not reached** (not reached)"


def test_settings_that_are_not_published_for_cartpole_have_no_threshold(
    run: Any, pages: Any
) -> None:
    text = pages.page(document(run, pages, [("TorchRL", "own", 0, None, 1.0)]))
    (torchrl,) = rows_of(text, "TorchRL")
    assert torchrl[3:6] == ["none published", "", ""]
    assert "Not reached, failed" not in text


def test_a_run_that_failed_is_told_with_its_error(run: Any, pages: Any) -> None:
    made = document(run, pages, [("vaco", "wide", 0, None, 5000.0)])
    row = record(pages, run, ("TorchRL", "wide", 0, None, None))
    error = "ended with exit status 1\nTraceback"
    made["records"].append(asdict(replace(row, figures=None, error=error)))
    text = pages.page(made)
    (torchrl,) = rows_of(text, "TorchRL")
    assert torchrl[3:] == ["no figure", "", "", "no figure"]
    assert "- TorchRL, wide, round 0: failed: `ended with exit status 1`" in text


def test_where_the_window_gave_no_throughput_it_is_of_the_whole_run(run: Any, pages: Any) -> None:
    text = pages.page(document(run, pages, [("TorchRL", "own", 0, None, None)]))
    (torchrl,) = rows_of(text, "TorchRL")
    # 123,456 steps in 90 s.
    assert torchrl[6] == "**1.4 k** (1.4 k)"


def test_memory_that_counts_what_is_shared_for_each_is_told_so(run: Any, pages: Any) -> None:
    text = pages.page(document(run, pages, [("vaco", "own", 0, 1.0, 1.0)], memory="RSS"))
    (vaco,) = rows_of(text, "vaco")
    assert vaco[8] == "**1,500** (1,500), RSS"


def test_every_peer_has_a_script_and_exact_pins() -> None:
    entries = import_module("benchmarks.peers.entries").ENTRIES
    for entry in entries:
        directory = ROOT / "benchmarks" / "peers" / entry.directory
        assert (directory / "train.py").exists()
        if entry.directory != "vaco":
            pins = (directory / "requirements.txt").read_text().splitlines()
            assert pins
            assert all("==" in pin for pin in pins)
