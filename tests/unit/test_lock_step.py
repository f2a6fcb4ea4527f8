"""When the one actor of a synchronous job may go on."""

from vaco.v1 import trajectory_pb2 as pb
from vaco_actor.lock_step import LockStep
from vaco_actor.outbox import Fate

TRAINED, STALE = Fate(30, pb.FATE_TRAINED), Fate(30, pb.FATE_STALE)


def test_a_batch_is_made_and_no_more() -> None:
    step = LockStep(50)
    assert step.wait(0)
    step.sent(30)
    assert step.wait(0)
    step.sent(30)
    assert not step.wait(0)
    assert not step.trained


def test_it_goes_on_when_all_of_the_batch_was_trained() -> None:
    step = LockStep(50)
    step.sent(30)
    step.sent(30)
    step.decided(TRAINED)
    assert not step.wait(0)
    step.decided(TRAINED)
    assert step.wait(0)
    assert step.trained
    step.begin()
    assert not step.trained
    assert step.wait(0)
    step.sent(30)
    step.sent(30)
    assert not step.wait(0)


def test_what_was_not_trained_is_made_up_for() -> None:
    step = LockStep(50)
    step.sent(30)
    step.sent(30)
    step.decided(STALE)
    assert step.wait(0)
    assert not step.trained
    step.sent(30)
    assert not step.wait(0)


def test_nothing_is_made_up_for_once_the_update_began() -> None:
    step = LockStep(50)
    for _ in range(2):
        step.sent(30)
    step.decided(TRAINED)
    step.decided(STALE)
    assert step.wait(0)
    assert step.trained


def test_nothing_new_is_made_while_the_rest_of_a_batch_is_undecided() -> None:
    step = LockStep(70)
    for _ in range(3):
        step.sent(30)
    step.decided(TRAINED)
    step.decided(STALE)
    assert not step.wait(0)
    step.decided(TRAINED)
    assert step.trained
