"""The weights' way at size, against a bare gRPC stream and against a file copy; peak memory.

Two processes, a learner's end and an actor's, with a model whose payload is 512 MiB. The path is
the product's: the weights are copied into a snapshot (as bfloat16, or as they are), digested,
announced, sent or written, received into one buffer, compared with their digests, and loaded into a
policy. The bare stream carries as many frames of the same size, made beforehand, between the same
two processes, and nobody looks into them. The copy is `shutil.copyfile` of a file of that size in
the directory that the files of weights are in. It begins when old versions are removed for new
ones: before, files take memory that this machine has not used yet, which is ten times as slow.

Rounds of both are in turn; a figure is the median. Memory is the peak of the resident set above
what it was with the model built and nothing sent, in payloads.
"""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from vaco.weights_volume import KEPT_VERSIONS

from benchmarks.weights_ends import PAYLOAD_BYTES, receive, serve

ROUNDS = 5
# An update of such a model takes longer than that; publications that overlap are measured apart.
_PAUSE_SECONDS = 1.0
_STUCK_SECONDS = 120.0


def measure() -> dict[str, object]:
    """Return MB/s, ratios and peak memory of both transports."""
    figures: dict[str, object] = {"weights.payloadMegabytes": round(PAYLOAD_BYTES / 1e6)}
    for dtype in ("bfloat16", "float32"):
        figures |= _stream(dtype)
    return figures | _filesystem()


def _stream(dtype: str) -> dict[str, object]:
    """Measure the stream in turn with the bare one, then with publications that overlap."""
    with _Ends(dtype, None) as ends:
        ends.version()
        rounds = []
        for _ in range(ROUNDS):
            raw = ends.raw()
            time.sleep(_PAUSE_SECONDS)
            rounds.append({**ends.version(), "raw": raw})
        peaks = ends.peaks()
        ends.overlapping(5)
        overlapping = ends.peaks()
    rate = _median_rate(rounds, "announced", "whole")
    return {
        f"weights.stream.overRawGrpc.{dtype}": round(
            median(r["raw"] / (r["whole"] - r["announced"]) for r in rounds), 3
        ),
        f"weights.stream.megabytesPerSecond.{dtype}": rate,
        f"weights.stream.rawMegabytesPerSecond.{dtype}": round(
            PAYLOAD_BYTES / 1e6 / median(r["raw"] for r in rounds)
        ),
        f"weights.stream.secondsFromUpdateToLoaded.{dtype}": _seconds(rounds, "begun", "loaded"),
        f"weights.stream.secondsOfTrainingThread.{dtype}": _seconds(rounds, "begun", "copied"),
        f"weights.stream.secondsOfLoading.{dtype}": _seconds(rounds, "whole", "loaded"),
        f"weights.stream.learnerPeakPayloads.{dtype}": peaks[0],
        f"weights.stream.actorPeakPayloads.{dtype}": peaks[1],
        f"weights.stream.overlapping.learnerPeakPayloads.{dtype}": overlapping[0],
        f"weights.stream.overlapping.actorPeakPayloads.{dtype}": overlapping[1],
    }


def _filesystem() -> dict[str, object]:
    """Measure the files in turn with a copy of one."""
    with (
        tempfile.TemporaryDirectory(prefix="vaco-bench-") as directory,
        _Ends("bfloat16", directory) as ends,
    ):
        for _ in range(KEPT_VERSIONS + 2):
            ends.version()
        rounds = []
        for _ in range(ROUNDS):
            copy = _copy(Path(directory))
            rounds.append({**ends.version(), "copy": copy})
        peaks = ends.peaks()
    return {
        "weights.filesystem.overFileCopy": round(
            median(r["copy"] / (r["whole"] - r["copied"]) for r in rounds), 3
        ),
        "weights.filesystem.megabytesPerSecond": _median_rate(rounds, "copied", "whole"),
        "weights.filesystem.readMegabytesPerSecond": _median_rate(rounds, "announced", "whole"),
        "weights.filesystem.copyMegabytesPerSecond": round(
            PAYLOAD_BYTES / 1e6 / median(r["copy"] for r in rounds)
        ),
        "weights.filesystem.learnerPeakPayloads": peaks[0],
        "weights.filesystem.actorPeakPayloads": peaks[1],
    }


def _copy(directory: Path) -> float:
    """Return the seconds that it takes to copy a file that was just written."""
    source, copy = directory / "source", directory / "copy"
    if not source.exists():
        source.write_bytes(bytes(range(256)) * (PAYLOAD_BYTES // 256))
    copy.unlink(missing_ok=True)
    began = time.perf_counter()
    shutil.copyfile(source, copy)
    return time.perf_counter() - began


def _seconds(rounds: list[dict[str, float]], begin: str, end: str) -> float:
    return round(median(r[end] - r[begin] for r in rounds), 2)


def _median_rate(rounds: list[dict[str, float]], begin: str, end: str) -> int:
    return round(PAYLOAD_BYTES / 1e6 / median(r[end] - r[begin] for r in rounds))


class _Ends:
    """The two processes."""

    def __init__(self, dtype: str, directory: str | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._learner, far = context.Pipe()
        self._processes = [context.Process(target=serve, args=(dtype, directory, far), daemon=True)]
        self._processes[0].start()
        port = _receive(self._learner)
        self._actor, far = context.Pipe()
        self._processes.append(
            context.Process(target=receive, args=(dtype, directory, port, far), daemon=True)
        )
        self._processes[1].start()
        _receive(self._actor)

    def __enter__(self) -> _Ends:
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self._actor, self._learner):
            end.send("stop")
        for process in self._processes:
            process.join(_STUCK_SECONDS)

    def version(self) -> dict[str, float]:
        """Publish a version; return when what had happened, in seconds of the monotonic clock."""
        self._actor.send("next")
        self._learner.send("publish")
        return {**_receive(self._learner), **_receive(self._actor)}

    def overlapping(self, versions: int) -> None:
        """Publish versions without waiting for the actor, which loads what it gets."""
        self._actor.send("until settled")
        for _ in range(versions):
            self._learner.send("publish")
            _receive(self._learner)
        self._learner.send("newest")
        self._actor.send(_receive(self._learner))
        _receive(self._actor)

    def raw(self) -> float:
        """Return the seconds of the bare stream."""
        self._actor.send("raw")
        seconds: float = _receive(self._actor)
        return seconds

    def peaks(self) -> tuple[float, float]:
        """Return the peak memory of learner and actor since the last time, in payloads."""
        for end in (self._learner, self._actor):
            end.send("peak")
        return _receive(self._learner), _receive(self._actor)


def _receive(end: Connection) -> Any:
    assert end.poll(_STUCK_SECONDS)
    return end.recv()


if __name__ == "__main__":
    for key, value in measure().items():
        print(f"{key:60} {value}", flush=True)
