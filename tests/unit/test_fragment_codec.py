"""A fragment survives the wire bit for bit, and what is malformed is refused by its name."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from vaco.trajectory import (
    Fragment,
    FragmentId,
    IncomingFragment,
    MalformedFragment,
    RequestReader,
    to_requests,
)
from vaco.v1 import trajectory_pb2 as pb
from vaco.wire import field_key, varint

WireFragment = Callable[..., Fragment]

DTYPES = ("bool", "uint8", "int8", "int32", "int64", "float32", "float64")
names = st.text(min_size=1, max_size=20)
uint64 = st.integers(0, 2**64 - 1)
sizes = st.integers(0, 3)
extra_shapes = st.lists(sizes, max_size=3).map(tuple)


@st.composite
def fragments(draw: st.DrawFn) -> Fragment:
    """Fragments of every layout, with random bits for values: the codec does not judge them."""
    length, environments = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    steps, states = (length, environments), (length + 1, environments)
    finals, episodes = ((draw(st.integers(0, length * environments)),) for _ in range(2))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def array(shape: tuple[int, ...], dtype: str) -> np.ndarray:
        if dtype == "bool":
            return rng.random(shape) < 0.5
        return np.frombuffer(rng.bytes(math.prod(shape) * 8), dtype)[: math.prod(shape)].reshape(
            shape
        )

    def named(leading: tuple[int, ...]) -> dict[str, np.ndarray]:
        layout = st.dictionaries(
            names, st.tuples(extra_shapes, st.sampled_from(DTYPES)), max_size=3
        )
        return {name: array(leading + extra, d) for name, (extra, d) in draw(layout).items()}

    return Fragment(
        id=FragmentId(draw(names), draw(names), draw(uint64), draw(st.integers(1, 2**64 - 1))),
        weights_incarnation=draw(uint64),
        observations=named(states),
        actions=array(
            steps + draw(st.sampled_from([(), (1,), (3,)])), draw(st.sampled_from(DTYPES))
        ),
        rewards=array(steps, "float32"),
        terminated=array(steps, "bool"),
        truncated=array(steps, "bool"),
        valid=array(steps, "bool"),
        behaviour_logp=array(steps, "float32"),
        versions=array((length,), "int64") & (2**63 - 1),
        episode_start=array(states, "bool"),
        final_observations=named(finals),
        final_steps=array(finals, "int32"),
        core_state=named((environments,)),
        return_carry=array((environments,), "float32"),
        episode_returns=array(episodes, "float32"),
        episode_lengths=array(episodes, "int32"),
        rollout_seconds=draw(st.floats(allow_nan=False)),
    )


def assert_same(actual: Fragment, expected: Fragment) -> None:
    for field in dataclasses.fields(Fragment):
        a, e = getattr(actual, field.name), getattr(expected, field.name)
        if isinstance(e, dict):
            assert list(a) == list(e)
            for name in e:
                assert_same_array(a[name], e[name])
        elif isinstance(e, np.ndarray):
            assert_same_array(a, e)
        else:
            assert a == e, field.name


def assert_same_array(actual: np.ndarray, expected: np.ndarray) -> None:
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    assert actual.tobytes() == expected.tobytes()


def received(data: bytes) -> Fragment:
    incoming = RequestReader().read(data)
    assert isinstance(incoming, IncomingFragment)
    return Fragment.decode(incoming)


def message_of(fragment: Fragment) -> pb.Trajectory:
    return pb.Trajectory.FromString(b"".join(fragment.to_parts()[0]))


def fragment_of(message: pb.Trajectory) -> Fragment:
    return Fragment.decode(IncomingFragment.parse(message.SerializeToString()))


@given(fragments())
@settings(max_examples=50)
def test_a_fragment_survives_the_wire(fragment: Fragment) -> None:
    [request] = to_requests(fragment)
    assert_same(received(request), fragment)


@given(fragments())
@settings(max_examples=50)
def test_generated_code_reads_what_is_written_by_hand(fragment: Fragment) -> None:
    [request] = to_requests(fragment)
    message = pb.StreamTrajectoriesRequest.FromString(request).trajectory
    assert message.length == fragment.length
    assert message.min_version == int(fragment.versions.min())
    assert message.rewards.data == fragment.rewards.tobytes()
    assert tuple(message.actions.shape) == fragment.actions.shape
    assert [n.name for n in message.observations] == list(fragment.observations)
    assert [n.tensor.data for n in message.observations] == [
        a.tobytes() for a in fragment.observations.values()
    ]
    assert_same(fragment_of(message), fragment)


@given(fragments())
@settings(max_examples=50)
def test_what_generated_code_writes_is_read(fragment: Fragment) -> None:
    request = pb.StreamTrajectoriesRequest(trajectory=message_of(fragment))
    for _ in range(2):
        assert_same(received(request.SerializeToString()), fragment)


def test_totals(wire_fragment: WireFragment) -> None:
    valid = np.array([[True, False], [True, True], [False, False]])
    fragment = wire_fragment(valid=valid, versions=np.array([8, 6, 9]))
    assert (fragment.length, fragment.environments, fragment.samples) == (3, 2, 3)
    assert (fragment.min_version, fragment.max_version) == (6, 9)


def test_any_memory_layout_can_be_sent(wire_fragment: WireFragment) -> None:
    plain = wire_fragment()
    strided = np.zeros((3, 4), np.float32)
    strided[:, ::2] = plain.rewards
    odd = dataclasses.replace(
        plain,
        rewards=strided[:, ::2],
        actions=np.asfortranarray(plain.actions),
        behaviour_logp=plain.behaviour_logp.astype(">f4"),
    )
    assert_same(received(to_requests(odd)[0]), plain)


def test_what_is_received_is_a_view_that_nobody_can_write_to(wire_fragment: WireFragment) -> None:
    [request] = to_requests(wire_fragment(length=64, environments=64))
    for _ in range(2):  # taken apart, then recognised
        fragment = received(request)
    memory = np.frombuffer(request, np.uint8)
    large = {"actions": fragment.actions, "rewards": fragment.rewards, **fragment.observations}
    for name, array in large.items():
        assert np.shares_memory(array, memory), name
        assert array.flags.aligned, name
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


@pytest.mark.parametrize("offset", range(8))
def test_an_array_that_its_sender_did_not_align_is_aligned(
    wire_fragment: WireFragment, offset: int
) -> None:
    serialised = bytes(offset) + b"".join(wire_fragment().to_parts()[0])
    fragment = Fragment.decode(IncomingFragment.parse(serialised, (offset, len(serialised))))
    assert_same(fragment, wire_fragment())
    assert fragment.versions.flags.aligned
    assert fragment.rewards.flags.aligned


@pytest.mark.parametrize("environments", [1, 20, 300, 30_000])
def test_arrays_are_aligned_in_messages_of_any_size(
    wire_fragment: WireFragment, environments: int
) -> None:
    """Lengths of one to four bytes in front, or frames."""
    image = {"observation": np.zeros((4, 2, environments), np.float64)}
    reader = RequestReader()
    for request in to_requests(wire_fragment(observations=image)):
        incoming = reader.read(request)
    assert isinstance(incoming, IncomingFragment)
    for array in (incoming.tensor("versions"), incoming.tensor("actions")):
        assert array.flags.aligned
        assert not array.flags.owndata, "copied"


def test_a_dtype_without_a_place_on_the_wire_is_not_sent(wire_fragment: WireFragment) -> None:
    with pytest.raises(TypeError, match="complex64"):
        to_requests(wire_fragment(rewards=np.zeros((3, 2), np.complex64)))


Change = Callable[[pb.Trajectory], Any]


def cut(field: str) -> Change:
    return lambda m: setattr(getattr(m, field), "data", getattr(m, field).data[:-1])


def lengthen(field: str) -> Change:
    return lambda m: setattr(getattr(m, field), "data", getattr(m, field).data + b"\x00")


def retype(field: str, dtype: int) -> Change:
    return lambda m: setattr(getattr(m, field), "dtype", dtype)


def flatten(field: str) -> Change:
    def change(message: pb.Trajectory) -> None:
        tensor = getattr(message, field)
        shape = [int(np.prod(tensor.shape)), 1, 1, 1]
        del tensor.shape[:]
        tensor.shape.extend(shape)

    return change


def dirty_bool(field: str) -> Change:
    return lambda m: setattr(getattr(m, field), "data", b"\x02" + getattr(m, field).data[1:])


def replace_shape(tensor: pb.Tensor, *shape: int) -> None:
    del tensor.shape[:]
    tensor.shape.extend(shape)


TENSORS = (
    "actions",
    "rewards",
    "terminated",
    "truncated",
    "valid",
    "behaviour_logp",
    "versions",
    "episode_start",
    "final_steps",
    "return_carry",
    "episode_returns",
    "episode_lengths",
)
BOOLS = ("terminated", "truncated", "valid", "episode_start")
NAMED_PATHS = {
    "observations": "observations[observation]",
    "final_observations": "final_observations[observation]",
    "core_state": "core_state[hidden]",
}
FIXED_DTYPE = tuple(name for name in TENSORS if name != "actions")

MALFORMED: list[tuple[str, Change]] = [
    ("length", lambda m: setattr(m, "length", 0)),
    ("length", lambda m: setattr(m, "length", 5000)),
    ("environments", lambda m: setattr(m, "environments", 0)),
    ("environments", lambda m: setattr(m, "environments", 2**32 - 1)),
    ("actions", lambda m: setattr(m, "length", 4)),
    ("actions", lambda m: setattr(m, "environments", 3)),
    ("min_version", lambda m: setattr(m, "min_version", 6)),
    ("min_version", lambda m: setattr(m, "min_version", 2**64 - 1)),
    ("max_version", lambda m: setattr(m, "max_version", 6)),
    ("versions", lambda m: setattr(m.versions, "data", b"\xff" * 24)),
    ("id.job_uid", lambda m: setattr(m.id, "job_uid", "")),
    ("id.job_uid", lambda m: setattr(m.id, "job_uid", "x" * 254)),
    ("id.actor_id", lambda m: setattr(m.id, "actor_id", "")),
    ("id.actor_id", lambda m: setattr(m.id, "actor_id", "é" * 254)),
    ("id.sequence", lambda m: setattr(m.id, "sequence", 0)),
    ("trajectory", lambda m: setattr(m.id, "actor_id", "x" * 5000)),
    *((field, lambda m, f=field: m.ClearField(f)) for field in TENSORS),
    *((field, cut(field)) for field in TENSORS),
    *((field, lengthen(field)) for field in TENSORS),
    *((field, flatten(field)) for field in TENSORS),
    *((field, retype(field, 0)) for field in TENSORS),
    *((field, retype(field, 99)) for field in TENSORS),
    *((field, retype(field, pb.DTYPE_INT8)) for field in FIXED_DTYPE),
    *((field, dirty_bool(field)) for field in BOOLS),
    ("final_steps", lambda m: m.final_steps.CopyFrom(long_vector(pb.DTYPE_INT32))),
    ("episode_returns", lambda m: m.episode_returns.CopyFrom(long_vector(pb.DTYPE_FLOAT32))),
    ("rewards", lambda m: replace_shape(m.rewards, 2**32 - 1, 2**32 - 1)),
    ("rewards", lambda m: replace_shape(m.rewards, *[1] * 2000)),
    ("rewards", lambda m: setattr(m.rewards, "padding", bytes(2000))),
    ("rewards", lambda m: m.rewards.MergeFromString(m.rewards.SerializeToString())),
    ("observations[observation]", lambda m: m.observations[0].tensor.shape.extend([1] * 7)),
    ("core_state", lambda m: m.core_state[0].MergeFromString(b"\x1a\xd0\x0f" + bytes(2000))),
    ("core_state", lambda m: setattr(m.core_state[0], "name", "")),
    ("core_state", lambda m: setattr(m.core_state[0], "name", "n" * 129)),
    ("core_state", lambda m: setattr(m.core_state[0], "name", "n" * 100_000)),
    ("core_state[hidden]", lambda m: m.core_state.append(m.core_state[0])),
    ("core_state", lambda m: m.core_state.extend([m.core_state[0]] * 64)),
    ("core_state[hidden]", lambda m: m.core_state[0].ClearField("tensor")),
    (
        "final_observations[observation]",
        lambda m: m.final_steps.CopyFrom(pb.Tensor(dtype=pb.DTYPE_INT32, shape=[0])),
    ),
    *(
        (NAMED_PATHS[field], lambda m, f=field: replace_shape(getattr(m, f)[0].tensor, 24))
        for field in ("observations", "core_state")
    ),
    *(
        (path, lambda m, f=field: setattr(getattr(m, f)[0].tensor, "dtype", 0))
        for field, path in NAMED_PATHS.items()
    ),
    *(
        (path, lambda m, f=field: setattr(getattr(m, f)[0].tensor, "data", b""))
        for field, path in NAMED_PATHS.items()
    ),
    *(
        (
            "observations[observation]",
            lambda m, shape=shape: m.observations[0].tensor.CopyFrom(shape),
        )
        for shape in (
            pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=[0, 2**32 - 1]),
            pb.Tensor(dtype=pb.DTYPE_FLOAT32, shape=[0, *[2**32 - 1] * 3]),
        )
    ),
]


def long_vector(dtype: Any) -> pb.Tensor:
    """A vector with more entries than the fragment has steps."""
    return pb.Tensor(dtype=dtype, shape=[7], data=bytes(28))


@pytest.mark.parametrize(("field", "change"), MALFORMED)
def test_a_malformed_fragment_is_refused_by_its_field(
    wire_fragment: WireFragment, field: str, change: Change
) -> None:
    message = message_of(wire_fragment())
    change(message)
    serialised = message.SerializeToString()
    tracemalloc.start()
    try:
        with pytest.raises(MalformedFragment) as refused:
            Fragment.decode(IncomingFragment.parse(serialised))
        assert tracemalloc.get_traced_memory()[1] < len(serialised) + (1 << 18)
    finally:
        tracemalloc.stop()
    assert refused.value.field == field
    assert len(str(refused.value)) < 500


def test_a_tensor_that_is_there_twice_is_refused(wire_fragment: WireFragment) -> None:
    serialised = message_of(wire_fragment()).SerializeToString()
    again = pb.Trajectory(rewards=pb.Tensor(dtype=pb.DTYPE_FLOAT32)).SerializeToString()
    with pytest.raises(MalformedFragment, match="rewards: there twice"):
        Fragment.decode(IncomingFragment.parse(serialised + again))


@given(st.data())
def test_damaged_bytes_are_refused_or_still_a_fragment(
    wire_fragment: WireFragment, data: st.DataObject
) -> None:
    damaged = bytearray(to_requests(wire_fragment())[0])
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(0, len(damaged))) :]
    try:
        incoming = RequestReader().read(bytes(damaged))
        if isinstance(incoming, IncomingFragment):
            Fragment.decode(incoming)
    except MalformedFragment:
        return


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_or_understood(data: bytes) -> None:
    try:
        incoming = IncomingFragment.parse(data)
        Fragment.decode(incoming)
    except MalformedFragment:
        return


@given(st.lists(fragments(), min_size=2, max_size=3), st.lists(st.integers(0, 2), max_size=9))
@settings(max_examples=30)
def test_what_was_read_before_changes_nothing(pool: list[Fragment], order: list[int]) -> None:
    """Layouts are remembered: messages of several in any order are read as if alone."""
    for index in order:
        fragment = pool[index % len(pool)]
        assert_same(received(to_requests(fragment)[0]), fragment)


def layout_of(message: pb.Trajectory) -> dict[str, list[tuple[int, tuple[int, ...], bytes]]]:
    """Every tensor of a message as the generated code reads it."""
    named = {f"{f}[{n.name}]": n.tensor for f in NAMED_PATHS for n in getattr(message, f)}
    tensors = {field: getattr(message, field) for field in TENSORS} | named
    return {name: [(t.dtype, tuple(t.shape), t.data)] for name, t in tensors.items()}


LARGE = {"length": 40, "environments": 64}


def heads(parts: list[bytes | memoryview], start: int) -> list[tuple[int, int]]:
    """Where in a message that begins at `start` there is something between its arrays."""
    places, position = [], start
    for part in parts:
        end = position + (part.nbytes if isinstance(part, memoryview) else len(part))
        if isinstance(part, bytes):
            places.append((position, end))
        position = end
    return places


def test_damage_to_a_layout_seen_before_is_noticed(wire_fragment: WireFragment) -> None:
    """Every byte between the arrays counts: with any of them wrong, it is another message."""
    fragment = wire_fragment(**LARGE)
    [request] = to_requests(fragment)
    assert_same(received(request), fragment)
    places = heads(fragment.to_parts(4)[0], 4)
    for position in (p for begin, end in places for p in range(begin, end)):
        damaged = bytearray(request)
        damaged[position] ^= 0x41
        try:
            read = received(bytes(damaged))
        except MalformedFragment:
            continue
        message = pb.StreamTrajectoriesRequest.FromString(bytes(damaged)).trajectory
        assert layout_of(message_of(read)) == layout_of(message), position
        assert read.id == FragmentId.from_proto(message.id)
        assert read.weights_incarnation == message.weights_incarnation
    assert_same(received(request), fragment)


def test_a_layout_seen_before_is_not_looked_for_beyond_the_end(
    wire_fragment: WireFragment,
) -> None:
    parts, size = wire_fragment(**LARGE).to_parts()
    whole = b"".join(parts)
    assert_same(Fragment.decode(IncomingFragment.parse(whole)), wire_fragment(**LARGE))
    for place in heads(parts, 0):
        for end in (place[0], place[0] + 1, place[1] - 1, place[1] + 1):
            if end >= size:
                continue
            with pytest.raises(MalformedFragment):
                Fragment.decode(IncomingFragment.parse(whole, (0, end)))
            with pytest.raises(MalformedFragment):
                Fragment.decode(IncomingFragment.parse(whole[:end]))


def test_what_is_there_twice_is_refused_every_time(wire_fragment: WireFragment) -> None:
    """In front, aligned, where layouts are learnt; then again, when it might be known."""
    fragment = wire_fragment(**LARGE)
    observation = b"".join(fragment.to_parts()[0][:2])
    serialised = observation + b"".join(fragment.to_parts(len(observation))[0])
    for _ in range(3):
        with pytest.raises(MalformedFragment, match=r"observations\[observation\]: there twice"):
            Fragment.decode(IncomingFragment.parse(serialised))


def test_what_is_there_again_behind_a_known_layout_is_refused(
    wire_fragment: WireFragment,
) -> None:
    fragment = wire_fragment(**LARGE)
    serialised = b"".join(fragment.to_parts()[0])
    Fragment.decode(IncomingFragment.parse(serialised))
    for field, named in (("rewards", False), ("core_state", True)):
        again = pb.Trajectory()
        getattr(again, field).MergeFrom(getattr(message_of(wire_fragment()), field))
        path = rf"{field}\[hidden\]" if named else field
        with pytest.raises(MalformedFragment, match=f"{path}: there twice"):
            Fragment.decode(IncomingFragment.parse(serialised + again.SerializeToString()))


def test_what_is_in_front_of_the_arrays_is_no_part_of_a_layout(
    wire_fragment: WireFragment,
) -> None:
    first, second = (wire_fragment(weights_incarnation=n, **LARGE) for n in (2, 3))
    for fragment in (first, first, second, first):
        [head] = [p for p in fragment.to_parts()[0] if isinstance(p, bytes) and is_head(p)]
        parts, _ = fragment.to_parts(len(head))
        parts.remove(head)
        assert_same(Fragment.decode(IncomingFragment.parse(b"".join((head, *parts)))), fragment)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8])
def test_bools_of_a_known_layout_are_looked_at(
    wire_fragment: WireFragment, dtype: type[np.generic]
) -> None:
    fragment = wire_fragment(**LARGE)
    [request] = to_requests(fragment)
    received(request)
    valid = np.full((40, 64), 1, np.uint8)
    valid[7, 5] = 1 if dtype is np.bool_ else 2
    [changed] = to_requests(dataclasses.replace(fragment, valid=valid.view(np.bool_)))
    if dtype is np.bool_:
        assert received(changed).samples == 40 * 64
    else:
        with pytest.raises(MalformedFragment, match="valid: a bool"):
            received(changed)


def is_head(part: bytes) -> bool:
    """Whether a part holds what is no array (an array's head alone is no message)."""
    try:
        return pb.Trajectory.FromString(part).length > 0
    except DecodeError:
        return False


def tensor_field(field: str, content: bytes) -> bytes:
    return field_key(pb.Trajectory, field) + varint(len(content)) + content


def test_data_that_is_there_twice_is_refused(wire_fragment: WireFragment) -> None:
    message = message_of(wire_fragment())
    tensor = message.rewards.SerializeToString() + pb.Tensor(data=b"x").SerializeToString()
    message.ClearField("rewards")
    serialised = message.SerializeToString() + tensor_field("rewards", tensor)
    with pytest.raises(MalformedFragment, match="rewards: not a Tensor: data 2 times"):
        Fragment.decode(IncomingFragment.parse(serialised))


def test_a_tail_behind_the_array_counts_too(wire_fragment: WireFragment) -> None:
    """Fields may follow an array, and change what it is."""
    message = message_of(wire_fragment())
    rewards = message.rewards
    message.ClearField("rewards")
    rest = message.SerializeToString()
    tensor = pb.Tensor(dtype=rewards.dtype, shape=[3, 2], data=rewards.data).SerializeToString()
    padding = pb.Tensor(padding=b"12").SerializeToString()
    more_shape = pb.Tensor(shape=[1, 1]).SerializeToString()
    assert len(padding) == len(more_shape)
    first = rest + tensor_field("rewards", tensor + padding)
    assert Fragment.decode(IncomingFragment.parse(first)).rewards.shape == (3, 2)
    second = rest + tensor_field("rewards", tensor + more_shape)
    with pytest.raises(MalformedFragment, match=r"rewards: shape \(3, 2, 1, 1\)"):
        Fragment.decode(IncomingFragment.parse(second))


def test_a_tensor_seen_before_does_not_vouch_for_another(wire_fragment: WireFragment) -> None:
    """Tensors are recognised by their bytes: same size, another meaning, another array."""
    first, second = message_of(wire_fragment()), message_of(wire_fragment())
    shape = [2, 3]
    replace_shape(second.actions, *shape)
    assert fragment_of(first).actions.shape == (3, 2)
    with pytest.raises(MalformedFragment, match=r"actions: shape \(2, 3\)"):
        fragment_of(second)
    second = message_of(wire_fragment())
    second.core_state[0].name = "hodden"
    assert list(fragment_of(first).core_state) == ["hidden"]
    assert list(fragment_of(second).core_state) == ["hodden"]
