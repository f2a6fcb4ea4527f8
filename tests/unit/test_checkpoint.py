"""Checkpoints are complete or ignored, whatever happens while they are written or lie there."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from vaco.errors import UserError
from vaco_learner.checkpoint import MANIFEST, OPTIMIZER, POLICY, STATE, Checkpoint, CheckpointStore
from vaco_learner.deliveries import DeliveryRecord
from vaco_learner.evaluation_desk import EvaluationOutcome
from vaco_learner.high_water import HighWater, HighWaterFile
from vaco_learner.journal import Journal
from vaco_learner.ledger import LedgerCounts
from vaco_learner.lineage import Incarnation, Lineage
from vaco_learner.restore import begin
from vaco_learner.roster import ActorRecord
from vaco_learner.state import LearnerState
from vaco_policy.spaces import Box, Discrete, Spaces

JOB = "job-uid"
PARTS = (POLICY, OPTIMIZER, STATE, MANIFEST)


def checkpoint(version: int) -> Checkpoint:
    return Checkpoint(
        version=version,
        policy=b"policy %d" % version,
        optimizer=b"optimizer %d" % version,
        state=json.loads(json.dumps(state(version).to_document())),
    )


def state(version: int) -> LearnerState:
    return LearnerState(
        version=version,
        lineage=Lineage((Incarnation(1, 0, 0), Incarnation(2, 1, 2))),
        counts=LedgerCounts(received=9, trained=4, stale=3, duplicate=2, filtered=1),
        actors=(ActorRecord("actor-0", 3, DeliveryRecord(17, (11, 15)), 100, 90),),
        spaces=Spaces({"observation": Box((4,))}, Discrete(2)),
        episodes=12,
        returns=(1.5, -2.0),
        train_seconds=3.25,
        evaluation=EvaluationOutcome(4, 400, 10, 5.0, 1.0, 20.0),
        updater={"updates": version},
    )


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path, JOB, keep=3)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_was_saved_is_loaded(store: CheckpointStore) -> None:
    store.save(checkpoint(7))
    assert store.newest() == checkpoint(7)
    assert LearnerState.from_document(checkpoint(7).state) == state(7)


def test_there_is_none_at_first(store: CheckpointStore) -> None:
    assert store.newest() is None


def test_the_newest_ones_are_kept(store: CheckpointStore, tmp_path: Path) -> None:
    for version in (1, 2, 10, 9, 11):
        store.save(checkpoint(version))
    assert names(tmp_path) == ["v000000009", "v000000010", "v000000011"]
    assert store.newest() == checkpoint(11)


def test_the_same_version_can_be_saved_again(store: CheckpointStore, tmp_path: Path) -> None:
    store.save(checkpoint(5))
    again = Checkpoint(5, b"other", b"bytes", {"more": True})
    store.save(again)
    assert store.newest() == again
    assert names(tmp_path) == ["v000000005"]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_passed_over(
    store: CheckpointStore, part: str, share: float, caplog: pytest.LogCaptureFixture
) -> None:
    store.save(checkpoint(1))
    path = store.save(checkpoint(2)) / part
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert store.newest() == checkpoint(1)
    assert "passing over" in caplog.text


@pytest.mark.parametrize("part", PARTS)
def test_any_flipped_bit_is_passed_over(store: CheckpointStore, part: str) -> None:
    store.save(checkpoint(1))
    path = store.save(checkpoint(2)) / part
    content = path.read_bytes()
    for index in range(len(content)):
        flipped = bytearray(content)
        flipped[index] ^= 1 << (index % 8)
        path.write_bytes(bytes(flipped))
        found = store.newest()
        assert found is not None
        if found.version == 2:  # only the manifest's white space and escapes mean nothing
            assert part == MANIFEST
            assert json.loads(bytes(flipped)) == json.loads(content)


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_file_is_passed_over(store: CheckpointStore, part: str) -> None:
    store.save(checkpoint(1))
    (store.save(checkpoint(2)) / part).unlink()
    assert store.newest() == checkpoint(1)


def test_with_every_checkpoint_damaged_there_is_none(store: CheckpointStore) -> None:
    for version in (1, 2):
        (store.save(checkpoint(version)) / MANIFEST).write_bytes(b"{}")
    assert store.newest() is None


def test_another_jobs_checkpoint_is_refused(store: CheckpointStore, tmp_path: Path) -> None:
    store.save(checkpoint(1))
    with pytest.raises(UserError, match=r"of job 'job-uid', this is 'another'.*run directory"):
        CheckpointStore(tmp_path, "another", keep=3).newest()


def test_what_a_crash_left_behind_is_removed(store: CheckpointStore, tmp_path: Path) -> None:
    store.save(checkpoint(1))
    aside = tmp_path / ".tmp-v000000002"
    aside.mkdir()
    (aside / POLICY).write_bytes(b"half")
    assert CheckpointStore(tmp_path, JOB, keep=3).newest() == checkpoint(1)
    assert names(tmp_path) == ["v000000001"]


def test_a_crash_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, JOB, keep=1)
    store.save(checkpoint(1)).rename(tmp_path / ".tmp-replaced-v000000001")
    assert CheckpointStore(tmp_path, JOB, keep=1).newest() == checkpoint(1)


WRITER = """
import sys
from pathlib import Path
from vaco_learner.checkpoint import Checkpoint, CheckpointStore

store = CheckpointStore(Path(sys.argv[1]), "job-uid", keep=2)
found = store.newest()
version = found.version if found else 0
print("ready", flush=True)
while True:
    version += 1
    content = version.to_bytes(8, "little") * 40_000
    store.save(Checkpoint(version, content, content, {"version": version}))
    print(version, flush=True)
    if version % 3 == 0:
        store.save(Checkpoint(version, content, content, {"version": version}))
"""


def test_kill_9_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """A real process writes one checkpoint after the other and is killed ten times."""
    draw = random.Random(5)
    last = 0
    for _ in range(10):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        reported = int(process.stdout.readline())
        time.sleep(draw.uniform(0, 0.08))  # not to wait for anything, but to hit any moment
        os.kill(process.pid, signal.SIGKILL)
        reported = max([reported, *map(int, process.stdout.read().split())])
        process.wait()
        process.stdout.close()
        found = CheckpointStore(tmp_path, JOB, keep=2).newest()
        assert found is not None
        assert found.version >= reported > last
        assert found.policy == found.version.to_bytes(8, "little") * 40_000
        assert len(names(tmp_path)) <= 3  # `keep`, and the one that was being put in place
        last = found.version


def test_the_high_water_mark_is_read_again(tmp_path: Path) -> None:
    file = HighWaterFile(tmp_path, JOB)
    assert file.read() is None
    file.write(HighWater(2, 31))
    file.write(HighWater(2, 32))
    assert HighWaterFile(tmp_path, JOB).read() == HighWater(2, 32)


def test_a_high_water_mark_of_another_job_or_without_sense_is_refused(tmp_path: Path) -> None:
    HighWaterFile(tmp_path, JOB).write(HighWater(1, 1))
    with pytest.raises(UserError, match="another"):
        HighWaterFile(tmp_path, "another").read()
    (tmp_path / "published.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        HighWaterFile(tmp_path, JOB).read()


def test_the_first_learner_begins_at_version_0(store: CheckpointStore, tmp_path: Path) -> None:
    beginning = begin(store, HighWaterFile(tmp_path, JOB))
    assert (beginning.version, beginning.lineage) == (0, Lineage.first())
    assert beginning.state is None
    assert HighWaterFile(tmp_path, JOB).read() == HighWater(1, 0)


def test_after_a_crash_the_version_goes_on_above_all_that_was_published(
    store: CheckpointStore, tmp_path: Path
) -> None:
    store.save(checkpoint(40))
    HighWaterFile(tmp_path, JOB).write(HighWater(2, 57))
    beginning = begin(store, HighWaterFile(tmp_path, JOB))
    assert beginning.version == 58
    assert beginning.lineage.current == Incarnation(3, 40, 58)
    assert beginning.state == state(40)
    assert HighWaterFile(tmp_path, JOB).read() == HighWater(3, 58)


def test_after_a_clean_end_no_version_is_skipped(store: CheckpointStore, tmp_path: Path) -> None:
    store.save(checkpoint(40))
    HighWaterFile(tmp_path, JOB).write(HighWater(2, 40))
    beginning = begin(store, HighWaterFile(tmp_path, JOB))
    assert (beginning.version, beginning.lineage.current) == (40, Incarnation(3, 40, 40))


def test_a_crash_before_the_first_checkpoint_takes_no_version_back(
    store: CheckpointStore, tmp_path: Path
) -> None:
    HighWaterFile(tmp_path, JOB).write(HighWater(1, 6))
    beginning = begin(store, HighWaterFile(tmp_path, JOB))
    assert (beginning.version, beginning.lineage.current) == (7, Incarnation(2, 0, 7))


def test_incarnations_of_lost_checkpoints_are_not_used_again(
    store: CheckpointStore, tmp_path: Path
) -> None:
    """Incarnation 5 wrote only a checkpoint that is damaged: the next one is 6, not 3."""
    store.save(checkpoint(40))
    HighWaterFile(tmp_path, JOB).write(HighWater(5, 90))
    assert begin(store, HighWaterFile(tmp_path, JOB)).lineage.current.number == 6


def test_a_state_of_another_version_of_vaco_is_refused() -> None:
    document = state(1).to_document()
    del document["lineage"]
    with pytest.raises(UserError, match="lineage"):
        LearnerState.from_document(document)


def test_the_journal_goes_on_after_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    journal = Journal(path)
    journal.write({"version": 1, "loss": float("nan"), "fragments": [["actor-0", 1, 1, 64]]})
    journal.sync()
    journal.close()
    with path.open("a") as file:
        file.write('{"version": 2, "los')
    journal = Journal(path)
    journal.write({"version": 3})
    journal.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    first = {"version": 1, "loss": None, "fragments": [["actor-0", 1, 1, 64]]}
    assert lines == [first, {"version": 3}]


def test_a_journal_of_one_torn_line_is_emptied(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("x" * 200_000)
    Journal(path).close()
    assert path.read_text() == ""
