"""Checkpoints on the disk: what they are called, what is in them, and when they are believed.

    checkpoints/v000000123/policy.safetensors      what the actors get (vaco_policy.parameters)
                           optimizer.safetensors   moments, steps, random generator
                           state.json              version, lineage, ledger, deliveries, spaces, ...
                           MANIFEST.json           job UID, incarnation, the digest of each file
                                                   and its own; written last

The learner writes and restores them; `vaco evaluate` and `vaco export` look for one and read the
policy in it. All of them believe only what the digests say is whole.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from vaco.errors import UserError
from vaco.files import to_json

FORMAT: Final = 2
POLICY: Final = "policy.safetensors"
OPTIMIZER: Final = "optimizer.safetensors"
STATE: Final = "state.json"
MANIFEST: Final = "MANIFEST.json"
PARTS: Final = (POLICY, OPTIMIZER, STATE)
_NAME: Final = re.compile(r"v(\d{9,20})")
_MAX_MANIFEST_BYTES: Final = 1 << 20


class DamagedCheckpointError(UserError):
    """A directory that is no whole checkpoint; `path` is the file that says so."""

    def __init__(self, path: Path, problem: str) -> None:
        cure = "The checkpoint is damaged or half written: use another one."
        super().__init__(str(path), problem, cure)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint says of itself.

    Attributes:
        job_uid: whose it is.
        incarnation: of the learner that wrote it.
        version: of the weights.
        digests: SHA-256 of each part, in hexadecimal.

    """

    job_uid: str
    incarnation: int
    version: int
    digests: Mapping[str, str]

    @classmethod
    def of(
        cls, job_uid: str, incarnation: int, version: int, contents: Mapping[str, bytes]
    ) -> Self:
        """Return the manifest of parts that are to be written."""
        digests = {part: digest(content) for part, content in contents.items()}
        return cls(job_uid, incarnation, version, digests)

    def to_bytes(self) -> bytes:
        """Return the content of MANIFEST.json."""
        body = {
            "format": FORMAT,
            "jobUid": self.job_uid,
            "incarnation": self.incarnation,
            "version": self.version,
            "sha256": dict(self.digests),
        }
        return to_json({"manifest": body, "sha256": digest(to_json(body))})


def checkpoint_name(version: int) -> str:
    """Return what the checkpoint of a version is called."""
    return f"v{version:09d}"


def version_of(checkpoint: Path) -> int | None:
    """Return the version in a directory's name; None: it is not called like a checkpoint."""
    match = _NAME.fullmatch(checkpoint.name)
    return int(match[1]) if match else None


def list_checkpoints(directory: Path) -> list[Path]:
    """Return the directories that are called like checkpoints, whole or not, oldest first.

    Newest means of the newest incarnation first: what a replaced learner was just putting in place
    when it was replaced counts for nothing, whatever its version. What has no manifest that can be
    read comes last, so that whoever looks for the newest passes over it before anything else.
    """
    if not directory.is_dir():
        return []
    ranked = [
        (_incarnation_of(path), version, path)
        for path in directory.iterdir()
        if (version := version_of(path)) is not None and path.is_dir()
    ]
    return [path for *_, path in sorted(ranked)]


def read_manifest(checkpoint: Path, job_uid: str | None) -> Manifest:
    """Read and check a manifest; the parts are not looked at.

    Args:
        checkpoint: its directory.
        job_uid: of the job that it must be of; None: any.

    Raises:
        DamagedCheckpointError: it is not there, or not what was written.
        UserError: it is of another job, or of a format this version does not know.

    """
    path = checkpoint / MANIFEST
    body = _body(path)
    if body.get("format") != FORMAT:
        problem = f"a checkpoint of format {body.get('format')}"
        raise UserError(str(checkpoint), problem, f"This version of vaco reads format {FORMAT}.")
    manifest = Manifest(body["jobUid"], body["incarnation"], body["version"], body["sha256"])
    if job_uid is not None and manifest.job_uid != job_uid:
        problem = f"a checkpoint of job {manifest.job_uid!r}, this is {job_uid!r}"
        raise UserError(str(checkpoint), problem, "Give each job a run directory of its own.")
    return manifest


def read_parts(
    checkpoint: Path, manifest: Manifest, parts: Iterable[str] = PARTS
) -> dict[str, bytes]:
    """Read parts of a checkpoint, each of which is what its manifest says.

    Raises:
        DamagedCheckpointError: one is not there, or not what was written.

    """
    contents = {part: _read(checkpoint / part) for part in parts}
    for part, content in contents.items():
        _compare(checkpoint / part, digest(content), manifest)
    return contents


def check_parts(checkpoint: Path, manifest: Manifest) -> None:
    """Return if all parts are what the manifest says; none of them is held in memory.

    Raises:
        DamagedCheckpointError: one is not there, or not what was written.

    """
    for part in PARTS:
        path = checkpoint / part
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(path, error) from error
        _compare(path, found, manifest)


def digest(content: bytes) -> str:
    """Return the digest that manifests hold."""
    return hashlib.sha256(content).hexdigest()


def _incarnation_of(checkpoint: Path) -> int:
    try:
        return int(_body(checkpoint / MANIFEST).get("incarnation", 0))
    except DamagedCheckpointError:
        return sys.maxsize


def _body(path: Path) -> dict[str, Any]:
    """Return what the manifest's own digest covers."""
    content = _read(path)
    if len(content) > _MAX_MANIFEST_BYTES:
        raise DamagedCheckpointError(path, f"{len(content)} bytes are too many for a manifest")
    try:
        document = json.loads(content)
        body, expected = document["manifest"], document["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(path, "is not a manifest") from error
    if not isinstance(body, dict) or digest(to_json(body)) != expected:
        raise DamagedCheckpointError(path, "its own digest does not match")
    return body


def _compare(path: Path, found: str, manifest: Manifest) -> None:
    if found != manifest.digests.get(path.name):
        raise DamagedCheckpointError(path, "its digest is not that of the manifest")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DamagedCheckpointError:
    return DamagedCheckpointError(path, f"cannot be read ({error.strerror})")
