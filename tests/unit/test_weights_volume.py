"""Weights as files: whole or not there, few, and read with their digests."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from vaco.errors import UserError
from vaco.incoming_weights import Arriving
from vaco.schema.learner import WeightsTransport
from vaco.weights import MalformedWeights, Payload, Weights, new_buffer, weights_header
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
    sound = volume.reading

    @contextlib.contextmanager
    def reading(name: str) -> Iterator[Callable[[int, int], bytes]]:
        with sound(name) as read:

            def damaged(begin: int, end: int) -> bytes:
                reads.append(begin)
                data = read(begin, end)
                return b"\xff" + data[1:] if reads.count(8) == 1 and begin == 8 else data

            yield damaged

    monkeypatch.setattr(volume, "reading", reading)
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


class Slow(Arriving):
    """While it takes a shard, the learner publishes `KEPT_VERSIONS` versions."""

    def __init__(self, volume: WeightsVolume, version: Arriving) -> None:
        super().__init__(version.header, new_buffer(version.header.size))
        self._volume = volume
        self._newest = 3

    def write(self, data: Payload) -> None:
        super().write(data)
        for _ in range(KEPT_VERSIONS):
            self._newest += 1
            self._volume.write(self._volume.name(1, self._newest), memoryview(PAYLOAD))
        self._volume.tidy(1)


def test_a_slow_reader_of_a_removed_file_reads_on(volume: WeightsVolume, tmp_path: Path) -> None:
    volume.write(NAME, memoryview(PAYLOAD))
    version = Slow(volume, arriving())
    fetch(volume, version, threading.Event())
    assert version.weights().payload == PAYLOAD
    assert NAME not in names(tmp_path)
    assert open_below(tmp_path) == []


def test_elsewhere_a_slow_reader_is_told_that_its_file_is_gone() -> None:
    volume = WeightsVolume("memory://slow", "job-1")
    volume.write(NAME, memoryview(PAYLOAD))
    with pytest.raises(FileNotFoundError):
        fetch(volume, Slow(volume, arriving()), threading.Event())


@pytest.mark.parametrize("ends", ["whole", "damaged", "early", "given up", "of itself"])
def test_no_file_stays_open(volume: WeightsVolume, tmp_path: Path, ends: str) -> None:
    payload = {"damaged": b"\xff" + PAYLOAD[1:], "early": PAYLOAD[:9]}.get(ends, PAYLOAD)
    volume.write(NAME, memoryview(payload))
    given_up = threading.Event()
    seen: list[list[str]] = []

    class Watched(Arriving):
        def write(self, data: Payload) -> None:
            seen.append(open_below(tmp_path))
            if ends == "of itself":
                raise OSError(5, "Input/output error")
            if ends == "given up":
                given_up.set()
            super().write(data)

    header = arriving().header
    version = Watched(header, new_buffer(header.size))
    with contextlib.suppress(MalformedWeights, OSError):
        fetch(volume, version, given_up)
    assert version.whole == (ends == "whole")
    assert seen[0] == [NAME], "what is open can be seen"
    assert open_below(tmp_path) == []


def open_below(directory: Path) -> list[str]:
    """Names of the files below a directory that this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was the listing's own
            target = Path(os.readlink(descriptor))  # noqa: PTH115 - no path of it is to be resolved
            if target.is_relative_to(directory):
                found.append(target.name)
    return found


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
    volume.write(NAME, memoryview(PAYLOAD))
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
