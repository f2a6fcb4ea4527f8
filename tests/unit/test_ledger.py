"""The ledger balances at all times, under any bookings from any threads."""

import threading

import pytest
from vaco_learner.ledger import Fate, Ledger, LedgerCounts, LedgerError


def test_samples_move_from_queued_to_their_fate() -> None:
    ledger = Ledger()
    ledger.arrived(100)
    ledger.arrived(7, Fate.REJECTED)
    ledger.arrived(5, Fate.DUPLICATE)
    ledger.arrived(3, Fate.STALE)
    ledger.decided(60, Fate.TRAINED)
    ledger.decided(30, Fate.STALE)
    ledger.filtered(12)
    assert ledger.counts() == LedgerCounts(
        received=115, queued=10, trained=60, stale=33, duplicate=5, rejected=7, filtered=12
    )


def test_more_cannot_be_decided_than_is_queued() -> None:
    ledger = Ledger()
    ledger.arrived(10)
    with pytest.raises(LedgerError):
        ledger.decided(11, Fate.TRAINED)
    assert ledger.counts() == LedgerCounts(received=10, queued=10)


@pytest.mark.parametrize("fate", [Fate.DUPLICATE, Fate.REJECTED])
def test_a_queued_sample_is_trained_or_stale(fate: Fate) -> None:
    ledger = Ledger()
    ledger.arrived(10)
    with pytest.raises(LedgerError):
        ledger.decided(10, fate)


def test_nothing_is_trained_as_it_arrives() -> None:
    with pytest.raises(LedgerError):
        Ledger().arrived(1, Fate.TRAINED)


@pytest.mark.parametrize("samples", [-1, -100])
def test_negative_amounts_are_refused(samples: int) -> None:
    ledger = Ledger(LedgerCounts(received=200, queued=100, trained=100))
    for book in (
        lambda: ledger.arrived(samples),
        lambda: ledger.decided(samples, Fate.STALE),
    ):
        with pytest.raises(LedgerError):
            book()


def test_more_cannot_be_filtered_than_trained() -> None:
    ledger = Ledger(LedgerCounts(received=10, trained=10, filtered=9))
    with pytest.raises(LedgerError):
        ledger.filtered(2)


def test_unbalanced_totals_cannot_be_made() -> None:
    with pytest.raises(LedgerError):
        LedgerCounts(received=10, queued=4, trained=5)


def test_a_checkpoint_has_not_received_what_was_queued() -> None:
    counts = LedgerCounts(received=30, queued=10, trained=15, stale=5, filtered=2)
    assert counts.without_queued() == LedgerCounts(received=20, trained=15, stale=5, filtered=2)


def test_readers_never_see_it_out_of_balance() -> None:
    """Four writers book ten thousand times; whoever reads constructs balanced counts or raises."""
    ledger = Ledger()
    done = threading.Event()
    unbalanced: list[LedgerCounts] = []

    def write() -> None:
        for _ in range(2_500):
            ledger.arrived(3)
            ledger.arrived(1, Fate.REJECTED)
            ledger.decided(2, Fate.TRAINED)
            ledger.decided(1, Fate.STALE)

    def read() -> None:
        while not done.is_set():
            counts = ledger.counts()
            parts = counts.trained + counts.stale + counts.duplicate + counts.rejected
            if counts.received != counts.queued + parts:
                unbalanced.append(counts)

    writers = [threading.Thread(target=write) for _ in range(4)]
    reader = threading.Thread(target=read)
    for thread in (*writers, reader):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    reader.join()
    assert not unbalanced
    assert ledger.counts() == LedgerCounts(
        received=40_000, trained=20_000, stale=10_000, rejected=10_000
    )
