"""Files that are either the old ones or the new ones, whatever happens while they are written."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

TEMPORARY_PREFIX: Final = ".tmp-"


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_synced(path: Path, content: bytes) -> None:
    """Replace a file at once and for good: a crash leaves the old content or the new."""
    aside = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    write_synced(aside, content)
    aside.replace(path)
    sync_directory(path.parent)


def replace_text(path: Path, text: str) -> None:
    """Replace a file at once, for readers; what a power failure leaves does not matter."""
    aside = path.with_name(f"{TEMPORARY_PREFIX}{path.name}")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def to_json(document: Mapping[str, Any]) -> bytes:
    """Return a document as JSON that a person can read; refuses NaN, which JSON lacks."""
    return json.dumps(document, indent=1, allow_nan=False).encode()
