"""What docs/kubernetes/ names is there: values of the chart, files, and pages."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]
PAGES = sorted((PROJECT / "docs" / "kubernetes").glob("*.md"))
CHART = PROJECT / "charts" / "vaco"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def _texts() -> dict[str, str]:
    pages = [*PAGES, CHART / "README.md", CHART / "templates" / "NOTES.txt"]
    return {path.name: path.read_text() for path in pages}


def _field(name: str) -> dict[str, Any] | None:
    part: dict[str, Any] = SCHEMA
    for step in name.split("."):
        if step not in part.get("properties", {}):
            return None
        part = part["properties"][step]
    return part


def test_every_value_that_is_set_somewhere_exists() -> None:
    named = {
        name
        for text in _texts().values()
        for name in re.findall(r"(?:`|--set )((?:\w+\.)+\w+)[=`]", text)
        if name.partition(".")[0] in SCHEMA["properties"]
    }
    assert len(named) > 10
    assert {name for name in named if _field(name) is None} == set()


@pytest.mark.parametrize("path", [*PAGES, CHART / "README.md"], ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), target


def test_files_that_are_named_exist() -> None:
    for text in _texts().values():
        for name in re.findall(r"\b((?:tests|examples|charts|operator|docs)/[\w./-]+\.\w+)", text):
            assert (PROJECT / name).exists(), name
