"""Files that are either the old ones or the new ones, whatever happens while they are written.

A file is written aside under a name that nobody else has, and renamed: whoever reads sees all of
the old content or all of the new, however many threads and processes replace it at once.
"""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

TEMPORARY_PREFIX: Final = ".tmp-"


def replace_file(path: Path, content: str | bytes, *, durable: bool = False) -> None:
    """Replace the content of `path` as a whole; `durable`: it also survives a power failure.

    Raises:
        OSError: the disk is full or gone; the file is the old one, and nothing is left beside it.

    """
    aside = path.with_name(f"{_aside(path)}{os.getpid()}-{secrets.token_hex(4)}")
    try:
        _write(aside, content, durable=durable)
        aside.replace(path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(path.parent)


def remove_leftovers(path: Path) -> None:
    """Remove what a killed process left aside of `path`; for who alone replaces that file."""
    for aside in path.parent.glob(f"{_aside(path)}*"):
        aside.unlink(missing_ok=True)


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    _write(path, content, durable=True)


def sync_directory(path: Path) -> None:
    """Wait until the names in a directory are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(document: Mapping[str, Any]) -> bytes:
    """Return a document as JSON that a person can read; refuses NaN, which JSON lacks."""
    return json.dumps(document, indent=1, allow_nan=False).encode()


def _aside(path: Path) -> str:
    return f"{TEMPORARY_PREFIX}{path.name}."


def _write(path: Path, content: str | bytes, *, durable: bool) -> None:
    with path.open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        if durable:
            file.flush()
            os.fsync(file.fileno())
