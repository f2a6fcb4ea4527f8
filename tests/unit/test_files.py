"""Files that are replaced: whole for every reader, whoever else replaces them at the same time."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from vaco.files import remove_leftovers, replace_file


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_replacing_leaves_the_old_file_whole_for_who_has_it_open(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    replace_file(path, "old")
    with path.open() as before:
        replace_file(path, "new and longer", durable=True)
        assert before.read() == "old"
    assert path.read_text() == "new and longer"
    assert names(tmp_path) == ["a.json"]


def test_threads_that_replace_one_file_disturb_neither_each_other_nor_a_reader(
    tmp_path: Path,
) -> None:
    path = tmp_path / "status.json"
    contents = {letter * 20_000 for letter in "ab"}
    replace_file(path, "a" * 20_000)
    done = threading.Event()
    torn: list[int] = []

    def read() -> None:
        while not done.is_set():
            if (found := path.read_text()) not in contents:
                torn.append(len(found))

    def write(content: str) -> None:
        for _ in range(300):
            replace_file(path, content)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(write, sorted(contents)))
    finally:
        done.set()
        reader.join()
    assert torn == []
    assert names(tmp_path) == ["status.json"]


def test_a_file_that_cannot_be_replaced_stays_and_nothing_is_left_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    replace_file(path, "old")

    def full(_descriptor: int) -> None:
        """A fault: the disk is full."""
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        replace_file(path, "new", durable=True)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".tmp-a.json.12-ab", ".tmp-b.json.12-ab", "a.json", "a.json.12-ab"):
        (tmp_path / name).write_text("half")
    remove_leftovers(tmp_path / "a.json")
    assert names(tmp_path) == [".tmp-b.json.12-ab", "a.json", "a.json.12-ab"]
