"""Whose the run directory is: each life of the learner claims it, and the newest claim holds.

    checkpoints/claim-1.json        incarnation 1 used no version above 64
                claim-2.json        incarnation 2 took over; none above 128 so far

Two learners can meet in one run directory: a cluster replaces a learner whose node is cut off, and
then that node comes back. A claim is made by creating a file that must not exist, which one of two
can do, on a network file system too where locks are not to be relied on. Whoever finds a claim
with a higher number than its own is *fenced*: it publishes and writes nothing more, and ends.

A claim also holds the high-water mark, above which its learner used no version. It is on the disk
before anybody sees a version, so that a restarted learner, which goes back to a checkpoint, never
gives a number that was seen to other weights. To write it costs a sync, so versions are reserved
many at a time, and what was reserved in vain is given back at the end. Each learner writes into its
own file only; so one that was frozen in the middle of a write spoils nothing.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vaco.errors import UserError
from vaco.files import remove_leftovers, replace_file, sync_directory, to_json

_NAME: Final = re.compile(r"claim-(\d{1,19})\.json")
RESERVED: Final = 64
"""Versions that are reserved at a time."""
_KEPT: Final = 8
"""Claims that are kept, to be looked at; only the newest one is needed."""


class FencedError(Exception):
    """A newer learner of the job has taken over."""


@dataclass(frozen=True, slots=True)
class HighWater:
    """The newest incarnation, and the newest version that any may have used."""

    incarnation: int
    version: int


class Claims:
    """The claims of all learners of one job.

    Args:
        directory: of the checkpoints.
        job_uid: a claim of another job is refused.

    """

    def __init__(self, directory: Path, job_uid: str) -> None:
        self._directory = directory
        self._job_uid = job_uid

    def newest(self) -> HighWater | None:
        """Return the newest incarnation and version; None if there never was a learner.

        Raises:
            UserError: a claim is damaged or another job's.

        """
        paths = self._paths()
        if not paths:
            return None
        return HighWater(max(paths), max(self._version(path) for path in paths.values()))

    def stake(self, number: int) -> "Claim":
        """Claim the directory for incarnation `number`; earlier ones are fenced from now on.

        Raises:
            FileExistsError: somebody claimed that number.

        """
        path = self._path(number)
        path.open("xb").close()
        sync_directory(self._directory)
        return Claim(self, number)

    def fence(self, number: int) -> None:
        """Return if `number` is still the newest.

        Raises:
            FencedError: it is not.

        """
        holder = max(self._paths(), default=0)
        if holder == number:
            return
        why = f"incarnation {holder} has taken over" if holder > number else "its claim is gone"
        raise FencedError(
            f"this learner, incarnation {number}, does not hold the run directory any more: {why};"
            " it publishes and writes nothing more"
        )

    def write(self, mark: HighWater) -> None:
        """Put the mark of its own learner on the disk, for good."""
        document = {
            "jobUid": self._job_uid,
            "incarnation": mark.incarnation,
            "version": mark.version,
        }
        replace_file(self._path(mark.incarnation), to_json(document), durable=True)

    def tidy(self) -> None:
        """Remove old claims; the newest one's mark is at or above theirs."""
        paths = self._paths()
        for number in sorted(paths)[:-_KEPT]:
            remove_leftovers(paths[number])
            paths[number].unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._directory / f"claim-{number}.json"

    def _paths(self) -> dict[int, Path]:
        named = [(_NAME.fullmatch(path.name), path) for path in self._directory.iterdir()]
        return {int(match[1]): path for match, path in named if match}

    def _version(self, path: Path) -> int:
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # tidied away meanwhile: a newer one is at or above it
            content = b""
        if not content:  # claimed, and no version was used yet
            return 0
        try:
            document = json.loads(content)
            version, job_uid = int(document["version"]), document["jobUid"]
        except (ValueError, KeyError, TypeError) as error:
            cure = "Remove it to go on from the newest checkpoint, with new actors."
            raise UserError(str(path), f"damaged: {error}", cure) from error
        if job_uid != self._job_uid:
            problem = f"the claim of job {job_uid!r}, this is {self._job_uid!r}"
            raise UserError(str(path), problem, "Give this job a run directory of its own.")
        return version


class Claim:
    """One learner's own claim; `reserve` and `release` are for one thread.

    Attributes:
        number: its incarnation.

    """

    def __init__(self, claims: Claims, number: int) -> None:
        self.number = number
        self._claims = claims
        self._reserved = -1

    def check(self) -> None:
        """Return if the directory is still ours.

        Raises:
            FencedError: it is a newer learner's.

        """
        self._claims.fence(self.number)

    def reserve(self, version: int) -> None:
        """Return when `version` may be seen by others; some above it are reserved as well.

        Raises:
            FencedError: the directory is a newer learner's; nobody must see the version.

        """
        self.check()
        if version > self._reserved:
            self._write(version + RESERVED - 1)

    def release(self, version: int) -> None:
        """Give back what is reserved above `version`, which is the last one.

        Raises:
            FencedError: the directory is a newer learner's.

        """
        self.check()
        self._write(version)

    def _write(self, version: int) -> None:
        self._claims.write(HighWater(self.number, version))
        self._reserved = version
