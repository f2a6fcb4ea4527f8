"""Weights arrive whole, or not at all."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vaco.incoming_weights import WeightsAssembler
from vaco.v1 import weights_pb2 as pb
from vaco.weights import (
    FRAME_BYTES,
    SHARD_BYTES,
    MalformedWeights,
    Weights,
    behind_what_is_held,
    new_buffer,
    weights_frames,
    weights_header,
)

SHARD = 4


def announced(payload: bytes = b"payload", **replaced: object) -> pb.WeightsHeader:
    """A header with tiny shards: payl, oad."""
    header = weights_header(Weights(1, 3, payload, "{}"), shard_bytes=SHARD)
    for name, value in replaced.items():
        setattr(header, name, value)
    return header


def header(payload: bytes = b"payload", **replaced: object) -> bytes:
    return pb.WatchWeightsResponse(header=announced(payload, **replaced)).SerializeToString()


def data(piece: bytes) -> bytes:
    return pb.WatchWeightsResponse(data=piece).SerializeToString()


def whole(weights: Weights, shard_bytes: int = SHARD_BYTES) -> list[bytes]:
    return list(weights_frames(weights_header(weights, shard_bytes=shard_bytes), weights.payload))


@given(st.integers(1, 2**64 - 1), st.integers(0, 2**64 - 1), st.text(max_size=50))
def test_weights_survive_the_wire(incarnation: int, version: int, spaces: str) -> None:
    weights = Weights(incarnation, version, b"payload", spaces)
    assembler = WeightsAssembler()
    *pieces, arrived = [assembler.add(message) for message in whole(weights)]
    assert pieces == [None]
    assert arrived == weights


@pytest.mark.parametrize(
    "size", [1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 2 * SHARD_BYTES + 1]
)
def test_the_payload_goes_in_pieces_of_at_most_a_mebibyte(size: int) -> None:
    weights = Weights(1, 2, random.Random(size).randbytes(size), "{}")
    messages = whole(weights)
    pieces = [pb.WatchWeightsResponse.FromString(m).data for m in messages[1:]]
    assert [len(piece) for piece in pieces[:-1]] == [FRAME_BYTES] * (len(pieces) - 1)
    assert 0 < len(pieces[-1]) <= FRAME_BYTES
    assembler = WeightsAssembler()
    assert [assembler.add(m) for m in messages] == [None] * (len(messages) - 1) + [weights]


def test_frames_are_made_one_at_a_time() -> None:
    payload = bytearray(3 * FRAME_BYTES)
    frames = weights_frames(weights_header(Weights(1, 1, payload, "")), payload)
    next(frames)
    next(frames)
    payload[FRAME_BYTES:] = b"\1" * (2 * FRAME_BYTES)
    assert b"\0" not in pb.WatchWeightsResponse.FromString(next(frames)).data


def test_a_version_takes_one_buffer_and_none_before_it_is_checked() -> None:
    taken: list[memoryview] = []

    def take(size: int) -> memoryview:
        taken.append(new_buffer(size))
        return taken[-1]

    assembler = WeightsAssembler(100, take)
    with pytest.raises(MalformedWeights, match=r"size: 101 is not in 1\.\.100"):
        assembler.add(header(b"x" * 101))
    assert not taken
    messages = [header(b"x" * 99), *(data(b"x" * 9) for _ in range(11))]
    arrived = [assembler.add(message) for message in messages][-1]
    assert [len(buffer) for buffer in taken] == [99]
    assert arrived is not None
    taken[0][:5] = b"alias"
    assert bytes(arrived.payload[:6]) == b"aliasx", "the payload is the buffer, not a copy of it"


def test_released_weights_cannot_be_read() -> None:
    weights = Weights(1, 1, new_buffer(10), "")
    weights.release()
    with pytest.raises(ValueError, match="released"):
        bytes(weights.payload)


def test_a_header_in_the_middle_starts_over() -> None:
    assembler = WeightsAssembler()
    assert assembler.add(header(b"an older version")) is None
    assert assembler.add(data(b"an older")) is None
    assert assembler.add(header(b"newer", version=4)) is None
    arrived = assembler.add(data(b"newer"))
    assert arrived is not None
    assert (arrived.version, arrived.payload) == (4, b"newer")


def test_versions_follow_each_other() -> None:
    assembler = WeightsAssembler()
    for version in range(3):
        assert assembler.add(header(version=version)) is None
        arrived = assembler.add(data(b"payload"))
        assert arrived is not None
        assert arrived.version == version


@pytest.mark.parametrize("sent", [0, 3, 4, 6, 8, 11, 12, 13])
def test_a_stream_that_breaks_resumes_at_the_last_whole_shard(sent: int) -> None:
    payload = bytes(range(14))
    assembler = WeightsAssembler()
    assembler.add(header(payload))
    if sent:
        assembler.add(data(payload[:sent]))
    assert assembler.arriving is not None
    assert assembler.arriving.shards == sent // SHARD
    request = pb.WatchWeightsRequest(
        held_incarnation=1, held_version=3, held_shards=assembler.arriving.shards
    )
    resumed = behind_what_is_held(announced(payload), request)
    messages = list(weights_frames(resumed, payload))
    assembler.restart()
    arrived = [assembler.add(message) for message in messages][-1]
    assert arrived is not None
    assert arrived.payload == payload
    again = sum(len(pb.WatchWeightsResponse.FromString(m).data) for m in messages)
    assert again == len(payload) - sent // SHARD * SHARD


@pytest.mark.parametrize(
    "held",
    [
        {"held_incarnation": 1, "held_version": 4, "held_shards": 1},
        {"held_incarnation": 2, "held_version": 3, "held_shards": 1},
        {"held_incarnation": 1, "held_version": 3, "held_shards": 2},
        {"held_incarnation": 1, "held_version": 3, "held_shards": 2**32 - 1},
    ],
)
def test_shards_of_another_version_or_beyond_the_end_count_for_nothing(
    held: dict[str, int],
) -> None:
    request = pb.WatchWeightsRequest(**held)
    assert behind_what_is_held(announced(), request).first_shard == 0


def test_a_flipped_bit_costs_one_shard() -> None:
    assembler = WeightsAssembler()
    assembler.add(header())
    assembler.add(data(b"payl"))
    with pytest.raises(MalformedWeights, match="shard 1 has another digest"):
        assembler.add(data(b"oae"))
    assembler.add(header(first_shard=1))
    arrived = assembler.add(data(b"oad"))
    assert arrived is not None
    assert arrived.payload == b"payload"


def test_the_same_version_with_other_digests_does_not_go_on() -> None:
    """A learner never does that; if it did, the two halves would not belong together."""
    assembler = WeightsAssembler()
    assembler.add(header(b"payload"))
    assembler.add(data(b"payl"))
    with pytest.raises(MalformedWeights, match="first_shard: 1, but nothing is held"):
        assembler.add(header(b"payload!", first_shard=1))


def rejected(*messages: bytes) -> str:
    """The field for which the last message is refused; those before it are taken."""
    assembler = WeightsAssembler(max_bytes=100)
    for message in messages[:-1]:
        assert assembler.add(message) is None
    with pytest.raises(MalformedWeights) as refused:
        assembler.add(messages[-1])
    with pytest.raises(MalformedWeights, match="without a header"):
        assembler.add(data(b"payload"))
    assert assembler.add(header(version=9)) is None
    assert assembler.add(data(b"payload")) is not None
    return refused.value.field


BOTH = header() + data(b"payload")
MALFORMED: dict[str, tuple[Callable[[], str], str]] = {
    "nothing": (lambda: rejected(header(size=0)), "size"),
    "too much": (lambda: rejected(header(size=101)), "size"),
    "far too much": (lambda: rejected(header(size=2**64 - 1)), "size"),
    "incarnation": (lambda: rejected(header(incarnation=0)), "incarnation"),
    "no shards": (lambda: rejected(header(shard_bytes=0)), "shard_bytes"),
    "huge shards": (lambda: rejected(header(shard_bytes=2**32 - 1)), "shard_bytes"),
    "other shards": (lambda: rejected(header(shard_bytes=3)), "digests"),
    "short digests": (lambda: rejected(header(digests=b"short")), "digests"),
    "no digests": (lambda: rejected(header(digests=b"")), "digests"),
    "pickle": (lambda: rejected(header(format="pickle")), "format"),
    "spaces": (lambda: rejected(header(spaces_json="x" * ((1 << 20) + 1))), "spaces_json"),
    "a long name": (lambda: rejected(header(file="x" * 256)), "file"),
    "held by nobody": (lambda: rejected(header(first_shard=1)), "first_shard"),
    "held by less": (
        lambda: rejected(header(), data(b"pay"), header(first_shard=1)),
        "first_shard",
    ),
    "neither": (lambda: rejected(b""), "frame"),
    "both": (lambda: rejected(BOTH), "frame"),
    "data twice": (lambda: rejected(header(), data(b"p") + data(b"a")), "frame"),
    "noise": (lambda: rejected(b"\xff" * 20), "frame"),
    "a length that lies": (lambda: rejected(header(), b"\x12\xff\xff\x03data"), "frame"),
    "no header": (lambda: rejected(data(b"payload")), "data"),
    "no bytes": (lambda: rejected(header(), data(b"")), "data"),
    "more bytes": (lambda: rejected(header(), data(b"payload!")), "data"),
    "more bytes later": (lambda: rejected(header(), data(b"pay"), data(b"loads")), "data"),
    "bytes beside a file": (lambda: rejected(header(file="x"), data(b"payload")), "data"),
    "damage": (lambda: rejected(header(), data(b"Payload")), "digests"),
    "damage at the end": (lambda: rejected(header(), data(b"payloaD")), "digests"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_malformed_is_refused_and_the_next_version_is_read(case: str) -> None:
    refuse, field = MALFORMED[case]
    assert refuse() == field


MESSAGES = st.one_of(
    st.binary(max_size=40),
    st.builds(data, st.binary(max_size=9)),
    st.sampled_from([header(), header(version=4), data(b"payload"), data(b"payl"), data(b"oad")]),
    st.builds(
        header,
        st.binary(max_size=20),
        size=st.integers(0, 2**64 - 1) | st.integers(0, 20),
        shard_bytes=st.integers(0, 2**32 - 1) | st.integers(1, 8),
        first_shard=st.integers(0, 4),
        file=st.sampled_from(["", "i1-v1.safetensors", "../../etc/passwd"]),
    ),
)


@settings(max_examples=400)
@given(st.lists(MESSAGES, max_size=12))
def test_whatever_comes_is_refused_or_sound_and_memory_is_bounded(messages: list[bytes]) -> None:
    largest = 0

    def take(size: int) -> memoryview:
        nonlocal largest
        largest = max(largest, size)
        return new_buffer(size)

    assembler = WeightsAssembler(20, take)
    for message in messages:
        try:
            arrived = assembler.add(message)
        except MalformedWeights:
            continue
        if arrived is not None:
            assert 0 < len(arrived.payload) <= 20
    assert largest <= 20


@settings(max_examples=200)
@given(st.data())
def test_a_flipped_bit_anywhere_never_makes_other_weights(draw: st.DataObject) -> None:
    weights = Weights(1, 3, b"payload of a few shards", "{}")
    messages = whole(weights, shard_bytes=SHARD)
    which = draw.draw(st.integers(0, len(messages) - 1))
    bit = draw.draw(st.integers(0, 8 * len(messages[which]) - 1))
    flipped = bytearray(messages[which])
    flipped[bit // 8] ^= 1 << bit % 8
    messages[which] = bytes(flipped)
    assembler = WeightsAssembler()
    try:
        arrived = [assembler.add(message) for message in messages][-1]
    except MalformedWeights:
        return
    assert arrived is None or arrived.payload == weights.payload
