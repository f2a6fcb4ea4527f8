"""`metrics.jsonl`: written line by line, on a disk that may be full, and bounded."""

import json
import logging
import resource
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from vaco.metrics_file import MAX_EXCERPTS, Past, before_file, past_file, read_lines, read_metrics
from vaco_learner.journal import Journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def update(version: int, **fields: Any) -> dict[str, Any]:
    return {
        "time": 1e9 + version,
        "version": version,
        "env_steps": 10 * version,
        "train_seconds": float(version),
        "lag_samples": [[version % 3, 10]],
        "fragments": [["actor-0", 1, version, 10]],
        **fields,
    }


def lines(path: Path) -> list[dict[str, Any] | None]:
    return list(read_lines(path))


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """A fault that the kernel injects: no file of this process grows beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_it_goes_on_after_a_torn_line(path: Path) -> None:
    journal = Journal(path)
    journal.write({"version": 1, "loss": float("nan"), "fragments": [["actor-0", 1, 1, 64]]})
    journal.sync()
    journal.close()
    with path.open("a") as file:
        file.write('{"version": 2, "los')
    journal = Journal(path)
    journal.write({"version": 3})
    journal.close()
    first = {"version": 1, "loss": None, "fragments": [["actor-0", 1, 1, 64]]}
    assert lines(path) == [first, {"version": 3}]


def test_one_torn_line_is_emptied(path: Path) -> None:
    path.write_text("x" * 200_000)
    Journal(path).close()
    assert path.read_text() == ""


def test_a_full_disk_costs_lines_which_are_counted_and_nothing_else(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(path)
    journal.write(update(1))
    # Half of the next line would fit.
    with file_size_limit(path.stat().st_size + 60), caplog.at_level(logging.ERROR):
        for version in range(2, 6):
            journal.write(update(version))
    assert len(caplog.records) == 1, "said once, not for every line"
    journal.write(update(6))
    journal.close()
    first, gap, last = lines(path)
    assert (first, last) == (update(1), update(6))
    assert gap is not None
    assert (gap["event"], gap["lost"]) == ("gap", 4)


def test_it_stays_bounded_and_the_whole_curve_is_kept(path: Path) -> None:
    journal = Journal(path, max_bytes=20_000)
    total = 2_000
    for version in range(1, total + 1):
        journal.write(update(version))
    journal.close()
    assert path.stat().st_size <= 21_000
    assert before_file(path).stat().st_size <= 21_000
    past = Past()
    for line in read_metrics(path):
        past.take(line)
    assert [u["version"] for u in past.updates] == list(range(1, total + 1))
    assert past.lags() == Counter({0: 6660, 1: 6670, 2: 6670})
    full = [line for file in (before_file(path), path) for line in lines(file)]
    assert [line and line["version"] for line in full] == list(
        range(total + 1 - len(full), total + 1)
    )
    assert all(line and line["fragments"] for line in full), "the newest ones are in full"


def test_a_file_that_cannot_be_put_aside_is_written_on(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    past_file(path).mkdir()  # a fault: nothing can be put there
    journal = Journal(path, max_bytes=8_000)
    for version in range(1, 200):
        journal.write(update(version))
    journal.close()
    assert [line and line["version"] for line in lines(path)] == list(range(1, 200))
    assert 1 <= len(caplog.records) < 30, "tried again now and then, not at every line"


def test_the_past_is_thinned_evenly_however_often_it_is_put_aside() -> None:
    past = Past(max_updates=64)
    for version in range(1, 5_001):
        past.take(update(version))
        if version % 500 == 0:
            again = Past(max_updates=64)
            for line in past.lines():
                again.take(json.loads(json.dumps(line)))
            past = again
    versions = [u["version"] for u in past.updates]
    assert versions[-1] == 5_000
    assert 32 <= len(versions) <= 64
    steps = [later - earlier for earlier, later in pairwise(versions)]
    assert max(steps) <= 256, "no part of the run is lost"
    assert sum(past.lags().values()) == 50_000


def test_what_a_restart_undid_is_not_counted() -> None:
    """Neither its lag, nor evaluations and excerpts of weights that do not exist any more."""
    past = Past()
    for version in range(1, 7):
        past.take(update(version, lag_samples=[[0 if version <= 3 else 9, 10]]))
        past.take({"event": "evaluation", "version": version, "return_mean": 1.0})
        past.take({"event": "excerpts", "version": version, "excerpts": []})
    past.take({"event": "restored", "incarnation": 2, "checkpoint_version": 3, "version": 7})
    past.take(update(8, lag_samples=[[1, 10]]))
    past.take({"event": "evaluation", "version": 7, "return_mean": 1.0})
    assert [u["version"] for u in past.updates] == [1, 2, 3, 8]
    assert past.lags() == Counter({0: 30, 1: 10})
    assert [e["version"] for e in past.evaluations] == [1, 2, 3, 7]
    assert [e["version"] for e in past.excerpts] == [1, 2, 3]
    assert past.undone == 3
    again = Past()
    for line in past.lines():
        again.take(line)
    assert (again.undone, again.lags(), again.evaluations) == (3, past.lags(), past.evaluations)
    assert again.excerpts == past.excerpts


def test_excerpts_are_thinned_from_the_first_to_the_last() -> None:
    past = Past()
    for version in range(10 * MAX_EXCERPTS):
        past.take({"event": "excerpts", "version": version, "excerpts": []})
    versions = [event["version"] for event in past.excerpts]
    assert MAX_EXCERPTS / 2 <= len(versions) <= MAX_EXCERPTS
    assert versions[0] == 0
    assert versions[-1] > 9 * MAX_EXCERPTS
