"""Weights as files: whole or not there, few, and read with their digests."""

import threading
from pathlib import Path

import pytest
from vaco.errors import UserError
from vaco.incoming_weights import Arriving
from vaco.schema.learner import WeightsTransport
from vaco.weights import MalformedWeights, Weights, new_buffer, weights_header
from vaco.weights_volume import KEPT_VERSIONS, WeightsVolume, weights_volume
from vaco_actor.fetch import MAX_DAMAGES, fetch

PAYLOAD = bytes(range(14))
NAME = "i1-v3.safetensors"


@pytest.fixture
def volume(tmp_path: Path) -> WeightsVolume:
    return WeightsVolume(str(tmp_path), "job-1")


def arriving(name: str = NAME) -> Arriving:
    header = weights_header(Weights(1, 3, PAYLOAD, ""), name, shard_bytes=4)
    return Arriving(header, new_buffer(header.size))


def names(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "job-1").iterdir())


@pytest.mark.parametrize("path", ["PATH", "file://PATH", "memory://weights"])
def test_what_is_written_is_read_by_another(path: str, tmp_path: Path) -> None:
    where = path.replace("PATH", str(tmp_path))
    WeightsVolume(where, "job-1").write(NAME, memoryview(PAYLOAD))
    version = arriving()
    fetch(WeightsVolume(where, "job-1"), version, threading.Event())
    assert version.weights().payload == PAYLOAD


def test_of_old_versions_few_are_kept_and_nothing_half_written(
    volume: WeightsVolume, tmp_path: Path
) -> None:
    (tmp_path / "job-1").mkdir()
    (tmp_path / "job-1" / ".tmp-i1-v8.safetensors").write_bytes(b"half")
    (tmp_path / "job-1" / "readme").write_text("somebody else's")
    for version in (9, 10, 11, 12):
        volume.write(volume.name(1, version), memoryview(PAYLOAD))
    volume.write(volume.name(2, 3), memoryview(PAYLOAD))
    (tmp_path / "job-1" / ".tmp-i3-v1.safetensors").write_bytes(b"being written by a newer one")
    volume.tidy(2)
    kept = ["i1-v11.safetensors", "i1-v12.safetensors", "i2-v3.safetensors", "readme"]
    assert names(tmp_path) == [".tmp-i3-v1.safetensors", *kept]
    assert len(kept) == KEPT_VERSIONS + 1
    volume.clear(1)
    assert names(tmp_path) == [".tmp-i3-v1.safetensors", "i2-v3.safetensors", "readme"]


def test_a_clean_end_removes_what_all_learners_wrote_and_the_directory(
    volume: WeightsVolume, tmp_path: Path
) -> None:
    for incarnation in (1, 2):
        volume.write(volume.name(incarnation, 3), memoryview(PAYLOAD))
    volume.clear(2)
    assert not (tmp_path / "job-1").exists()
    volume.clear(2)  # again, as nothing is there


def test_a_write_that_fails_leaves_nothing(
    volume: WeightsVolume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullDisk:
        def __enter__(self) -> "FullDisk":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def write(self, _: object) -> None:
            raise OSError(28, "No space left on device")

    files = volume._files

    def open_full(path: str, _: str) -> FullDisk:
        Path(path).touch()
        return FullDisk()

    monkeypatch.setattr(files, "open", open_full)
    with pytest.raises(OSError, match="No space left"):
        volume.write(NAME, memoryview(PAYLOAD))
    assert names(tmp_path) == []


def test_a_damaged_shard_alone_is_read_again(
    volume: WeightsVolume, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume.write(NAME, memoryview(PAYLOAD))
    reads: list[int] = []
    sound = volume.read

    def read(name: str, begin: int, end: int) -> bytes:
        reads.append(begin)
        data = sound(name, begin, end)
        return b"\xff" + data[1:] if reads.count(8) == 1 and begin == 8 else data

    monkeypatch.setattr(volume, "read", read)
    version = arriving()
    fetch(volume, version, threading.Event())
    assert version.weights().payload == PAYLOAD
    assert reads == [0, 4, 8, 8, 12]


def test_a_file_that_stays_damaged_is_given_up_with_its_sound_shards(
    volume: WeightsVolume, tmp_path: Path
) -> None:
    volume.write(NAME, memoryview(PAYLOAD[:9] + b"\xff" + PAYLOAD[10:]))
    version = arriving()
    with pytest.raises(MalformedWeights, match="shard 2 has another digest"):
        fetch(volume, version, threading.Event())
    assert version.shards == 2
    (tmp_path / "job-1" / NAME).write_bytes(PAYLOAD)
    fetch(volume, version, threading.Event())
    assert version.weights().payload == PAYLOAD
    assert MAX_DAMAGES > 0


def test_a_file_that_ends_early_or_is_gone_is_no_version(volume: WeightsVolume) -> None:
    with pytest.raises(FileNotFoundError):
        fetch(volume, arriving(), threading.Event())
    volume.write(NAME, memoryview(PAYLOAD[:9]))
    with pytest.raises(MalformedWeights, match="file: ends before byte 12"):
        fetch(volume, arriving(), threading.Event())


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "/etc/passwd", f"x/{NAME}", f"{NAME}\n"])
def test_a_name_leads_nowhere_else(volume: WeightsVolume, name: str) -> None:
    with pytest.raises(MalformedWeights, match="is no version's file"):
        fetch(volume, arriving(name), threading.Event())


def test_reading_can_be_given_up(volume: WeightsVolume) -> None:
    given_up = threading.Event()
    given_up.set()
    version = arriving()
    fetch(volume, version, given_up)
    assert version.received == 0


@pytest.mark.parametrize("path", ["nonsense://bucket/x", "sftp://host/x"])
def test_a_store_that_fsspec_cannot_use_is_named_with_the_cure(path: str) -> None:
    with pytest.raises(UserError) as refused:
        weights_volume(WeightsTransport(type="filesystem", path=path), "job-1")
    assert refused.value.path == "spec.learner.weightsTransport.path"
    assert path in refused.value.problem
    assert "Install" in refused.value.cure


def test_by_default_weights_go_by_the_stream() -> None:
    assert weights_volume(WeightsTransport(), "job-1") is None
