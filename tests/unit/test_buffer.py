"""The buffer: order, bounds and waiting."""

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from vaco.trajectory import Fragment, FragmentId
from vaco_learner.buffer import BufferFullError, FragmentBuffer

LONG = 30.0
BYTES = 1 << 20


def fragment(sequence: int, samples: int = 4, invalid: int = 0) -> Fragment:
    steps = samples + invalid
    valid = np.ones((steps, 1), np.bool_)
    valid[samples:] = False
    zeros = np.zeros((steps, 1), np.float32)
    return Fragment(
        id=FragmentId("job", "actor-0", 1, sequence),
        weights_incarnation=1,
        observations={"observation": np.zeros((steps + 1, 1, 2), np.float32)},
        actions=np.zeros((steps, 1), np.int64),
        rewards=zeros,
        terminated=zeros.astype(np.bool_),
        truncated=zeros.astype(np.bool_),
        valid=valid,
        behaviour_logp=zeros,
        versions=np.zeros(steps, np.int64),
        episode_start=np.zeros((steps + 1, 1), np.bool_),
        final_observations={},
        final_steps=np.zeros(0, np.int32),
        core_state={},
        return_carry=np.zeros(1, np.float32),
        episode_returns=np.zeros(0, np.float32),
        episode_lengths=np.zeros(0, np.int32),
        rollout_seconds=0.1,
    )


def sequences(fragments: list[Fragment]) -> list[int]:
    return [item.id.sequence for item in fragments]


class Background:
    """Runs a call in a thread and keeps what it returned."""

    def __init__(self, call: Callable[[], list[Fragment]]) -> None:
        self.taken: list[Fragment] = []
        self._call = call
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.taken = self._call()

    def join(self) -> None:
        self._thread.join(LONG / 3)
        assert not self._thread.is_alive(), "nobody woke it"


def test_takes_the_oldest_and_no_more_than_it_must() -> None:
    buffer = FragmentBuffer(100, 100, BYTES)
    for number in (1, 2, 3, 4):
        buffer.put(fragment(number, samples=4))
    assert sequences(buffer.take(6, timeout=0)) == [1, 2]
    assert buffer.samples == 8
    assert sequences(buffer.take(8, timeout=0)) == [3, 4]


def test_only_valid_steps_count() -> None:
    buffer = FragmentBuffer(100, 100, BYTES)
    buffer.put(fragment(1, samples=4, invalid=10))
    assert buffer.samples == 4
    assert buffer.take(5, timeout=0) == []


def test_gives_nothing_when_too_little_comes_in_time() -> None:
    buffer = FragmentBuffer(100, 100, BYTES)
    buffer.put(fragment(1, samples=4))
    began = time.monotonic()
    assert buffer.take(5, timeout=0.05) == []
    assert time.monotonic() - began >= 0.05
    assert len(buffer) == 1


def test_a_put_wakes_who_waits() -> None:
    buffer = FragmentBuffer(100, 100, BYTES)
    waiter = Background(lambda: buffer.take(8, timeout=LONG))
    buffer.put(fragment(1))
    buffer.put(fragment(2))
    waiter.join()
    assert sequences(waiter.taken) == [1, 2]


def test_who_waits_is_woken_when_the_buffer_is_full_of_too_little() -> None:
    buffer = FragmentBuffer(100, 3, BYTES)
    waiter = Background(lambda: buffer.take(50, timeout=LONG))
    for number in (1, 2, 3):
        buffer.put(fragment(number))
    waiter.join()
    assert sequences(waiter.taken) == [1, 2, 3]


def test_is_bounded_in_samples() -> None:
    buffer = FragmentBuffer(10, 100, BYTES)
    for number in (1, 2, 3):
        assert buffer.has_room
        buffer.put(fragment(number, samples=4))
    assert not buffer.has_room
    with pytest.raises(BufferFullError):
        buffer.put(fragment(4))


def test_is_bounded_in_fragments_and_then_gives_what_it_has() -> None:
    """Fragments of few samples must neither pile up nor block training for good."""
    buffer = FragmentBuffer(10, 3, BYTES)
    for number in (1, 2, 3):
        buffer.put(fragment(number, samples=1, invalid=4))
    assert not buffer.has_room
    assert sequences(buffer.take(5, timeout=LONG)) == [1, 2, 3]


def test_is_bounded_in_bytes_and_then_gives_what_it_has() -> None:
    """Fragments of few samples can be large all the same."""
    each = fragment(1, samples=1, invalid=99).nbytes
    assert each > 100 * (2 * 4 + 8 + 4 + 4), "observation, action, reward, log-density"
    buffer = FragmentBuffer(1_000, 1_000, 2 * each)
    for number in (1, 2):
        assert buffer.has_room
        buffer.put(fragment(number, samples=1, invalid=99))
    assert not buffer.has_room
    with pytest.raises(BufferFullError):
        buffer.put(fragment(3))
    assert sequences(buffer.take(500, timeout=LONG)) == [1, 2]
    assert buffer.has_room


def test_tells_when_there_is_room_again() -> None:
    told: list[int] = []
    buffer = FragmentBuffer(8, 100, BYTES, on_room=lambda: told.append(buffer.samples))
    buffer.put(fragment(1))
    buffer.take(4, timeout=0)
    assert told == []
    buffer.put(fragment(2))
    buffer.put(fragment(3))
    buffer.take(4, timeout=0)
    assert told == [4]


@pytest.mark.parametrize("wanted", [0, -1, 11])
def test_a_take_that_can_never_succeed_is_refused(wanted: int) -> None:
    with pytest.raises(ValueError, match="wanted of a buffer of 10"):
        FragmentBuffer(10, 100, BYTES).take(wanted, timeout=LONG)


def test_nothing_is_lost_between_threads() -> None:
    """One thread puts whenever there is room, another takes: all arrives once and in order."""
    room = threading.Semaphore(0)
    buffer = FragmentBuffer(12, 100, BYTES, on_room=room.release)

    def produce() -> None:
        for number in range(1, 301):
            while not buffer.has_room:
                room.acquire(timeout=0.01)
            buffer.put(fragment(number, samples=1 + number % 4))

    producer = threading.Thread(target=produce)
    producer.start()
    taken: list[int] = []
    while producer.is_alive():
        taken += sequences(buffer.take(6, timeout=0.01))
    producer.join()
    while rest := buffer.take(1, timeout=0):
        taken += sequences(rest)
    assert taken == list(range(1, 301))
