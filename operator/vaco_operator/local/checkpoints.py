"""Which checkpoint of a run is to be used, seen from outside of the learner that wrote it."""

import hashlib
import json
import re
from pathlib import Path
from typing import Final

from vaco.errors import UserError

from vaco_operator.local.run_directory import RunDirectory

_NAME: Final = re.compile(r"v(\d{9,20})")
_MAX_MANIFEST_BYTES: Final = 1 << 20


def find_checkpoint(directory: RunDirectory, version: int | None = None) -> Path:
    """Return the newest complete checkpoint, or that of `version`.

    Raises:
        UserError: there is none, or the one asked for is damaged.

    """
    found = {
        int(match[1]): path
        for path in directory.checkpoints.glob("v*")
        if (match := _NAME.fullmatch(path.name))
    }
    if version is not None and version not in found:
        there = ", ".join(str(number) for number in sorted(found)) or "none"
        problem = f"has no checkpoint of version {version}"
        raise UserError(str(directory.root), problem, f"There is {there}.")
    wanted = sorted(found, reverse=True) if version is None else [version]
    for number in wanted:
        if _is_whole(found[number]):
            return found[number]
    problem = "its checkpoints are damaged" if found else "there is no checkpoint yet"
    cure = "" if found else "Wait for spec.learner.checkpoint.intervalSeconds, or for its end."
    raise UserError(str(directory.root), problem, cure)


def _is_whole(checkpoint: Path) -> bool:
    try:
        with (checkpoint / "MANIFEST.json").open("rb") as file:
            digests = json.loads(file.read(_MAX_MANIFEST_BYTES))["manifest"]["sha256"]
        return bool(digests) and all(
            _digest(checkpoint / Path(name).name) == digest for name, digest in digests.items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
