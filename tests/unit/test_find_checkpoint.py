"""Which checkpoint of a run evaluation and export take, by real checkpoints on the disk."""

from collections.abc import Callable
from pathlib import Path

import pytest
from vaco.checkpoints import PARTS, POLICY, Manifest, checkpoint_name
from vaco.errors import UserError
from vaco.job import VACOJob, VACOJobStatus, load_job
from vaco_operator.cluster.manifests.config_map import config_map
from vaco_operator.commands import find_run
from vaco_operator.local.adoption import adopt
from vaco_operator.local.checkpoints import find_checkpoint
from vaco_operator.local.run_directory import RunDirectory

JOB = """
apiVersion: training.vaco.dev/v1alpha1
kind: VACOJob
metadata: {name: pole, uid: uid-of-pole}
spec: {task: {environment: CartPole-v1}, stop: {envSteps: 1000}}
"""


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    manifest = tmp_path / "job.yaml"
    manifest.write_text(JOB)
    directory = RunDirectory(tmp_path / "run")
    directory.root.mkdir()
    adopt(directory, load_job(manifest))
    return directory


def put(directory: RunDirectory, version: int, incarnation: int = 1, uid: str = "") -> Path:
    """A checkpoint as a learner writes it."""
    path = directory.checkpoints / checkpoint_name(version)
    path.mkdir(parents=True)
    contents = {part: f"{part} of {version}".encode() for part in PARTS}
    for part, content in contents.items():
        (path / part).write_bytes(content)
    owner = uid or directory.load_job().metadata.uid or ""
    manifest = Manifest.of(owner, incarnation, version, contents)
    (path / "MANIFEST.json").write_bytes(manifest.to_bytes())
    return path


def test_the_newest_whole_one_is_found(directory: RunDirectory) -> None:
    whole = [put(directory, version) for version in (3, 20, 7)]
    assert find_checkpoint(directory) == whole[1]
    (whole[1] / POLICY).write_bytes(b"half")
    assert find_checkpoint(directory) == whole[2]
    assert find_checkpoint(directory, 3) == whole[0]
    with pytest.raises(UserError, match="damaged"):
        find_checkpoint(directory, 20)
    with pytest.raises(UserError, match=r"no checkpoint of version 4.*There is 3, 7, 20"):
        find_checkpoint(directory, 4)


def test_a_replaced_learners_last_one_is_not_the_newest(directory: RunDirectory) -> None:
    put(directory, 70, incarnation=1)
    newest = put(directory, 58, incarnation=2)
    assert find_checkpoint(directory) == newest


def test_another_jobs_checkpoint_is_refused(directory: RunDirectory) -> None:
    put(directory, 5, uid="another")
    with pytest.raises(UserError, match="of job 'another', this is 'uid-of-pole'"):
        find_checkpoint(directory)


def test_why_there_is_none_is_told_as_it_is(directory: RunDirectory) -> None:
    with pytest.raises(UserError, match="ended before it wrote one; `vaco run` starts it again"):
        find_checkpoint(directory)
    directory.write_status(VACOJobStatus(phase="Failed", message="No such environment."))
    with pytest.raises(UserError, match=r"failed before it wrote one: No such environment\. Mend"):
        find_checkpoint(directory)
    with directory.locked(), pytest.raises(UserError, match="The run goes on"):
        find_checkpoint(directory)


def test_a_clusters_config_map_and_checkpoints_are_a_run_directory(
    tmp_path: Path, cluster_job: Callable[..., VACOJob]
) -> None:
    """As docs/kubernetes/first-job.md has it."""
    job = cluster_job()
    made = config_map(job)
    assert made["metadata"]["name"] == "cartpole-job"
    copied = RunDirectory(tmp_path / "copied")
    copied.root.mkdir()
    copied.job_file.write_text(made["data"]["job.yaml"])
    newest = put(copied, 12, uid=job.metadata.uid or "")
    assert find_run(str(copied.root)) == copied
    assert find_checkpoint(copied) == newest
