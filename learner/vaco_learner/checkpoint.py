"""Checkpoints: all that a learner needs to go on, in directories that are complete or ignored.

    save: written aside, synced, renamed             .tmp-v000000123-of-2 --> v000000123
    newest: the newest one whose digests match       a damaged one is passed over with a warning
    set aside: what is damaged, for a person         v000000123 --> .bad-v000000123

`vaco.checkpoints` knows names, files and digests. Tensors stay bytes here: whoever reads them needs
torch, this module does not.
"""

import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vaco.checkpoints import (
    MANIFEST,
    OPTIMIZER,
    POLICY,
    STATE,
    DamagedCheckpointError,
    Manifest,
    checkpoint_name,
    list_checkpoints,
    read_manifest,
    read_parts,
)
from vaco.errors import UserError
from vaco.files import TEMPORARY_PREFIX, sync_directory, to_json, write_synced

from vaco_learner.claims import Claim

_LOG = logging.getLogger(__name__)

MIN_KEEP: Final = 2
"""The newest, and the one before it to fall back to."""
_REPLACED: Final = f"{TEMPORARY_PREFIX}replaced-"
_BAD: Final = ".bad-"
_BAD_KEPT: Final = 3


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


class CheckpointStore:
    """The checkpoints of one job.

    Args:
        directory: is made if it is not there.
        job_uid: checkpoints of another job are refused.
        keep: how many of the newest are kept, two at least.

    """

    def __init__(self, directory: Path, job_uid: str, keep: int) -> None:
        if keep < MIN_KEEP:
            raise ValueError(f"keep is {keep}")
        self._directory = directory
        self._job_uid = job_uid
        self._keep = keep
        self._damaged: list[Path] = []
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
        name = checkpoint_name(checkpoint.version)
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
        manifest = Manifest.of(self._job_uid, claim.number, checkpoint.version, contents)
        write_synced(aside / MANIFEST, manifest.to_bytes())
        sync_directory(aside)
        claim.check()
        final = self._directory / name
        self._put_in_place(aside, final)
        self._prune()
        return final

    def newest(self) -> Checkpoint | None:
        """Return the newest complete checkpoint; None if there never was one.

        Raises:
            UserError: there are checkpoints, but none is whole; or the newest is another job's, or
                of a format this version does not know.

        """
        paths = list_checkpoints(self._directory)
        self._damaged = []
        for path in reversed(paths):
            try:
                return self.load(path)
            except DamagedCheckpointError as error:
                _LOG.warning("passing over checkpoint %s: %s", error.path, error.problem)
                self._damaged.append(path)
        if not paths:
            return None
        raise UserError(
            str(self._directory),
            f"none of its {len(paths)} checkpoints is whole, the newest is {paths[-1].name}",
            "Put a whole one there, or remove them all to begin anew.",
        )

    def set_aside_damaged(self) -> None:
        """Rename what `newest` passed over, so that it takes no place of a whole checkpoint.

        The newest few are left for a person to look at.
        """
        for path in self._damaged:
            bad = self._directory / f"{_BAD}{path.name}"
            _remove(bad)
            path.rename(bad)
        self._damaged = []
        for bad in sorted(self._directory.glob(f"{_BAD}*"))[:-_BAD_KEPT]:
            _remove(bad)

    def newest_incarnation(self) -> int:
        """Return the newest incarnation that left a checkpoint; 0: none did.

        Raises:
            UserError: it is another job's, or of a format this version does not know.

        """
        for path in reversed(list_checkpoints(self._directory)):
            try:
                return read_manifest(path, self._job_uid).incarnation
            except DamagedCheckpointError:
                continue
        return 0

    def load(self, path: Path) -> Checkpoint:
        """Read one checkpoint.

        Raises:
            DamagedCheckpointError: it is not whole.
            UserError: it is another job's, or of a format this version does not know.

        """
        manifest = read_manifest(path, self._job_uid)
        contents = read_parts(path, manifest)
        return Checkpoint(
            version=manifest.version,
            policy=contents[POLICY],
            optimizer=contents[OPTIMIZER],
            state=json.loads(contents[STATE]),
        )

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

    def _prune(self) -> None:
        for path in list_checkpoints(self._directory)[: -self._keep]:
            # Renamed first: half a removal must not look like a checkpoint.
            removed = self._directory / f"{TEMPORARY_PREFIX}removed-{path.name}"
            _remove(removed)
            path.rename(removed)
            _remove(removed)


def _remove(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)
