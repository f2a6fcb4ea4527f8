"""Weights arrive whole, or not at all."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vaco.v1 import weights_pb2 as pb
from vaco.weights import FRAME_BYTES, MalformedWeights, Weights, WeightsAssembler, weights_frames


def header(payload: bytes = b"payload", **replaced: object) -> pb.WatchWeightsResponse:
    parts = {
        "incarnation": 1,
        "version": 3,
        "size": len(payload),
        "sha256": hashlib.sha256(payload).digest(),
        "format": "safetensors",
        "spaces_json": "{}",
    }
    return pb.WatchWeightsResponse(header=pb.WeightsHeader(**{**parts, **replaced}))  # type: ignore[arg-type]


def data(piece: bytes) -> pb.WatchWeightsResponse:
    return pb.WatchWeightsResponse(data=pb.WeightsData(data=piece))


@given(st.integers(1, 2**64 - 1), st.integers(0, 2**64 - 1), st.text(max_size=50))
def test_weights_survive_the_wire(incarnation: int, version: int, spaces: str) -> None:
    weights = Weights.of(incarnation, version, b"payload", spaces)
    assembler = WeightsAssembler()
    *pieces, whole = [assembler.add(message) for message in weights_frames(weights)]
    assert pieces == [None]
    assert whole == weights


@pytest.mark.parametrize(
    "size", [1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES]
)
def test_the_payload_goes_in_pieces_of_at_most_a_mebibyte(size: int) -> None:
    weights = Weights.of(1, 2, b"w" * size, "{}")
    messages = list(weights_frames(weights))
    assert [len(m.data.data) for m in messages[1:-1]] == [FRAME_BYTES] * (len(messages) - 2)
    assert 0 < len(messages[-1].data.data) <= FRAME_BYTES
    assembler = WeightsAssembler()
    assert [assembler.add(m) for m in messages] == [None] * (len(messages) - 1) + [weights]


def test_a_header_in_the_middle_starts_over() -> None:
    assembler = WeightsAssembler()
    assert assembler.add(header(b"an older version")) is None
    assert assembler.add(data(b"an older")) is None
    assert assembler.add(header(b"newer", version=4)) is None
    whole = assembler.add(data(b"newer"))
    assert whole is not None
    assert (whole.version, whole.payload) == (4, b"newer")


def test_versions_follow_each_other() -> None:
    assembler = WeightsAssembler()
    for version in range(3):
        assert assembler.add(header(version=version)) is None
        whole = assembler.add(data(b"payload"))
        assert whole is not None
        assert whole.version == version


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([header(size=0)], "size"),
        ([header(size=101)], "size"),
        ([header(size=2**64 - 1)], "size"),
        ([header(incarnation=0)], "incarnation"),
        ([header(sha256=b"short")], "sha256"),
        ([header(format="pickle")], "format"),
        ([header(spaces_json="x" * ((1 << 20) + 1))], "spaces_json"),
        ([pb.WatchWeightsResponse()], "frame"),
        ([data(b"payload")], "data"),
        ([header(), data(b"")], "data"),
        ([header(), data(b"payload!")], "data"),
        ([header(), data(b"pay"), data(b"loads")], "data"),
        ([header(), data(b"Payload")], "sha256"),
    ],
)
def test_what_is_malformed_is_refused_and_the_next_version_is_read(
    messages: list[pb.WatchWeightsResponse], field: str
) -> None:
    assembler = WeightsAssembler(max_bytes=100)
    for message in messages[:-1]:
        assert assembler.add(message) is None
    with pytest.raises(MalformedWeights) as refused:
        assembler.add(messages[-1])
    assert refused.value.field == field
    with pytest.raises(MalformedWeights, match="without a header"):
        assembler.add(data(b"payload"))
    assert assembler.add(header()) is None
    assert assembler.add(data(b"payload")) is not None
