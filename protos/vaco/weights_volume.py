"""Weights as files: a directory that all pods mount, or a place that fsspec knows by its URL.

    PATH/JOB-UID/i1-v128.safetensors

The learner writes each version once, under a name that no other has, and announces it when it is
whole. Digests are in the announcement; what is read is compared with them, so nothing here has to
be trusted. Of old versions the last few are kept, for whoever still reads them.

Whoever reads a mounted file has it open all the while, and reads on when it is removed. Elsewhere,
and on network file systems that forget a removed file, a reader must be done before it is.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import fsspec

from vaco.errors import UserError
from vaco.files import TEMPORARY_PREFIX
from vaco.schema.learner import WeightsTransport
from vaco.weights import FRAME_BYTES

KEPT_VERSIONS: Final = 3

_NAME: Final = re.compile(r"i(\d{1,20})-v(\d{1,20})\.safetensors")
_FIELD: Final = "spec.learner.weightsTransport.path"


class WeightsVolume:
    """The files of one job.

    Args:
        path: `spec.learner.weightsTransport.path`.
        job_uid: of the job, whose files are in a directory of that name.

    Raises:
        UserError: fsspec does not know the path's protocol, or lacks the package for it.

    """

    def __init__(self, path: str, job_uid: str) -> None:
        try:
            self._files, root = fsspec.core.url_to_fs(path)
        except (ImportError, ValueError) as error:
            cure = "Install what fsspec needs for it in both images, or name a mounted directory."
            raise UserError(_FIELD, f"{path}: {error}", cure) from error
        self._root = f"{root.rstrip('/')}/{job_uid}"
        # Elsewhere a file appears when it is closed, and to rename it would copy it.
        self._local = "file" in _protocols(self._files)

    @staticmethod
    def name(incarnation: int, version: int) -> str:
        """Return the name of a version's file."""
        return f"i{incarnation}-v{version}.safetensors"

    @staticmethod
    def is_name(name: str) -> bool:
        """Tell whether `name` is that of a version's file, and leads nowhere else."""
        return _NAME.fullmatch(name) is not None

    def write(self, name: str, payload: memoryview) -> None:
        """Write a file; it is there as a whole, or not at all.

        Raises:
            OSError: the disk is full or gone, or the store refuses it.

        """
        with _as_os_error():
            self._write(name, payload)

    def _write(self, name: str, payload: memoryview) -> None:
        path = self._path(name)
        aside = self._path(f"{TEMPORARY_PREFIX}{name}") if self._local else path
        self._files.makedirs(self._root, exist_ok=True)
        try:
            with self._files.open(aside, "wb") as file:
                for start in range(0, len(payload), FRAME_BYTES):
                    file.write(payload[start : start + FRAME_BYTES])
            if aside != path:
                self._files.mv(aside, path)
        except OSError:
            if aside != path and self._files.exists(aside):
                self._files.rm_file(aside)
            raise

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[Callable[[int, int], bytes]]:
        """Give the function that reads from byte to byte of a file; less if it ends before.

        A local file can be read to its end even if it is removed meanwhile. Its function and, with
        a local file, this raise OSError when the file is gone or cannot be read.
        """
        path = self._path(name)
        if not self._local:
            yield lambda begin, end: self._range(path, begin, end)
            return
        with Path(path).open("rb") as file:

            def read(begin: int, end: int) -> bytes:
                file.seek(begin)
                return file.read(end - begin)

            yield read

    def _range(self, path: str, begin: int, end: int) -> bytes:
        with _as_os_error():
            data: bytes = self._files.cat_file(path, start=begin, end=end)
        return data

    def tidy(self, incarnation: int) -> None:
        """Remove all but the newest `KEPT_VERSIONS`, and what killed learners left half-written.

        Args:
            incarnation: of this learner; what a newer one is writing is not touched.

        Raises:
            OSError: something cannot be removed.

        """
        with _as_os_error():
            names = self._names()
            left = [
                name
                for name in names
                if name.startswith(TEMPORARY_PREFIX)
                and self.is_name(whole := name.removeprefix(TEMPORARY_PREFIX))
                and _age(whole)[0] <= incarnation
            ]
            versions = sorted(filter(self.is_name, names), key=_age)
            for name in (*left, *versions[:-KEPT_VERSIONS]):
                self._files.rm_file(self._path(name))

    def clear(self, incarnation: int) -> None:
        """Remove what one learner and those before it wrote, and the directory if that is all.

        Raises:
            OSError: something cannot be removed.

        """
        with _as_os_error():
            for name in filter(self.is_name, self._names()):
                if _age(name)[0] <= incarnation:
                    self._files.rm_file(self._path(name))
            if self._local and self._files.exists(self._root) and not self._names():
                self._files.rmdir(self._root)

    def _names(self) -> list[str]:
        self._files.invalidate_cache()
        if not self._files.exists(self._root):
            return []
        return [path.rpartition("/")[2] for path in self._files.ls(self._root, detail=False)]

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def weights_volume(transport: WeightsTransport, job_uid: str) -> WeightsVolume | None:
    """Return the place of the job's files; None: weights go by the stream.

    Raises:
        UserError: fsspec cannot use the path.

    """
    return WeightsVolume(transport.path, job_uid) if transport.path else None


@contextlib.contextmanager
def _as_os_error() -> Iterator[None]:
    """Make one kind of error of what the stores' packages raise, each its own kinds."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {error}") from error


def _age(name: str) -> tuple[int, ...]:
    match = _NAME.fullmatch(name)
    return tuple(map(int, match.groups())) if match else ()


def _protocols(files: Any) -> tuple[str, ...]:
    named = files.protocol
    return (named,) if isinstance(named, str) else tuple(named)
