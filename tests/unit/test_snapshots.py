"""How many versions are in memory, and when a buffer is written again."""

import pytest
from vaco.weights import SPARE_BYTES
from vaco_learner.snapshots import STALLED_SECONDS, Lease, Snapshot, Snapshots

SMALL = 1000
MIDDLE = SPARE_BYTES // 4
LARGE = SPARE_BYTES + 1


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def snapshots(clock: Clock) -> Snapshots:
    return Snapshots(clock)


def published(snapshots: Snapshots, size: int) -> Snapshot:
    snapshot = snapshots.take(size)
    assert snapshot is not None
    assert len(snapshot.memory) == size
    snapshots.publish(snapshot)
    return snapshot


def leased(snapshots: Snapshots, snapshot: Snapshot) -> Lease:
    lease = snapshots.lease(snapshot, snapshot.publication)
    assert lease is not None
    return lease


@pytest.mark.parametrize("size", [SMALL, MIDDLE, LARGE])
def test_a_buffer_is_used_again_when_nobody_reads_it(snapshots: Snapshots, size: int) -> None:
    first = published(snapshots, size)
    lease = leased(snapshots, first)
    second = published(snapshots, size)
    assert second is not first
    snapshots.end(lease)
    assert published(snapshots, size) is first
    assert len(snapshots) == 2


def test_a_large_version_that_everyone_has_makes_room_for_the_next(
    snapshots: Snapshots, clock: Clock
) -> None:
    first = published(snapshots, LARGE)
    for _ in range(5):
        snapshots.end(leased(snapshots, first))
        clock.now += 1.5
        assert published(snapshots, LARGE) is first
    assert len(snapshots) == 1


def test_a_version_that_is_being_written_again_cannot_be_read(
    snapshots: Snapshots, clock: Clock
) -> None:
    first = published(snapshots, LARGE)
    clock.now += 1.5
    assert snapshots.take(LARGE) is first
    assert snapshots.lease(first, first.publication) is None


def test_a_version_that_was_written_over_cannot_be_read_for_the_one_before(
    snapshots: Snapshots, clock: Clock
) -> None:
    """Its buffer is the newest again, with other weights than the stream has a header for."""
    first = published(snapshots, LARGE)
    before = first.publication
    clock.now += 1.5
    assert published(snapshots, LARGE) is first
    assert snapshots.lease(first, before) is None
    assert snapshots.lease(first, first.publication) is not None


def test_a_large_version_just_published_waits_for_its_readers(snapshots: Snapshots) -> None:
    first = published(snapshots, LARGE)
    assert snapshots.take(LARGE) is not first


@pytest.mark.parametrize(("size", "most"), [(SMALL, 16), (MIDDLE, 4), (LARGE, 2)])
def test_there_are_never_more_buffers_and_no_reader_loses_what_it_reads(
    snapshots: Snapshots, size: int, most: int
) -> None:
    leases = []
    while (snapshot := snapshots.take(size)) is not None:
        snapshots.publish(snapshot)
        leases.append(leased(snapshots, snapshot))
    assert len(snapshots) == len(leases) == most
    assert not any(lease.lost for lease in leases)
    snapshots.end(leases[1 if most > 2 else 0])
    assert snapshots.take(size) is not None


def test_a_stream_that_stalls_does_not_hold_up_publication(
    snapshots: Snapshots, clock: Clock
) -> None:
    stalled = leased(snapshots, published(snapshots, LARGE))
    moving = leased(snapshots, published(snapshots, LARGE))
    assert snapshots.take(LARGE) is None
    clock.now += STALLED_SECONDS
    moving.moved()
    taken = snapshots.take(LARGE)
    assert taken is stalled.snapshot
    assert stalled.lost
    assert not moving.lost
    snapshots.end(stalled)
    snapshots.publish(taken)
    snapshots.end(moving)
    assert len(snapshots) == 2


def test_one_reader_that_moves_keeps_the_buffer_for_all(snapshots: Snapshots, clock: Clock) -> None:
    first = published(snapshots, LARGE)
    leases = [leased(snapshots, first) for _ in range(3)]
    leased(snapshots, published(snapshots, LARGE))
    clock.now += STALLED_SECONDS / 2
    leases[1].moved()
    leases[2].moved()
    clock.now += STALLED_SECONDS / 2
    newest = snapshots.take(LARGE)
    assert newest is None or newest is not first
    assert not any(lease.lost for lease in leases)


def test_what_is_not_published_is_free_again(snapshots: Snapshots) -> None:
    snapshot = snapshots.take(SMALL)
    assert snapshot is not None
    snapshots.give_back(snapshot)
    assert snapshots.take(SMALL) is snapshot
    assert snapshots.lease(snapshot, snapshot.publication) is None
