"""`metrics.jsonl`: one line per update and per event, appended and never changed.

It is also the audit trail: each update names the fragments it trained. Lines are written before the
fragments are acknowledged and synced before a checkpoint, so every update that a checkpoint holds
is in it, for as long as the file is kept (`vaco.metrics_file`). After a restart, the event
`restored` tells which earlier lines are undone: those of versions above the checkpoint.

A disk that is full does not end training: what cannot be written is left out, and the event `gap`
tells later how many lines those were.
"""

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from vaco.files import replace_file
from vaco.metrics_file import Past, before_file, past_file, read_metrics

_LOG = logging.getLogger(__name__)

MAX_BYTES: Final = 32 << 20
"""Of metrics.jsonl; at 100 updates per second it takes minutes, and a second to put it aside."""
_TAIL: Final = 1 << 16


class Journal:
    """The file, open for appending.

    A line that a crash left half written belongs to no checkpoint and is cut off.

    Args:
        path: of the file.
        max_bytes: a file of as many is put aside.

    """

    def __init__(self, path: Path, max_bytes: int = MAX_BYTES) -> None:
        _cut_torn_line(path)
        self._path = path
        self._max_bytes = self._full_at = max_bytes
        self._file = path.open("ab", buffering=0)
        self._size = self._file.seek(0, os.SEEK_END)
        self._lost = 0

    def write(self, record: Mapping[str, Any]) -> None:
        """Append a line; what is not a finite number becomes null."""
        if self._size >= self._full_at:
            self._put_aside_if_possible()
        gap = {"event": "gap", "time": time.time(), "lost": self._lost}
        try:
            self._append((_line(gap) if self._lost > 0 else b"") + _line(record))
        except OSError as error:
            if self._lost == 0:
                _LOG.error("%s cannot be written, training goes on: %s", self._path, error)
            self._lost += 1
        else:
            self._lost = 0

    def sync(self) -> None:
        """Wait until everything written is on the disk."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            _LOG.error("%s cannot be synced, training goes on: %s", self._path, error)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _append(self, text: bytes) -> None:
        """Append all of it or nothing."""
        try:
            written = self._file.write(text)
            if written < len(text):
                raise OSError(f"{written} of {len(text)} bytes were written")
        except OSError:
            self._file.truncate(self._size)
            raise
        self._size += len(text)

    def _put_aside_if_possible(self) -> None:
        try:
            self._put_aside()
        except OSError as error:
            _LOG.error("%s cannot be put aside, it grows on: %s", self._path, error)
            self._full_at = self._size + self._max_bytes // 8

    def _put_aside(self) -> None:
        """Begin an empty file; what the full one tells goes on in the thinned past.

        What needs room on the disk comes first: if it fails, nothing has changed.
        """
        following = self._path.with_suffix(".next.jsonl")
        following.unlink(missing_ok=True)
        file = following.open("ab", buffering=0)
        try:
            replace_file(past_file(self._path), self._thinned())
        except OSError:
            file.close()
            raise
        self._path.replace(before_file(self._path))
        following.replace(self._path)
        self._file.close()
        self._file, self._size, self._full_at = file, 0, self._max_bytes

    def _thinned(self) -> bytes:
        past = Past()
        for line in read_metrics(self._path):
            past.take(line)
        return b"".join(map(_line, past.lines()))


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(_finite(record), separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def _cut_torn_line(path: Path) -> None:
    if not path.exists():
        return
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _TAIL)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                file.truncate(start + newline + 1)
                return
            end = start
        file.truncate(0)
