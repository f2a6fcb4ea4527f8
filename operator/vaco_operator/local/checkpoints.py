"""Which checkpoint of a run is to be used, seen from outside of the learner that wrote it."""

from pathlib import Path

from vaco.checkpoints import (
    DamagedCheckpointError,
    check_parts,
    list_checkpoints,
    read_manifest,
    version_of,
)
from vaco.errors import UserError

from vaco_operator.local.run_directory import RunDirectory


def find_checkpoint(directory: RunDirectory, version: int | None = None) -> Path:
    """Return the newest complete checkpoint, or that of `version`.

    Raises:
        UserError: there is none, or the one asked for is damaged or another job's.

    """
    found = list_checkpoints(directory.checkpoints)
    wanted = [path for path in reversed(found) if version in (None, version_of(path))]
    if version is not None and not wanted:
        there = ", ".join(str(version_of(path)) for path in found) or "none"
        problem = f"has no checkpoint of version {version}"
        raise UserError(str(directory.root), problem, f"There is {there}.")
    job_uid = directory.load_job().metadata.uid
    for path in wanted:
        if _is_whole(path, job_uid):
            return path
    if found:
        raise UserError(str(directory.root), "its checkpoints are damaged")
    raise UserError(str(directory.root), "there is no checkpoint", _why_there_is_none(directory))


def _why_there_is_none(directory: RunDirectory) -> str:
    if directory.in_use():
        return "The run goes on, and writes one as soon as an actor has come."
    status = directory.read_status()
    if status is not None and status.phase == "Failed":
        return (
            f"The run failed before it wrote one: {status.message.rstrip('.')}. Mend that, and "
            "start it again with `vaco run`."
        )
    return "The run ended before it wrote one; `vaco run` starts it again."


def _is_whole(checkpoint: Path, job_uid: str | None) -> bool:
    try:
        check_parts(checkpoint, read_manifest(checkpoint, job_uid))
    except DamagedCheckpointError:
        return False
    return True
