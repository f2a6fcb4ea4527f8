"""What its author says of a matrix's results: a file beside the matrix, stamped with its data.

    <!-- rows: 400 digest: 0123456789ab -->
    What it says, in Markdown.

Text is written once and data changes, so the page tells when the two do not belong together.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vaco.errors import UserError

_STAMP: Final = re.compile(r"<!-- rows: (\d+) digest: ([0-9a-f]{12}) -->")
# What differs when the same runs are made again.
_BESIDES: Final = frozenset({"seconds", "evaluation_seconds"})


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which data a text is about.

    Attributes:
        rows: How many.
        digest: Of them, but for how long runs took.

    """

    rows: int
    digest: str

    def __str__(self) -> str:
        return f"<!-- rows: {self.rows} digest: {self.digest} -->"


def stamp_of(rows: Sequence[Mapping[str, Any]]) -> Stamp:
    """Return the stamp of rows, whatever their order."""
    kept = [{name: x for name, x in row.items() if name not in _BESIDES} for row in rows]
    lines = sorted(json.dumps(row, sort_keys=True) for row in kept)
    return Stamp(len(rows), hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12])


def findings(path: Path, stamp: Stamp) -> Iterator[str]:
    """Return what the file says, after a warning if it is about other data; nothing without it.

    Args:
        path: Of the file; there need be none.
        stamp: Of the data on the page.

    Raises:
        UserError: The file cannot be read.

    """
    text = _read(path)
    if not text:
        return
    first, _, rest = text.partition("\n")
    found = _STAMP.fullmatch(first.strip())
    if found is None:
        yield "**The text below does not say which data it was written for.**\n"
        yield text
        return
    written = Stamp(int(found[1]), found[2])
    if written != stamp:
        yield (
            f"**The text below was written for other data:** {written.rows} runs (digest"
            f" {written.digest}), and this page has {stamp.rows} ({stamp.digest}).\n"
        )
    yield rest.strip()


def advice(path: Path, stamp: Stamp) -> str:
    """Return what the author of findings is to know, in a line."""
    text = _read(path)
    if text.startswith(f"{stamp}\n"):
        return f"findings: {path}, written for these rows"
    state = "written for other rows" if text else "not there yet"
    return f"findings: {path}, {state}; the first line for these rows is {stamp}"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        cure = "Give Markdown in UTF-8, or remove it."
        raise UserError(str(path), f"findings that cannot be read: {error}", cure) from error
