"""The high-water mark: the newest version that any learner of this job may have published.

It is on the disk before the version is served, so that a restarted learner, which goes back to a
checkpoint, never publishes other weights under a number that an actor has seen.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vaco.errors import UserError

from vaco_learner.files import replace_synced, to_json

FILE_NAME: Final = "published.json"


@dataclass(frozen=True, slots=True)
class HighWater:
    """The newest incarnation, and the newest version it may have published."""

    incarnation: int
    version: int


class HighWaterFile:
    """The mark of one job, on the disk.

    Args:
        directory: of the checkpoints.
        job_uid: a mark of another job is refused.

    """

    def __init__(self, directory: Path, job_uid: str) -> None:
        self._path = directory / FILE_NAME
        self._job_uid = job_uid

    def read(self) -> HighWater | None:
        """Return the mark; None if nothing was ever published.

        Raises:
            UserError: the file is damaged or another job's.

        """
        if not self._path.exists():
            return None
        try:
            document = json.loads(self._path.read_bytes())
            mark = HighWater(int(document["incarnation"]), int(document["version"]))
            job_uid = document["jobUid"]
        except (ValueError, KeyError, TypeError) as error:
            cure = "Remove it to go on from the newest checkpoint, with new actors."
            raise UserError(str(self._path), f"damaged: {error}", cure) from error
        if job_uid != self._job_uid:
            problem = f"the mark of job {job_uid!r}, this is {self._job_uid!r}"
            raise UserError(str(self._path), problem, "Give this job a run directory of its own.")
        return mark

    def write(self, mark: HighWater) -> None:
        """Put the mark on the disk, for good."""
        document = {
            "jobUid": self._job_uid,
            "incarnation": mark.incarnation,
            "version": mark.version,
        }
        replace_synced(self._path, to_json(document))
