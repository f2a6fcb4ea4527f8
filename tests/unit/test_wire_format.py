"""The wire format's own reader and writer, against the generated code."""

from __future__ import annotations

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vaco.v1 import trajectory_pb2 as pb
from vaco.wire import MAX_FIELDS, WireError, field_key, field_number, split, varint

ACTIONS = field_number(pb.Trajectory, "actions")
uint64 = st.integers(0, 2**64 - 1)


@given(uint64)
def test_varint_is_protobufs(value: int) -> None:
    key = varint(field_number(pb.Ack, "sequence") << 3)
    assert pb.Ack.FromString(key + varint(value)).sequence == value


@pytest.mark.parametrize("value", [1, 127, 128, 2**32, 2**64 - 1])
def test_varint_is_as_short_as_protobufs(value: int) -> None:
    assert b"\x08" + varint(value) == pb.Ack(sequence=value).SerializeToString()


@given(st.text(max_size=20), uint64, st.floats(), st.binary(max_size=300), st.binary())
def test_split_takes_one_field_out_and_leaves_the_rest(
    name: str, version: int, seconds: float, data: bytes, around: bytes
) -> None:
    message = pb.Trajectory(
        id=pb.FragmentId(actor_id=name, sequence=version),
        min_version=version,
        actions=pb.Tensor(shape=[3, 300], data=data),
        rewards=pb.Tensor(data=data),
        rollout_seconds=seconds,
    )
    serialised = message.SerializeToString()
    span = (len(around), len(around) + len(serialised))

    rest, found = split(around + serialised + around, span, {ACTIONS})

    [(number, (start, end))] = found
    assert number == ACTIONS
    assert (around + serialised + around)[start:end] == message.actions.SerializeToString()
    message.ClearField("actions")
    assert rest == message.SerializeToString()


def test_split_finds_a_field_that_is_there_twice_both_times() -> None:
    once = field_key(pb.Trajectory, "actions") + b"\x01x"
    assert split(once * 2, (0, len(once) * 2), {ACTIONS}) == (b"", [(8, (2, 3)), (8, (5, 6))])


def test_fields_of_a_newer_schema_are_left_to_the_generated_code() -> None:
    unknown = b"".join(
        (
            varint(900 << 3 | 0) + varint(2**63),
            varint(901 << 3 | 1) + bytes(8),
            varint(902 << 3 | 2) + b"\x02ab",
            varint(903 << 3 | 5) + bytes(4),
        )
    )
    serialised = unknown + pb.Trajectory(length=4).SerializeToString() + unknown
    rest, found = split(serialised, (0, len(serialised)), {ACTIONS})
    assert found == []
    assert pb.Trajectory.FromString(rest).length == 4


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x42\x05abcd", "reaches beyond"),
        (b"\x42", "does not end"),
        (b"\x42\xff", "does not end"),
        (b"\xff" * 11, "does not end"),
        (b"\x42" + b"\xff" * 9 + b"\x01", "reaches beyond"),
        (b"\x08" + b"\x80" * 11 + b"\x00", "does not end"),
        (b"\x41abc", "reaches beyond"),
        (b"\x43", "wire type 3"),
        (b"\x08\x01" * (MAX_FIELDS + 1), "more than"),
    ],
)
def test_what_is_no_message_is_refused(data: bytes, problem: str) -> None:
    with pytest.raises(WireError, match=problem):
        split(data, (0, len(data)), {ACTIONS})


def test_a_field_may_not_reach_beyond_its_message_into_the_next() -> None:
    with pytest.raises(WireError, match="reaches beyond"):
        split(b"\x42\x04abcd", (0, 4), {ACTIONS})


@given(st.binary(max_size=400))
def test_any_bytes_are_split_or_refused(data: bytes) -> None:
    try:
        rest, found = split(data, (0, len(data)), {1, ACTIONS, 300})
    except WireError:
        return
    assert all(0 <= start <= end <= len(data) for _, (start, end) in found)
    assert len(rest) + sum(end - start for _, (start, end) in found) <= len(data)


def test_a_length_that_is_a_lie_allocates_nothing() -> None:
    lie = b"\x42" + varint(2**40)
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            split(lie, (0, len(lie)), {ACTIONS})
        assert tracemalloc.get_traced_memory()[1] < 1 << 16
    finally:
        tracemalloc.stop()
