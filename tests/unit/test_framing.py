"""Fragments of any size go through frames unharmed; a stream out of step is noticed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vaco.framing import FRAME_BYTES, MAX_FRAGMENT_BYTES, MAX_WHOLE_BYTES
from vaco.trajectory import (
    Fragment,
    IncomingFragment,
    MalformedFragment,
    RequestReader,
    request_parts,
    to_requests,
)
from vaco.v1 import trajectory_pb2 as pb

WireFragment = Callable[..., Fragment]


def frame(index: int, count: int, total: int, data: bytes) -> bytes:
    message = pb.TrajectoryFrame(index=index, count=count, total_bytes=total, data=data)
    return pb.StreamTrajectoriesRequest(frame=message).SerializeToString()


@pytest.fixture(scope="module")
def images(wire_fragment: WireFragment) -> Fragment:
    """About 3.4 MiB, no multiple of a frame."""
    rng = np.random.default_rng(1)
    return wire_fragment(
        length=31,
        environments=4,
        observations={"observation": rng.integers(0, 256, (32, 4, 84, 84, 4), np.uint8)},
        final_observations={"observation": np.ones((1, 84, 84, 4), np.uint8)},
    )


def test_a_small_fragment_is_one_message(wire_fragment: WireFragment) -> None:
    [request] = to_requests(wire_fragment())
    message = pb.StreamTrajectoriesRequest.FromString(request)
    assert message.WhichOneof("message") == "trajectory"


def test_a_large_fragment_goes_in_frames_and_comes_out_whole(images: Fragment) -> None:
    requests = to_requests(images)
    messages = [pb.StreamTrajectoriesRequest.FromString(r).frame for r in requests]
    assert [m.index for m in messages] == [0, 1, 2, 3]
    assert {m.count for m in messages} == {4}
    assert [len(m.data) for m in messages[:-1]] == [FRAME_BYTES] * 3
    assert sum(len(m.data) for m in messages) == messages[0].total_bytes

    reader = RequestReader()
    *pieces, last = (reader.read(request) for request in requests)
    assert pieces == [None, None, None]
    assert isinstance(last, IncomingFragment)
    fragment = Fragment.decode(last)
    np.testing.assert_array_equal(
        fragment.observations["observation"], images.observations["observation"]
    )
    np.testing.assert_array_equal(fragment.versions, images.versions)


# A fragment that will be framed is aligned anew, which may take some bytes less.
@pytest.mark.parametrize("excess", [-1, 0, 16])
def test_messages_are_framed_from_the_bound_on(wire_fragment: WireFragment, excess: int) -> None:
    # The last array, so that what precedes it does not move.
    half = MAX_WHOLE_BYTES // 2
    _, size = wire_fragment(episode_lengths=np.zeros(half, np.uint8)).to_parts(4)
    lengths = np.zeros(half + MAX_WHOLE_BYTES - size + excess, np.uint8)
    fragment = wire_fragment(episode_lengths=lengths)
    assert fragment.to_parts(4)[1] == MAX_WHOLE_BYTES + excess
    requests = to_requests(fragment)
    assert len(requests) == (1 if excess <= 0 else 3)
    assert max(map(len, requests)) <= MAX_WHOLE_BYTES + 16


def test_a_fragment_over_the_bound_is_not_sent(wire_fragment: WireFragment) -> None:
    vast = np.zeros(MAX_FRAGMENT_BYTES, np.uint8)
    with pytest.raises(ValueError, match="over the wire's"):
        to_requests(wire_fragment(observations={"observation": vast}))


def test_parts_are_the_requests_and_copy_no_array(images: Fragment) -> None:
    parts = request_parts(images)
    assert [b"".join(request) for request in parts] == to_requests(images)
    screens = images.observations["observation"]
    lent = [np.frombuffer(part, np.uint8) for request in parts for part in request if len(part)]
    assert sum(a.size for a in lent if np.may_share_memory(a, screens)) == screens.nbytes


def test_two_fragments_follow_each_other(images: Fragment, wire_fragment: WireFragment) -> None:
    reader = RequestReader()
    requests = [*to_requests(images), *to_requests(wire_fragment()), *to_requests(images)]
    read = [reader.read(request) for request in requests]
    fragments = [f for f in read if isinstance(f, IncomingFragment)]
    assert [f.head.length for f in fragments] == [31, 3, 31]


def test_other_requests_are_passed_on() -> None:
    hello = pb.StreamTrajectoriesRequest(hello=pb.Hello(job_uid="job", actor_incarnation=3))
    assert RequestReader().read(hello.SerializeToString()) == hello
    goodbye = pb.StreamTrajectoriesRequest(goodbye=pb.Goodbye())
    assert RequestReader().read(goodbye.SerializeToString()) == goodbye


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([frame(1, 2, 8, b"data")], "frame.index"),
        ([frame(0, 2, 8, b"data"), frame(0, 2, 8, b"data")], "frame.index"),
        ([frame(0, 3, 8, b"data"), frame(2, 3, 8, b"data")], "frame.index"),
        ([frame(0, 3, 8, b"data"), frame(1, 2, 8, b"data")], "frame.count"),
        ([frame(0, 0, 8, b"data")], "frame.count"),
        ([frame(0, 9, 8, b"data")], "frame.count"),
        ([frame(0, 1, 0, b"data")], "frame.total_bytes"),
        ([frame(0, 1, 101, b"data")], "frame.total_bytes"),
        ([frame(0, 1, 2**64 - 1, b"data")], "frame.total_bytes"),
        ([frame(0, 2, 8, b"data"), frame(1, 2, 9, b"data")], "frame.total_bytes"),
        ([frame(0, 1, 8, b"data")], "frame.total_bytes"),
        ([frame(0, 2, 8, b"")], "frame.data"),
        ([frame(0, 2, 8, b"data"), frame(1, 2, 8, b"data!")], "frame.data"),
        ([frame(0, 1, 4, b"\xff" * 4)], "trajectory"),
        (
            [frame(0, 2, 8, b"data"), pb.StreamTrajectoriesRequest(hello={}).SerializeToString()],
            "frame",
        ),
        ([frame(0, 2, 8, b"data"), b"\x12\x00"], "frame"),
        ([b"\x12\x00\x12\x00"], "request"),
        ([b"\x12\x00\x0a\x00"], "request"),
        ([b"\x12\x7f"], "request"),
        ([b"\x0a\x01\xff"], "request"),
        ([b"\x1a\x01\xff"], "frame"),
    ],
)
def test_a_stream_out_of_step_is_refused(requests: list[bytes], field: str) -> None:
    reader = RequestReader(max_bytes=100)
    for request in requests[:-1]:
        assert reader.read(request) is None
    with pytest.raises(MalformedFragment) as refused:
        reader.read(requests[-1])
    assert refused.value.field == field


def test_after_an_error_nothing_of_the_broken_fragment_is_left(
    wire_fragment: WireFragment,
) -> None:
    reader = RequestReader(max_bytes=100)
    assert reader.read(frame(0, 2, 9, b"x")) is None
    with pytest.raises(MalformedFragment):
        reader.read(frame(3, 2, 9, b"x"))
    assert isinstance(reader.read(to_requests(wire_fragment())[0]), IncomingFragment)


@given(st.lists(st.binary(max_size=60), max_size=5))
def test_any_requests_are_refused_or_understood(requests: list[bytes]) -> None:
    reader = RequestReader(max_bytes=100)
    for request in requests:
        try:
            reader.read(request)
        except MalformedFragment:
            return
