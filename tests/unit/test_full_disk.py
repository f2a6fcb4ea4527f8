"""What a learner keeps for people may fail to be written, and training goes on.

The kernel injects the fault: while the limit holds, no file of this process can grow. (See also
`test_journal.py`, and `test_learner_process.py` for the whole program.)
"""

import logging
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from vaco_learner.claims import Claims
from vaco_learner.ledger import Ledger
from vaco_learner.metrics import TensorBoard
from vaco_learner.progress import Progress
from vaco_learner.status import StatusFile, StatusSource


@contextmanager
def full_disk() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_the_status_file_stays_as_it_was_and_is_written_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    progress, path = Progress(), tmp_path / "learner-status.json"
    source = StatusSource("job-uid", progress, Ledger(), "127.0.0.1:1", str)
    file = StatusFile(path, source, Claims(tmp_path, "job-uid").stake(1))
    file.write()
    before = path.read_text()
    progress.checkpointed(7)
    with full_disk(), caplog.at_level(logging.ERROR):
        for _ in range(3):
            file.write()
    assert len(caplog.records) == 1, "said once"
    assert path.read_text() == before
    file.write()
    assert '"checkpointVersion": "7"' in path.read_text()


def test_tensorboard_files_end_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = threading.Event()
    monkeypatch.setattr(threading, "excepthook", lambda _: died.set())
    seconds = iter(range(0, 10_000, 2))
    board = TensorBoard(tmp_path, clock=lambda: float(next(seconds)))
    board.write({"return": 1.0}, 1)
    with full_disk():
        for step in range(2, 3_000):
            board.write({"return": float(step), "loss": None}, step)
    assert "TensorBoard files end here" in caplog.text
    assert died.wait(10), "the writer's own thread"
    board.write({"return": 1.0}, 3_000)
    board.close()
