"""Where the figures of a result page come from: what its runs say of themselves."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vaco_lab.cell import ASYNC, Cell


def origin(cells: Sequence[Cell], documents: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Return what the rows say of themselves, and how much of the matrix they are."""
    diverged = sum(document["row"]["outcome"] == "diverged" for document in documents)
    yield f"{len(documents)} of {len(cells)} runs are finished; {diverged} of them diverged."
    if len(documents) < len(cells):
        yield "**This page is of a part of the matrix**; the same command completes it."
    of = [document["provenance"] for document in documents]
    days = sorted({each["date"][:10] for each in of})
    commands = _distinct([f"`{each['command']}`" for each in of])
    commits = _distinct([each["commit"] + " with changes" * each["dirty"] for each in of])
    machines = _distinct([_machine(document) for document in documents])
    span = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    yield f"They were made by {commands}; {span}; commit {commits}; {machines}."


def _machine(document: Mapping[str, Any]) -> str:
    """Return a run's machine and its neighbours there: a real run has none."""
    of = document["provenance"]
    real = document["row"]["lag"] == ASYNC
    return f"{of['machine']}, {'real runs alone' if real else str(of['workers']) + ' at once'}"


def _distinct(values: Sequence[str]) -> str:
    """Return the values, with how many runs have each if they are several."""
    counted = Counter(values)
    if len(counted) == 1:
        return values[0]
    return ", ".join(
        f"{value} ({count} run{'' if count == 1 else 's'})"
        for value, count in counted.most_common()
    )
