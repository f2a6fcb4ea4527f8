"""What a measurement writes: the terms all of its turns have alike, and a record of each turn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vaco.errors import UserError
from vaco.files import replace_file

from benchmarks.peers.run import Figures

# Of the document; another one is refused.
FORMAT = 2
# What must be as it was when a measurement goes on.
TERMS = ("commit", "machine", "limits", "one_group", "nice")


@dataclass(frozen=True, slots=True)
class Record:
    """A turn of an entry: its figures or why there are none.

    Attributes:
        entry: its name.
        kind: `own` or `wide`.
        round: in which all entries have one turn of the kind, one after the other; also the seed.
        figures: None: it failed.
        error: why.
        commit: of this repository.
        date: when it began, UTC.
        load: the machine's load average of one minute when it began; the turn before is in it.
        nice: of the entry's control group against other programs.

    """

    entry: str
    kind: str
    round: int
    figures: Figures | None
    error: str | None
    commit: str
    date: str
    load: float
    nice: int

    @property
    def key(self) -> tuple[str, str, int]:
        """Which turn it is."""
        return self.entry, self.kind, self.round

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Record:
        """Read it as `dataclasses.asdict` made it."""
        figures = document["figures"]
        return cls(**{**document, "figures": None if figures is None else Figures(**figures)})


def begin(path: Path, command: str, terms: Mapping[str, Any], *, resume: bool) -> dict[str, Any]:
    """Begin a document, or go on with the one that is there.

    Args:
        path: of the document.
        command: of this run.
        terms: by the names of `TERMS`.
        resume: go on.

    Raises:
        UserError: there is nothing to go on with, or it was measured on other terms.

    """
    terms = json.loads(json.dumps({name: terms[name] for name in TERMS}))
    if not resume:
        return {"format": FORMAT, "commands": [command], **terms, "versions": {}, "records": []}
    document = load(path)
    for name in TERMS:
        if document[name] != terms[name]:
            raise UserError(
                str(path),
                f"{name} of its figures is {document[name]}, now it is {terms[name]}",
                "Figures of both cannot be compared: measure without --resume.",
            )
    if terms["commit"].endswith("-dirty"):
        raise UserError(
            "--resume",
            f"{terms['commit']} has uncommitted changes, which may not be those of {path}",
            "Commit them and measure without --resume.",
        )
    document["commands"].append(command)
    return document


def load(path: Path) -> dict[str, Any]:
    """Read a document.

    Raises:
        UserError: there is none, or it is not one that this version wrote.

    """
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(str(path), "is not there", "Measure without --resume.") from None
    except ValueError as error:
        raise UserError(str(path), f"is not JSON: {error}", "Measure without --resume.") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise UserError(
            str(path), f"is not of format {FORMAT}: an older version wrote it", "Measure anew."
        )
    return document


def put(document: dict[str, Any], record: Record) -> None:
    """Add a record; one of the same turn, which failed, makes way."""
    kept = [each for each in document["records"] if Record.read(each).key != record.key]
    document["records"] = [*kept, asdict(record)]


def measured(document: Mapping[str, Any]) -> set[tuple[str, str, int]]:
    """Give the keys of turns that have figures; those that failed are run again."""
    records = map(Record.read, document["records"])
    return {record.key for record in records if record.figures is not None}


def save(path: Path, document: Mapping[str, Any]) -> None:
    """Write a document as a whole: a reader, or a run that is killed, never has half of one."""
    replace_file(path, json.dumps(document, indent=2) + "\n")
