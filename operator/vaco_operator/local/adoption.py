"""May this job run in this directory? Only if it is new, or the run there is the same job's.

What a run has learned holds for one task, policy and algorithm. Another seed or another network in
the same directory would be another run, so it is refused, field by field. What only says how long,
with how many actors and how observed the job runs may change between two runs. A run that has not
trained anything yet has learned nothing, and makes way.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import uuid4

from vaco.checkpoints import list_checkpoints, version_of
from vaco.errors import UserError
from vaco.job import VACOJob

from vaco_operator.local.run_directory import RunDirectory

MAY_CHANGE: Final = (
    "stop",
    "actors",
    "autoscaling",
    "evaluation",
    "suspend",
    "backoffLimit",
    "ttlSecondsAfterFinished",
    "cleanPodPolicy",
    "startDeadlineSeconds",
    "activeDeadlineSeconds",
    "learner.storage",
    "learner.podTemplate",
)
"""Fields of `spec` that a resumed run may have otherwise than the run it resumes."""

MAX_NAMED: Final = 12


@dataclass(frozen=True, slots=True)
class Adoption:
    """A job that may run here, with its uid and generation.

    `changes` says what differs from the run before; None: there was none. `replaced` says what
    differs from a run that had trained nothing, and was therefore given up.
    """

    job: VACOJob
    changes: tuple[str, ...] | None
    replaced: tuple[str, ...] = ()

    def touches(self, field: str) -> bool:
        """Tell whether something at or below `spec.<field>` changed since the run before."""
        return any(change.startswith(f"spec.{field}") for change in self.changes or ())


def adopt(directory: RunDirectory, job: VACOJob) -> Adoption:
    """Match `job` with what `directory` holds, and write it there; for the holder of the lock.

    Another job's run that has trained nothing is given up: whoever mends a misspelt environment
    begins anew in the same directory.

    Raises:
        UserError: the directory is another job's, or not a run directory at all.

    """
    if not directory.job_file.exists():
        _refuse_foreign_files(directory)
        return Adoption(_store_new(directory, job), None)
    earlier = directory.load_job()
    changes = differences(earlier, job)
    foreign = [change for change in changes if not _may_change(change)]
    same_name = not any(change.startswith("metadata.") for change in foreign)
    if foreign and same_name and _has_trained_nothing(directory):
        directory.clear()
        return Adoption(_store_new(directory, job), None, changes)
    if foreign:
        named = "; ".join(foreign[:MAX_NAMED])
        more = f"; and {len(foreign) - MAX_NAMED} more" if len(foreign) > MAX_NAMED else ""
        raise UserError(
            str(directory.root),
            f"holds a run of another job, there -> here: {named}{more}",
            f"Give this job another --run-dir, or remove that run (rm -r {directory.root}), or "
            f"undo the changes: only {', '.join(MAY_CHANGE)} of `spec` may change between runs.",
        )
    generation = (earlier.metadata.generation or 1) + bool(changes)
    adopted = _with_metadata(job, {"uid": earlier.metadata.uid, "generation": generation})
    if changes:
        directory.store_job(adopted)
    return Adoption(adopted, changes)


def differences(earlier: VACOJob, job: VACOJob) -> tuple[str, ...]:
    """Name what differs in identity and spec, as `path: there -> here`."""
    there, here = _comparable(earlier), _comparable(job)
    if job.metadata.uid is None:
        there.pop("metadata.uid", None)
    paths = [*there, *(path for path in here if path not in there)]
    return tuple(
        f"{path}: {_shown(there, path)} -> {_shown(here, path)}"
        for path in paths
        if there.get(path) != here.get(path)
    )


def _comparable(job: VACOJob) -> dict[str, Any]:
    found: dict[str, Any] = {"metadata.name": job.metadata.name}
    if job.metadata.uid is not None:
        found["metadata.uid"] = job.metadata.uid
    _flatten("spec", job.spec.model_dump(mode="json", by_alias=True), found)
    return found


def _flatten(path: str, value: Any, into: dict[str, Any]) -> None:
    if isinstance(value, Mapping) and value:
        for name, child in value.items():
            _flatten(f"{path}.{name}", child, into)
    else:
        into[path] = value


def _shown(values: Mapping[str, Any], path: str) -> str:
    if path not in values:
        return "not set"
    text = json.dumps(values[path])
    return text if len(text) <= 60 else f"{text[:57]}..."


def _may_change(change: str) -> bool:
    path = change.split(":", 1)[0]
    return any(path == f"spec.{name}" or path.startswith(f"spec.{name}.") for name in MAY_CHANGE)


def _refuse_foreign_files(directory: RunDirectory) -> None:
    foreign = sorted(path.name for path in directory.root.iterdir() if path.name != "run.lock")
    if foreign:
        problem = f"is not empty and no run directory: it holds {', '.join(foreign[:5])}"
        raise UserError(str(directory.root), problem, "Choose an empty or a new directory.")


def _has_trained_nothing(directory: RunDirectory) -> bool:
    """Whether a run was begun here and nothing is lost with it: its only weights are the first."""
    status = directory.read_status()
    if status is None or status.env_steps or status.phase == "Complete":
        return False
    return not any(version_of(path) for path in list_checkpoints(directory.checkpoints))


def _store_new(directory: RunDirectory, job: VACOJob) -> VACOJob:
    metadata = {"uid": job.metadata.uid or str(uuid4()), "generation": 1}
    adopted = _with_metadata(job, metadata)
    directory.store_job(adopted)
    return adopted


def _with_metadata(job: VACOJob, update: Mapping[str, Any]) -> VACOJob:
    return job.model_copy(update={"metadata": job.metadata.model_copy(update=update)})
