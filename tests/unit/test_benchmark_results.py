"""The file of figures says of each when and where it was measured."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def results_file(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(ROOT)
    return import_module("benchmarks.results_file")


def test_a_benchmark_leaves_the_figures_of_others_as_they_were(
    results_file: Any, tmp_path: Path
) -> None:
    path = tmp_path / "latest.json"
    earlier = {"machine": {"date": "2020-01-01", "commit": "abc"}, "figures": {"one.speed": 1}}
    path.write_text(json.dumps({"one": earlier, "two": {"machine": {}, "figures": {"gone": 1}}}))
    results_file.record(path, "two", {"two.speed": 2})
    document = json.loads(path.read_text())
    assert document["one"] == earlier
    assert document["two"]["figures"] == {"two.speed": 2}
    assert document["two"]["machine"] == results_file.machine()


def test_the_first_figures_make_the_file(results_file: Any, tmp_path: Path) -> None:
    path = tmp_path / "results" / "latest.json"
    results_file.record(path, "one", {"one.speed": 1})
    assert json.loads(path.read_text())["one"]["figures"] == {"one.speed": 1}
