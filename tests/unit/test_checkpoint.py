"""Checkpoints are complete or ignored, whatever happens while they are written or lie there."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import pytest
from vaco.checkpoints import MANIFEST, OPTIMIZER, POLICY, STATE
from vaco.errors import UserError
from vaco_learner.checkpoint import Checkpoint, CheckpointStore
from vaco_learner.claims import Claim, Claims, FencedError, HighWater
from vaco_learner.deliveries import DeliveryRecord
from vaco_learner.evaluation_desk import EvaluationOutcome
from vaco_learner.ledger import LedgerCounts
from vaco_learner.lineage import Incarnation, Lineage
from vaco_learner.progress import Accuracy
from vaco_learner.restore import Beginning, begin
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
        contract=Spaces({"observation": Box((4,))}, Discrete(2)).to_json(),
        episodes=12,
        returns=(1.5, -2.0),
        train_seconds=3.25,
        evaluation=EvaluationOutcome(4, 400, 10, 5.0, 1.0, 20.0, 0.25),
        accuracy=Accuracy(0.25, 0.75, 0.5),
        trainer={"updates": version},
    )


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    return CheckpointStore(tmp_path, JOB, keep=3)


@pytest.fixture
def claim(tmp_path_factory: pytest.TempPathFactory) -> Claim:
    """A claim that nobody contests."""
    return Claims(tmp_path_factory.mktemp("claims"), JOB).stake(1)


def begun(store: CheckpointStore, claims: Claims, least: int = 1) -> Beginning:
    return begin(store, claims, least)[0]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_was_saved_is_loaded(store: CheckpointStore, claim: Claim) -> None:
    store.save(checkpoint(7), claim)
    assert store.newest() == checkpoint(7)
    assert LearnerState.from_document(checkpoint(7).state) == state(7)


def test_there_is_none_at_first(store: CheckpointStore) -> None:
    assert store.newest() is None


def test_the_newest_ones_are_kept(store: CheckpointStore, tmp_path: Path, claim: Claim) -> None:
    for version in (1, 2, 10, 9, 11):
        store.save(checkpoint(version), claim)
    assert names(tmp_path) == ["v000000009", "v000000010", "v000000011"]
    assert store.newest() == checkpoint(11)


def test_the_same_version_can_be_saved_again(
    store: CheckpointStore, tmp_path: Path, claim: Claim
) -> None:
    store.save(checkpoint(5), claim)
    again = Checkpoint(5, b"other", b"bytes", {"more": True})
    store.save(again, claim)
    assert store.newest() == again
    assert names(tmp_path) == ["v000000005"]


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_passed_over(
    store: CheckpointStore, part: str, share: float, caplog: pytest.LogCaptureFixture, claim: Claim
) -> None:
    store.save(checkpoint(1), claim)
    path = store.save(checkpoint(2), claim) / part
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert store.newest() == checkpoint(1)
    assert "passing over" in caplog.text


@pytest.mark.parametrize("part", PARTS)
def test_any_flipped_bit_is_passed_over(store: CheckpointStore, part: str, claim: Claim) -> None:
    store.save(checkpoint(1), claim)
    path = store.save(checkpoint(2), claim) / part
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
def test_a_missing_file_is_passed_over(store: CheckpointStore, part: str, claim: Claim) -> None:
    store.save(checkpoint(1), claim)
    (store.save(checkpoint(2), claim) / part).unlink()
    assert store.newest() == checkpoint(1)


def test_with_every_checkpoint_damaged_nothing_begins_and_nothing_is_touched(
    store: CheckpointStore, tmp_path: Path, claim: Claim
) -> None:
    for version, part in ((1, POLICY), (2, MANIFEST)):
        (store.save(checkpoint(version), claim) / part).write_bytes(b"{}")
    told = rf"{tmp_path}.*none of its 2 checkpoints is whole.*remove them all to begin anew"
    with pytest.raises(UserError, match=told):
        begun(store, Claims(tmp_path, JOB))
    assert [name for name in names(tmp_path) if "v0" in name] == ["v000000001", "v000000002"]


def test_a_damaged_checkpoint_takes_no_place_of_a_whole_one(tmp_path: Path) -> None:
    store, claims = CheckpointStore(tmp_path, JOB, keep=2), Claims(tmp_path, JOB)
    claim = claimed(tmp_path, 2, 20)
    store.save(checkpoint(10), claim)
    (store.save(checkpoint(20), claim) / POLICY).write_bytes(b"half")
    claim = begun(store, claims).claim
    (store.save(checkpoint(31), claim) / POLICY).write_bytes(b"half")
    beginning = begun(CheckpointStore(tmp_path, JOB, keep=2), claims)
    assert beginning.state == state(10)
    assert [name for name in names(tmp_path) if "v0" in name] == [
        ".bad-v000000020",
        ".bad-v000000031",
        "v000000010",
    ]


def test_a_bounded_number_of_damaged_checkpoints_is_left_to_look_at(
    store: CheckpointStore, tmp_path: Path
) -> None:
    claims = Claims(tmp_path, JOB)
    for version in range(11, 18):
        claim = begun(store, claims, least=3).claim
        store.save(checkpoint(10), claim)
        (store.save(checkpoint(version), claim) / STATE).write_bytes(b"half")
    assert begun(store, claims).state == state(10)
    assert [name for name in names(tmp_path) if "v0" in name] == [
        ".bad-v000000015",
        ".bad-v000000016",
        ".bad-v000000017",
        "v000000010",
    ]


def test_one_checkpoint_is_too_few_to_keep(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="keep is 1"):
        CheckpointStore(tmp_path, JOB, keep=1)


def test_another_jobs_checkpoint_is_refused(
    store: CheckpointStore, tmp_path: Path, claim: Claim
) -> None:
    store.save(checkpoint(1), claim)
    with pytest.raises(UserError, match=r"of job 'job-uid', this is 'another'.*run directory"):
        CheckpointStore(tmp_path, "another", keep=3).newest()


def test_what_a_crash_left_behind_is_removed(
    store: CheckpointStore, tmp_path: Path, claim: Claim
) -> None:
    store.save(checkpoint(1), claim)
    aside = tmp_path / ".tmp-v000000002"
    aside.mkdir()
    (aside / POLICY).write_bytes(b"half")
    assert CheckpointStore(tmp_path, JOB, keep=3).newest() == checkpoint(1)
    assert names(tmp_path) == ["v000000001"]


def test_a_crash_between_the_two_renames_loses_nothing(tmp_path: Path, claim: Claim) -> None:
    store = CheckpointStore(tmp_path, JOB, keep=2)
    store.save(checkpoint(1), claim).rename(tmp_path / ".tmp-replaced-v000000001")
    assert CheckpointStore(tmp_path, JOB, keep=2).newest() == checkpoint(1)


WRITER = """
import sys
from pathlib import Path
from vaco_learner.checkpoint import Checkpoint, CheckpointStore
from vaco_learner.claims import Claims

store = CheckpointStore(Path(sys.argv[1]), "job-uid", keep=2)
claim = Claims(Path(sys.argv[2]), "job-uid").stake(int(sys.argv[3]))
found = store.newest()
version = found.version if found else 0
print("ready", flush=True)
while True:
    version += 1
    content = version.to_bytes(8, "little") * 40_000
    store.save(Checkpoint(version, content, content, {"version": version}), claim)
    print(version, flush=True)
    if version % 3 == 0:
        store.save(Checkpoint(version, content, content, {"version": version}), claim)
"""


def test_kill_9_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    """A real process writes one checkpoint after the other and is killed ten times."""
    draw = random.Random(5)
    last = 0
    directory, claims = tmp_path / "checkpoints", tmp_path / "claims"
    claims.mkdir()
    for number in range(1, 11):
        command = [sys.executable, "-c", WRITER, str(directory), str(claims), str(number)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        reported = int(process.stdout.readline())
        time.sleep(draw.uniform(0, 0.08))  # not to wait for anything, but to hit any moment
        os.kill(process.pid, signal.SIGKILL)
        reported = max([reported, *map(int, process.stdout.read().split())])
        process.wait()
        process.stdout.close()
        found = CheckpointStore(directory, JOB, keep=2).newest()
        assert found is not None
        assert found.version >= reported > last
        assert found.policy == found.version.to_bytes(8, "little") * 40_000
        assert len(names(directory)) <= 3  # `keep`, and the one that was being put in place
        last = found.version


def claimed(directory: Path, number: int, version: int) -> Claim:
    """A claim of an incarnation that used versions up to `version`."""
    claim = Claims(directory, JOB).stake(number)
    claim.release(version)
    return claim


def test_the_newest_incarnation_and_version_are_those_of_all_claims(tmp_path: Path) -> None:
    claims = Claims(tmp_path, JOB)
    assert claims.newest() is None
    claimed(tmp_path, 2, 31).release(32)
    assert claims.newest() == HighWater(2, 32)
    claims.stake(5)
    assert claims.newest() == HighWater(5, 32), "who has not published yet is newest as well"


def test_versions_are_reserved_before_they_are_seen_and_given_back(tmp_path: Path) -> None:
    claims, claim = Claims(tmp_path, JOB), claimed(tmp_path, 2, 31)
    for version, reserved in ((31, 31), (32, 95), (33, 95), (95, 95), (96, 159)):
        claim.reserve(version)
        assert claims.newest() == HighWater(2, reserved)
    claim.release(97)
    assert claims.newest() == HighWater(2, 97)
    claim.reserve(98)
    assert claims.newest() == HighWater(2, 161)


def test_a_claim_of_another_job_or_without_sense_is_refused(tmp_path: Path) -> None:
    claimed(tmp_path, 1, 1)
    with pytest.raises(UserError, match="another"):
        Claims(tmp_path, "another").newest()
    (tmp_path / "claim-1.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        Claims(tmp_path, JOB).newest()


def test_a_number_can_be_claimed_once(tmp_path: Path) -> None:
    claimed(tmp_path, 7, 3)
    with pytest.raises(FileExistsError):
        Claims(tmp_path, JOB).stake(7)
    assert Claims(tmp_path, JOB).newest() == HighWater(7, 3)


def test_a_newer_claim_fences_the_older_one(store: CheckpointStore, tmp_path: Path) -> None:
    old = claimed(tmp_path, 1, 57)
    old.check()
    new = begun(store, Claims(tmp_path, JOB)).claim
    assert new.number == 2
    told = r"this learner, incarnation 1, .*: incarnation 2 has taken over"
    with pytest.raises(FencedError, match=told):
        old.reserve(58)
    with pytest.raises(FencedError, match=told):
        store.save(checkpoint(58), old)
    new.release(59)
    store.save(checkpoint(59), new)
    assert Claims(tmp_path, JOB).newest() == HighWater(2, 59)
    assert names(tmp_path) == ["claim-1.json", "claim-2.json", "v000000059"]


def test_a_learner_whose_claim_is_gone_is_fenced(tmp_path: Path) -> None:
    claim = claimed(tmp_path, 1, 57)
    (tmp_path / "claim-1.json").unlink()
    with pytest.raises(FencedError, match="its claim is gone"):
        claim.check()


class TakenOver(Claim):
    """A fault: another learner takes over, or the node freezes, right after the check passed."""

    def __init__(self, claims: Claims, number: int, passing: int) -> None:
        super().__init__(claims, number)
        self._passing = passing

    def check(self) -> None:
        self._passing -= 1
        if self._passing < 0:
            super().check()


def test_a_learner_that_is_replaced_while_it_writes_puts_nothing_in_place(
    store: CheckpointStore, tmp_path: Path
) -> None:
    claims = Claims(tmp_path, JOB)
    claimed(tmp_path, 1, 57)
    store.save(checkpoint(57), claimed(tmp_path, 2, 57))
    with pytest.raises(FencedError):
        store.save(checkpoint(60), TakenOver(claims, 1, passing=1))
    assert store.newest() == checkpoint(57)
    assert CheckpointStore(tmp_path, JOB, keep=3).newest() == checkpoint(57)
    assert not [name for name in names(tmp_path) if name.startswith(".tmp")]


def test_what_a_replaced_learner_put_in_place_too_late_counts_for_nothing(
    store: CheckpointStore, tmp_path: Path
) -> None:
    """It was frozen after its last look at the claims, and its version is the higher one."""
    claims = Claims(tmp_path, JOB)
    claimed(tmp_path, 1, 57)
    new = claimed(tmp_path, 2, 58)
    store.save(checkpoint(58), new)
    store.save(checkpoint(70), TakenOver(claims, 1, passing=2))
    assert store.newest() == checkpoint(58)
    beginning, found = begin(store, claims)
    assert found == checkpoint(58)
    assert beginning.checkpoint_version == 58
    assert beginning.lineage.current.number == 3
    assert beginning.state == state(58)
    for version in (59, 60, 61):
        store.save(checkpoint(version), beginning.claim)
    assert [name for name in names(tmp_path) if name.startswith("v")] == [
        "v000000059",
        "v000000060",
        "v000000061",
    ]


def test_old_claims_are_removed_and_the_newest_one_knows_all(
    store: CheckpointStore, tmp_path: Path
) -> None:
    claimed(tmp_path, 1, 900)
    for _ in range(20):
        begun(store, Claims(tmp_path, JOB))
    assert len(names(tmp_path)) == 8
    assert Claims(tmp_path, JOB).newest() == HighWater(21, 920)


def test_the_first_learner_begins_at_version_0(store: CheckpointStore, tmp_path: Path) -> None:
    beginning = begun(store, Claims(tmp_path, JOB))
    assert (beginning.version, beginning.lineage) == (0, Lineage.first())
    assert beginning.state is None
    assert Claims(tmp_path, JOB).newest() == HighWater(1, 0)


def test_an_incarnation_is_at_least_what_is_asked_and_above_all_earlier_ones(
    store: CheckpointStore, tmp_path: Path
) -> None:
    numbers = [begun(store, Claims(tmp_path, JOB), least).claim.number for least in (70, 1, 90)]
    assert numbers == [70, 71, 90]


def test_after_a_crash_the_version_goes_on_above_all_that_was_published(
    store: CheckpointStore, tmp_path: Path
) -> None:
    store.save(checkpoint(40), claimed(tmp_path, 2, 57))
    beginning = begun(store, Claims(tmp_path, JOB))
    assert beginning.version == 58
    assert beginning.lineage.current == Incarnation(3, 40, 58)
    assert beginning.state == state(40)
    assert Claims(tmp_path, JOB).newest() == HighWater(3, 58)


def test_after_a_clean_end_no_version_is_skipped(store: CheckpointStore, tmp_path: Path) -> None:
    store.save(checkpoint(40), claimed(tmp_path, 2, 40))
    beginning = begun(store, Claims(tmp_path, JOB))
    assert (beginning.version, beginning.lineage.current) == (40, Incarnation(3, 40, 40))


def test_a_crash_before_the_first_checkpoint_takes_no_version_back(
    store: CheckpointStore, tmp_path: Path
) -> None:
    claimed(tmp_path, 1, 6)
    beginning = begun(store, Claims(tmp_path, JOB))
    assert (beginning.version, beginning.lineage.current) == (7, Incarnation(2, 0, 7))


def test_incarnations_of_lost_checkpoints_are_not_used_again(
    store: CheckpointStore, tmp_path: Path
) -> None:
    """Incarnation 5 wrote only a checkpoint that is damaged: the next one is 6, not 3."""
    store.save(checkpoint(40), claimed(tmp_path, 2, 40))
    claimed(tmp_path, 5, 90)
    assert begun(store, Claims(tmp_path, JOB)).lineage.current.number == 6


def test_incarnations_of_lost_claims_are_not_used_again(
    store: CheckpointStore, tmp_path: Path
) -> None:
    store.save(checkpoint(40), claimed(tmp_path, 6, 40))
    (tmp_path / "claim-6.json").unlink()
    assert begun(store, Claims(tmp_path, JOB)).lineage.current.number == 7


def test_of_learners_that_begin_together_one_holds_the_directory(tmp_path: Path) -> None:
    def life(_: int) -> Claim | None:
        try:
            return begun(store, Claims(tmp_path, JOB)).claim
        except FencedError:
            return None

    store = CheckpointStore(tmp_path, JOB, keep=2)
    with ThreadPoolExecutor(8) as pool:
        claims = [claim for claim in pool.map(life, range(8)) if claim is not None]
    assert max(claim.number for claim in claims) == 8
    for claim in claims:
        with nullcontext() if claim.number == 8 else pytest.raises(FencedError):
            claim.check()


def test_a_state_of_another_version_of_vaco_is_refused() -> None:
    document = state(1).to_document()
    del document["lineage"]
    with pytest.raises(UserError, match="lineage"):
        LearnerState.from_document(document)
