"""A learner's last status fits where a container's termination message is kept."""

import json
from pathlib import Path

import pytest
from google.protobuf import json_format
from vaco.v1 import learner_pb2 as pb
from vaco_learner.last_words import MAX_BYTES, TerminationLog, last_words

ENDED = pb.GetStatusResponse(
    job_uid="job-uid",
    phase=pb.LEARNER_PHASE_INTERRUPTED,
    message="told to stop",
    incarnation=1764064000,
    version=57,
    return_mean=12.5,
    ledger=pb.Ledger(received=9, trained=9),
)


def with_actors(count: int, message: str = "told to stop") -> pb.GetStatusResponse:
    status = pb.GetStatusResponse()
    status.CopyFrom(ENDED)
    status.message = message
    status.actors.extend(pb.ActorAccount(actor_id=f"actor-{n}", samples=n) for n in range(count))
    return status


def read(told: bytes) -> pb.GetStatusResponse:
    return json_format.Parse(told, pb.GetStatusResponse())


def test_a_status_that_fits_is_left_whole() -> None:
    assert read(last_words(with_actors(3))) == with_actors(3)


def test_the_actors_go_first() -> None:
    assert read(last_words(with_actors(400))) == ENDED


@pytest.mark.parametrize("character", ["x", "\u00e9", "\x01", '"', "\U0001f600"])
def test_then_the_end_of_the_message(character: str) -> None:
    told = last_words(with_actors(400, "the cause: " + character * 9000))
    assert MAX_BYTES - 16 <= len(told) <= MAX_BYTES
    said = read(told)
    assert said.message.startswith("the cause: " + character)
    assert said.message.endswith(character + "...")
    said.message = ENDED.message
    assert said == ENDED


def test_they_are_written_in_place_with_the_cause(tmp_path: Path) -> None:
    path = tmp_path / "termination-log"
    path.touch()
    inode = path.stat().st_ino
    TerminationLog(path).write(ENDED, "RuntimeError: a joint broke")
    assert path.stat().st_ino == inode, "in a container it is a mount"
    assert json.loads(path.read_text())["message"] == "RuntimeError: a joint broke"
    assert ENDED.message == "told to stop"


def test_a_learner_ends_as_it_would_although_nobody_takes_its_words(tmp_path: Path) -> None:
    TerminationLog(tmp_path / "missing" / "log").write(ENDED)
    TerminationLog(None).write(ENDED)
