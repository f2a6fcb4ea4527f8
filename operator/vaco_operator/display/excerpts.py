"""Completions of a run to read, from its first to its last."""

from collections.abc import Iterator
from typing import Any, Final

from vaco_operator.display.history import History

SHOWN: Final = 30
HEAD: Final = ("version", "prompt", "completion", "reward", "tokens", "ended")

Row = tuple[str, ...]


def excerpt_rows(history: History) -> list[Row]:
    """Return rows as `HEAD` names them, evenly spaced over the run; what is damaged is left out."""
    rows = [row for event in history.excerpts for row in _rows(event)]
    if len(rows) <= SHOWN:
        return rows
    last = len(rows) - 1
    return [rows[round(number * last / (SHOWN - 1))] for number in range(SHOWN)]


def _rows(event: dict[str, Any]) -> Iterator[Row]:
    excerpts = event.get("excerpts")
    for excerpt in excerpts if isinstance(excerpts, list) else ():
        if isinstance(excerpt, dict):
            yield (
                str(event.get("version", "")),
                str(excerpt.get("prompt", "")),
                str(excerpt.get("completion", "")),
                _number(excerpt.get("reward")),
                str(excerpt.get("tokens", "")),
                "by itself" if excerpt.get("finished") else "at the budget",
            )


def _number(value: object) -> str:
    return f"{value:g}" if isinstance(value, int | float) else "-"
