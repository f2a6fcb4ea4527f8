"""The comparison with other programs: what a measurement writes, whose turn, what terms."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import pytest
from vaco.errors import UserError

ROOT = Path(__file__).parents[2]
HERE = {
    "commit": "abc1234",
    "machine": {"cores": 2, "processor": "X"},
    "limits": {"own": {"window": 15.0}, "wide": {"window": 15.0}},
    "one_group": True,
    "nice": 0,
}


@pytest.fixture(autouse=True)
def benchmarks_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)


@pytest.fixture
def records() -> Any:
    return import_module("benchmarks.peers.records")


@pytest.fixture
def terms() -> Any:
    return import_module("benchmarks.peers.terms")


@pytest.fixture
def main() -> Any:
    return import_module("benchmarks.peers.__main__")


def figures() -> Any:
    return import_module("benchmarks.peers.run").Figures(
        seconds_to_threshold=10.0,
        steps_to_threshold=50_000,
        steps_per_second=5000.0,
        peak_mib=800.0,
        memory="PSS",
        seconds=20.0,
        steps=100_000,
        best_return=480.0,
    )


def record(records: Any, entry: str, number: int, *, failed: bool = False) -> Any:
    outcome = {"figures": None if failed else figures(), "error": "it broke" if failed else None}
    at = {"commit": "abc1234", "date": "2026-01-02T10:00Z", "load": 1.0, "nice": 0}
    return records.Record(entry, "own", number, **outcome, **at)


@pytest.fixture
def path(records: Any, tmp_path: Path) -> Path:
    """A document of two turns, one of which failed."""
    path = tmp_path / "peers.json"
    document = records.begin(path, "first", HERE, resume=False)
    records.put(document, record(records, "vaco", 0))
    records.put(document, record(records, "RLlib", 0, failed=True))
    records.save(path, document)
    return path


def test_a_document_is_gone_on_with(records: Any, path: Path) -> None:
    document = records.begin(path, "second", HERE, resume=True)
    assert document["commands"] == ["first", "second"]
    assert document["records"][0] == asdict(record(records, "vaco", 0))
    # The one that failed is run again.
    assert records.measured(document) == {("vaco", "own", 0)}
    begun = records.begin(path, "third", HERE, resume=False)
    assert (begun["commands"], begun["records"]) == (["third"], [])


def test_a_turn_takes_the_place_of_one_that_failed(records: Any, path: Path) -> None:
    document = records.load(path)
    for failed in (True, True, False):
        records.put(document, record(records, "RLlib", 0, failed=failed))
    records.put(document, record(records, "RLlib", 1))
    assert [(each["entry"], each["round"]) for each in document["records"]] == [
        ("vaco", 0),
        ("RLlib", 0),
        ("RLlib", 1),
    ]
    assert records.measured(document) == {
        ("vaco", "own", 0),
        ("RLlib", "own", 0),
        ("RLlib", "own", 1),
    }


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("commit", "def5678"),
        ("machine", {"cores": 4, "processor": "X"}),
        ("limits", {"own": {"window": 30.0}, "wide": {"window": 15.0}}),
        ("one_group", False),
        ("nice", -10),
    ],
)
def test_figures_of_other_terms_are_not_gone_on_with(
    records: Any, path: Path, name: str, value: object
) -> None:
    with pytest.raises(UserError) as refused:
        records.begin(path, "second", HERE | {name: value}, resume=True)
    told = f"{name} of its figures is {HERE[name]}, now it is {value}"
    assert refused.value.problem == told
    assert "without --resume" in refused.value.cure


def test_figures_of_uncommitted_changes_are_not_gone_on_with(records: Any, tmp_path: Path) -> None:
    dirty = HERE | {"commit": "abc1234-dirty"}
    path = tmp_path / "peers.json"
    records.save(path, records.begin(path, "first", dirty, resume=False))
    with pytest.raises(UserError, match="abc1234-dirty has uncommitted changes"):
        records.begin(path, "second", dirty, resume=True)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "is not there"),
        ('{"format": 2, "records": [', "is not JSON: "),
        ('{"records": [], "remarks": []}', "is not of format 2"),
        ("[]", "is not of format 2"),
    ],
)
def test_what_is_no_document_is_refused(
    records: Any, tmp_path: Path, text: str | None, problem: str
) -> None:
    path = tmp_path / "peers.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError) as refused:
        records.begin(path, "second", HERE, resume=True)
    assert refused.value.path == str(path)
    assert refused.value.problem.startswith(problem)


def test_resuming_without_a_file_is_refused_at_the_command_line(
    main: Any,
    terms: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(main.signal, "signal", lambda *_: None)
    missing = tmp_path / "peers.json"
    monkeypatch.setattr(sys, "argv", ["peers", "--resume", "--results", str(missing)])
    monkeypatch.setattr(main, "alone", lambda: terms.alone(tmp_path / "lock"))
    monkeypatch.setattr(main, "one_group", lambda nice: terms.one_group(nice, ()))
    assert main.main() == 1
    assert f"`{missing}`: is not there. Measure without --resume." in capsys.readouterr().err


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def schedule() -> Callable[..., Any]:
    def make(clock: Clock, names: list[str], **changes: Any) -> Any:
        entries = import_module("benchmarks.peers.entries").ENTRIES
        limits = import_module("benchmarks.peers.run").Limits
        given = {
            "entries": [entry for entry in entries if entry.name in names],
            "kinds": ("own", "wide"),
            "rounds": 2,
            "limits": {"own": limits(5, 15, 75), "wide": limits(5, 15, 0)},
            "measured": (),
            "seconds": 1e6,
            "clock": clock,
        }
        return import_module("benchmarks.peers.schedule").Schedule(**given | changes)

    return make


def keys(schedule: Any) -> list[tuple[str, str, int]]:
    return [(entry.name, kind, number) for entry, kind, number in schedule.turns()]


def test_each_entry_has_a_turn_in_each_round_of_each_kind_it_has(
    schedule: Callable[..., Any],
) -> None:
    turns = keys(schedule(Clock(), ["RLlib", "vaco, one by one"]))
    one = [("RLlib", "own"), ("RLlib", "wide"), ("vaco, one by one", "wide")]
    assert turns == [(*each, number) for number in (0, 1) for each in one]


def test_turns_that_have_figures_are_left_out(schedule: Callable[..., Any]) -> None:
    measured = {("RLlib", "own", 0), ("vaco", "own", 1)}
    left = keys(schedule(Clock(), ["RLlib", "vaco"], kinds=("own",), measured=measured))
    assert left == [("vaco", "own", 0), ("RLlib", "own", 1)]


def test_a_round_that_would_end_too_late_does_not_begin(
    schedule: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    made = schedule(clock, ["RLlib", "vaco"], rounds=3, kinds=("own",), seconds=500)
    turns = []
    for entry, _, number in made.turns():
        clock.now += {"RLlib": 150, "vaco": 50}[entry.name]
        turns.append((entry.name, number))
    # Two rounds of 200 seconds; a third would end at 600.
    assert turns == [("RLlib", 0), ("vaco", 0), ("RLlib", 1), ("vaco", 1)]
    assert capsys.readouterr().out.splitlines() == [
        "no time for RLlib, own, round 2",
        "no time for vaco, own, round 2",
    ]
    assert made.estimate() == "0 turns left, up to about 0 min"


def test_what_is_left_is_told_by_limits_and_then_by_the_last_turn(
    schedule: Callable[..., Any],
) -> None:
    clock = Clock()
    made = schedule(clock, ["TorchRL"], kinds=("own",), rounds=3)
    turns = made.turns()
    next(turns)
    # No settings are published, so nobody waits for the threshold: 35 seconds each.
    assert made.estimate() == "3 turns left, up to about 2 min"
    clock.now += 150
    next(turns)
    assert made.estimate() == "2 turns left, up to about 5 min"


def test_one_run_measures_at_a_time(terms: Any, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    refused = pytest.raises(UserError, match="another run measures")
    with terms.alone(path), refused, terms.alone(path):
        pass
    with terms.alone(path):
        pass


@pytest.fixture
def controllers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, ...]:
    """Two directories of controllers; groups of the second alone have shares, as a kernel gives."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    mkdir = Path.mkdir

    def make(path: Path, **options: Any) -> None:
        mkdir(path, **options)
        if path.parent == second:
            (path / "share").write_text("100")

    monkeypatch.setattr(Path, "mkdir", make)
    return ((tmp_path / "none", "share", 1), (first, "share", 1), (second, "share", 100))


def test_entries_have_one_group_whose_share_is_by_nice(
    terms: Any, controllers: tuple[Any, ...]
) -> None:
    directory = controllers[-1][0]
    # 1.25 ** 5 is 3.05.
    for nice, share in ((0, "100"), (-5, "305"), (5, "33")):
        with terms.one_group(nice, controllers) as group:
            assert group == directory / "vaco-peers"
            assert (group / "share").read_text() == share
    assert not (controllers[1][0] / "vaco-peers").exists()


def test_without_a_group_there_is_no_nice(terms: Any, tmp_path: Path) -> None:
    nowhere = ((tmp_path / "none", "share", 100),)
    with terms.one_group(0, nowhere) as group:
        assert group is None
    with pytest.raises(UserError, match="-5 needs a control group"), terms.one_group(-5, nowhere):
        pass


def test_an_entry_is_in_its_group_before_it_starts_others(tmp_path: Path) -> None:
    run = import_module("benchmarks.peers.run")
    script = "import os; from benchmarks.peers.lines import Report; r = Report(); r.start(); "
    script += "r.progress(os.getpid(), [])"
    (tmp_path / "cgroup.procs").touch()
    taken = run.measure([sys.executable, "-c", script], run.Limits(0, 60, 0), tmp_path)
    assert (tmp_path / "cgroup.procs").read_text().strip() == str(taken.steps)


def test_a_commit_is_of_what_can_change_a_figure(terms: Any, tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True)

    (tmp_path / "docs").mkdir()
    code, page = tmp_path / "code.py", tmp_path / "docs" / "page.html"
    git("init")
    code.write_text("1")
    page.write_text("1")
    git("add", ".")
    git("commit", "-m", "one")
    first = terms.commit(tmp_path)
    page.write_text("2")
    assert terms.commit(tmp_path) == first
    git("commit", "-am", "a page")
    assert terms.commit(tmp_path) == first
    code.write_text("2")
    assert terms.commit(tmp_path) == f"{first}-dirty"
    git("commit", "-am", "code")
    assert terms.commit(tmp_path) not in (first, f"{first}-dirty")


def test_memory_is_read_from_the_rollup_of_a_process() -> None:
    memory = import_module("benchmarks.peers.memory")
    assert (
        memory.pss_kib("5-7 ---p [rollup]\nRss:  1852 kB\nPss:   453 kB\nPss_Anon: 1 kB\n") == 453
    )
    with pytest.raises(ValueError, match="no line Pss:"):
        memory.pss_kib("Rss:  1852 kB\n")


def test_memory_without_a_rollup_is_told_as_resident(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = import_module("benchmarks.peers.memory")
    process = psutil.Process()
    held, count = memory.memory(process)
    assert (count, held > 1e6) == ("PSS", True)

    def refuse(_: Path) -> str:
        raise PermissionError

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", refuse)
        resident, count = memory.memory(process)
    assert count == "RSS"
    assert resident >= held


@pytest.mark.parametrize("rounds", ["0", "-1", "two"])
def test_rounds_that_are_no_number_are_refused_in_words(
    rounds: str, main: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["peers", f"--rounds={rounds}"])
    with pytest.raises(SystemExit):
        main._options()
    assert f"--rounds: {rounds!r} is not a whole number from 1" in capsys.readouterr().err


def test_an_entry_without_an_environment_fails_once_for_each_kind_it_has(
    main: Any, records: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: str) -> Path:
        raise RuntimeError("uv venv failed")

    monkeypatch.setattr(main, "interpreter", broken)
    monkeypatch.setattr(sys, "argv", ["peers", "--results", str(tmp_path / "peers.json")])
    options = main._options()
    document = records.begin(options.results, "first", HERE, resume=False)
    entries = [each for each in main.ENTRIES if each.name in ("RLlib", "vaco, one by one")]
    for _ in range(2):
        assert main._interpreters(entries, options, document) == {}
    rows = json.loads(options.results.read_text())["records"]
    assert [(row["entry"], row["kind"], row["error"]) for row in rows] == [
        ("RLlib", "own", "uv venv failed"),
        ("RLlib", "wide", "uv venv failed"),
        ("vaco, one by one", "wide", "uv venv failed"),
    ]


def test_figures_of_another_version_of_an_entry_are_not_gone_on_with(
    main: Any, records: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["peers", "--results", str(tmp_path / "peers.json")])
    document = records.begin(tmp_path / "peers.json", "first", HERE, resume=False)
    entries = [each for each in main.ENTRIES if each.name == "vaco"]
    monkeypatch.setattr(main, "version", lambda *_: "1.0")
    assert main._interpreters(entries, main._options(), document) == {"vaco": Path(sys.executable)}
    monkeypatch.setattr(main, "version", lambda *_: "1.1")
    with pytest.raises(UserError, match="figures of vaco are of"):
        main._interpreters(entries, main._options(), document)
