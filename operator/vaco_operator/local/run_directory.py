"""A run on this machine is a directory: what is in it, and who may write there.

    runs/<name>/
      job.yaml              the resolved job, with its uid: the run's identity
      run.lock              held (flock) by the one `vaco run` and its learner
      status.json           the VACOJob's status, replaced atomically while the run lasts
      learner-status.json   the learner's own status, replaced while it runs
      learner.address       where the learner listens
      metrics*.jsonl        one line per update, by the learner (vaco.metrics_file)
      events.jsonl          scaling and restarts, by the runner
      actors.json           incarnations handed out so far
      checkpoints/  tensorboard/  logs/
      report.html           written at the end and by `vaco report`

Whoever reads may do so at any time: every file is either replaced as a whole or only appended to.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from vaco.errors import UserError
from vaco.files import replace_file
from vaco.job import VACOJob, VACOJobStatus, dump_job, load_job

LOCK_PATIENCE_SECONDS: Final = 0.5
"""A reader's probe holds the lock for a moment; a runner's for as long as it runs."""
_MAX_STATE_BYTES: Final = 1 << 20
_OF_ONE_RUN: Final = (
    *("status.json", "learner-status.json", "learner.address", "actors.json", "report.html"),
    *("events.jsonl", "metrics*.jsonl", "scale.*.json", "checkpoints", "tensorboard", "logs"),
)
"""What is in a run directory beside job.yaml and run.lock."""


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The files of one run."""

    root: Path

    @property
    def job_file(self) -> Path:
        """The resolved job; what makes a directory a run directory."""
        return self.root / "job.yaml"

    @property
    def status_file(self) -> Path:
        """The VACOJob's status as JSON."""
        return self.root / "status.json"

    @property
    def learner_status_file(self) -> Path:
        """The learner's GetStatusResponse as protobuf JSON, written at its exit."""
        return self.root / "learner-status.json"

    @property
    def address_file(self) -> Path:
        """Where the learner says where it listens."""
        return self.root / "learner.address"

    @property
    def metrics_file(self) -> Path:
        """One JSON line per update; what came before the newest ones is beside it."""
        return self.root / "metrics.jsonl"

    @property
    def events_file(self) -> Path:
        """One JSON line per scaling, restart, start and end."""
        return self.root / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        """One directory per checkpoint."""
        return self.root / "checkpoints"

    @property
    def report_file(self) -> Path:
        """The report of the run."""
        return self.root / "report.html"

    def log_file(self, name: str) -> Path:
        """Return where the process `name` writes what it has to say."""
        return self.root / "logs" / f"{name}.log"

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Hold the run's lock; yields its file descriptor, which a child may inherit.

        Raises:
            UserError: another runner holds it, or there can be no such directory.

        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            descriptor = os.open(self.root / "run.lock", flags, mode=0o644)
        except OSError as error:
            problem = f"cannot be a run directory: {error.strerror}"
            raise UserError(str(self.root), problem, "Choose another --run-dir.") from error
        try:
            self._take(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield descriptor
        finally:
            os.close(descriptor)

    def _take(self, descriptor: int) -> None:
        patience = time.monotonic() + LOCK_PATIENCE_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > patience:
                    holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
                    problem = f"another vaco run (process {holder or 'unknown'}) is using it"
                    cure = "Stop that one first, or give this one another --run-dir."
                    raise UserError(str(self.root), problem, cure) from None
                time.sleep(0.02)
            else:
                return

    def in_use(self) -> bool:
        """Tell whether a runner, or a learner that outlives it for a moment, is at work here."""
        try:
            descriptor = os.open(self.root / "run.lock", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def load_job(self) -> VACOJob:
        """Return the job of this run.

        Raises:
            UserError: this is no run directory, or its job.yaml does not hold a job.

        """
        if not self.job_file.is_file():
            cure = "Start it with `vaco run`, or name another directory."
            raise UserError(str(self.root), "is not a run directory: it has no job.yaml", cure)
        return load_job(self.job_file)

    def store_job(self, job: VACOJob) -> None:
        """Write the resolved job; for the holder of the lock."""
        replace_file(self.job_file, dump_job(job), durable=True)

    def clear(self) -> None:
        """Remove what a run has left here, but not its job.yaml; for the holder of the lock."""
        for name in _OF_ONE_RUN:
            for path in self.root.glob(name):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()

    def read_status(self) -> VACOJobStatus | None:
        """Return the status last written, None before the first.

        Raises:
            UserError: the file does not hold a status.

        """
        text = _read(self.status_file)
        if text is None:
            return None
        try:
            return VACOJobStatus.model_validate_json(text)
        except ValueError as error:
            problem = f"does not hold a status: {error}"
            raise UserError(str(self.status_file), problem, "Delete it.") from error

    def write_status(self, status: VACOJobStatus, *, durable: bool = False) -> None:
        """Replace the status; for the holder of the lock."""
        text = status.model_dump_json(by_alias=True, indent=2)
        replace_file(self.status_file, text + "\n", durable=durable)

    def append_event(self, event: str, **details: Any) -> None:
        """Add a line to the run's history; `time` is in seconds since 1970."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **details})
        with self.events_file.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def next_incarnation(self, actor_id: str) -> int:
        """Hand out an incarnation that `actor_id` never had, in this run of it or an earlier one.

        Raises:
            UserError: actors.json is damaged, so that nobody knows what was handed out.

        """
        path = self.root / "actors.json"
        text = _read(path)
        try:
            incarnations = {str(k): int(v) for k, v in json.loads(text or "{}").items()}
        except (ValueError, TypeError, AttributeError) as error:
            cure = "Restore it, or give the run another --run-dir."
            raise UserError(str(path), f"is damaged: {error}", cure) from error
        incarnations[actor_id] = incarnations.get(actor_id, 0) + 1
        replace_file(path, json.dumps(incarnations, indent=2) + "\n", durable=True)
        return incarnations[actor_id]


def _read(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_STATE_BYTES + 1)
    except FileNotFoundError:
        return None
    if len(data) > _MAX_STATE_BYTES:
        raise UserError(str(path), f"is over {_MAX_STATE_BYTES} bytes")
    return data.decode("utf-8", "replace")
