"""An actor that knows only its pod's name has numbers of its own."""

import time

import pytest
from vaco.errors import UserError
from vaco_actor.identity import ActorIdentity

POD = {"POD_NAME": "pole-actors-6f7c9d5b8-x2x9q"}


def test_what_is_given_counts() -> None:
    assert ActorIdentity.of("actor-3", 3, 7, POD) == ActorIdentity("actor-3", 3, 7)


def test_a_pod_is_called_by_its_name_and_numbered_by_it() -> None:
    first, second = ActorIdentity.of(None, None, 1, POD), ActorIdentity.of(None, None, 2, POD)
    assert first.actor_id == POD["POD_NAME"]
    assert first.index == second.index, "the same in every life"
    names = [f"pole-actors-6f7c9d5b8-{number:05}" for number in range(4096)]
    assert len({ActorIdentity.of(name, None, 1, {}).index for name in names}) == 4096


def test_each_start_has_a_greater_incarnation() -> None:
    began = time.time() * 1000
    first = ActorIdentity.of(None, None, None, POD).incarnation
    assert began - 1 <= first <= time.time() * 1000
    while time.time() * 1000 < first + 2:
        pass
    assert ActorIdentity.of(None, None, None, POD).incarnation > first


def test_an_actor_without_a_name_is_told_what_to_give() -> None:
    with pytest.raises(UserError, match=r"--actor-id.*POD_NAME"):
        ActorIdentity.of(None, None, None, {})
