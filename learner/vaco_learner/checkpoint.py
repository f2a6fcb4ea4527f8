"""Checkpoints: all that a learner needs to go on, in directories that are complete or ignored.

    checkpoints/v000000123/policy.safetensors      what the actors get (vaco_policy.parameters)
                           optimizer.safetensors   moments, steps, random generator
                           state.json              version, lineage, ledger, deliveries, spaces, ...
                           MANIFEST.json           job UID, incarnation, the digest of each file
                                                   and its own; written last

A checkpoint is written aside, synced, and renamed. Loading believes only a directory whose digests
match, the newest first; a bad one is passed over with a warning. Newest means of the newest
incarnation first: what a replaced learner was just putting in place when it was replaced counts
for nothing, whatever its version. Tensors stay bytes here: whoever
reads them needs torch, this module does not.
"""

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vaco.errors import UserError
from vaco.files import TEMPORARY_PREFIX, sync_directory, to_json, write_synced

from vaco_learner.claims import Claim

_LOG = logging.getLogger(__name__)

FORMAT: Final = 2
POLICY: Final = "policy.safetensors"
OPTIMIZER: Final = "optimizer.safetensors"
STATE: Final = "state.json"
MANIFEST: Final = "MANIFEST.json"
_PARTS: Final = (POLICY, OPTIMIZER, STATE)
_REPLACED: Final = f"{TEMPORARY_PREFIX}replaced-"
_NAME: Final = re.compile(r"v(\d{9,20})")
_MAX_MANIFEST_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A learner's state at the end of a phase.

    Attributes:
        version: of the weights.
        policy: the weights, serialised as they are published.
        optimizer: the updater's other tensors, serialised.
        state: the rest, fit for JSON.

    """

    version: int
    policy: bytes
    optimizer: bytes
    state: dict[str, Any]


class _BadCheckpointError(Exception):
    """A directory that is no complete checkpoint."""


class CheckpointStore:
    """The checkpoints of one job.

    Args:
        directory: is made if it is not there.
        job_uid: checkpoints of another job are refused.
        keep: how many of the newest are kept.

    """

    def __init__(self, directory: Path, job_uid: str, keep: int) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}")
        self._directory = directory
        self._job_uid = job_uid
        self._keep = keep
        directory.mkdir(parents=True, exist_ok=True)
        self._tidy()

    def save(self, checkpoint: Checkpoint, claim: Claim) -> Path:
        """Write a checkpoint and remove what is over the bound; return its directory.

        A checkpoint of the same version is replaced.

        Raises:
            OSError: the disk is full or gone; the checkpoints before this one are untouched.
            FencedError: the directory is a newer learner's; there is no new checkpoint.

        """
        claim.check()
        name = f"v{checkpoint.version:09d}"
        aside = self._directory / f"{TEMPORARY_PREFIX}{name}-of-{claim.number}"
        _remove(aside)
        aside.mkdir()
        contents = {
            POLICY: checkpoint.policy,
            OPTIMIZER: checkpoint.optimizer,
            STATE: to_json(checkpoint.state),
        }
        for part, content in contents.items():
            write_synced(aside / part, content)
        write_synced(aside / MANIFEST, self._manifest(checkpoint.version, claim.number, contents))
        sync_directory(aside)
        claim.check()
        final = self._directory / name
        self._put_in_place(aside, final)
        self._prune()
        return final

    def newest(self) -> Checkpoint | None:
        """Return the newest complete checkpoint; None if there is none.

        Raises:
            UserError: it is another job's, or of a format this version does not know.

        """
        for path in reversed(self._directories()):
            try:
                return self.load(path)
            except _BadCheckpointError as error:
                _LOG.warning("passing over checkpoint %s: %s", path, error)
        return None

    def newest_incarnation(self) -> int:
        """Return the newest incarnation that left a checkpoint; 0: none did.

        Raises:
            UserError: as `newest`.

        """
        for path in reversed(self._directories()):
            try:
                manifest = _read_manifest(path / MANIFEST)
            except _BadCheckpointError:
                continue
            self._check_owner(path, manifest)
            return int(manifest["incarnation"])
        return 0

    def load(self, path: Path) -> Checkpoint:
        """Read one checkpoint.

        Raises:
            UserError: as `newest`.

        """
        manifest = _read_manifest(path / MANIFEST)
        self._check_owner(path, manifest)
        contents = {part: _read(path / part) for part in _PARTS}
        for part, content in contents.items():
            if _digest(content) != manifest["sha256"][part]:
                raise _BadCheckpointError(f"the digest of {part} does not match")
        return Checkpoint(
            version=manifest["version"],
            policy=contents[POLICY],
            optimizer=contents[OPTIMIZER],
            state=json.loads(contents[STATE]),
        )

    def _manifest(self, version: int, incarnation: int, contents: Mapping[str, bytes]) -> bytes:
        body = {
            "format": FORMAT,
            "jobUid": self._job_uid,
            "incarnation": incarnation,
            "version": version,
            "sha256": {part: _digest(content) for part, content in contents.items()},
        }
        return to_json({"manifest": body, "sha256": _digest(to_json(body))})

    def _check_owner(self, path: Path, manifest: Mapping[str, Any]) -> None:
        if manifest["format"] != FORMAT:
            problem = f"a checkpoint of format {manifest['format']}"
            raise UserError(str(path), problem, f"This version of vaco reads format {FORMAT}.")
        if manifest["jobUid"] != self._job_uid:
            problem = f"a checkpoint of job {manifest['jobUid']!r}, this is {self._job_uid!r}"
            raise UserError(str(path), problem, "Give this job a run directory of its own.")

    def _put_in_place(self, aside: Path, final: Path) -> None:
        """Rename; a directory cannot replace one that is not empty, so a twin steps aside first."""
        replaced = self._directory / f"{_REPLACED}{final.name}"
        _remove(replaced)
        if final.exists():
            final.rename(replaced)
        aside.rename(final)
        sync_directory(self._directory)
        _remove(replaced)

    def _tidy(self) -> None:
        """Put back a twin whose successor never came, and remove what was half done."""
        for replaced in self._directory.glob(f"{_REPLACED}*"):
            final = self._directory / replaced.name.removeprefix(_REPLACED)
            if not final.exists():
                replaced.rename(final)
        for path in self._directory.glob(f"{TEMPORARY_PREFIX}*"):
            if path.is_dir():
                _remove(path)

    def _directories(self) -> list[Path]:
        """Return the directories that are named like checkpoints, oldest first."""
        named = [(_NAME.fullmatch(path.name), path) for path in self._directory.iterdir()]
        ranked = [
            (_incarnation_of(path), int(match[1]), path)
            for match, path in named
            if match and path.is_dir()
        ]
        return [path for *_, path in sorted(ranked)]

    def _prune(self) -> None:
        for path in self._directories()[: -self._keep]:
            # Renamed first: half a removal must not look like a checkpoint.
            removed = self._directory / f"{TEMPORARY_PREFIX}removed-{path.name}"
            _remove(removed)
            path.rename(removed)
            _remove(removed)


def _incarnation_of(path: Path) -> int:
    """Return whose checkpoint it is; -1, older than any other, for what is damaged."""
    try:
        return int(_read_manifest(path / MANIFEST).get("incarnation", 0))
    except _BadCheckpointError as error:
        _LOG.warning("passing over checkpoint %s: %s", path, error)
        return -1


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _BadCheckpointError(f"{path.name} cannot be read: {error}") from error


def _read_manifest(path: Path) -> dict[str, Any]:
    content = _read(path)
    if len(content) > _MAX_MANIFEST_BYTES:
        raise _BadCheckpointError(f"{path.name} has {len(content)} bytes")
    try:
        document = json.loads(content)
        manifest, digest = document["manifest"], document["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise _BadCheckpointError(f"{path.name} is not a manifest") from error
    if not isinstance(manifest, dict) or _digest(to_json(manifest)) != digest:
        raise _BadCheckpointError(f"the digest of {path.name} does not match")
    return manifest
