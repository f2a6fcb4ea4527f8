"""Groups of completions: over the wire and back, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from vaco.completions import CompletionGroup, CompletionSpec, IncomingCompletions
from vaco.framing import FRAME_BYTES, RequestReader, to_requests
from vaco.trajectory import FragmentId, MalformedFragment
from vaco.v1 import trajectory_pb2 as pb

SPEC = CompletionSpec(
    vocabulary=100, max_prompt_tokens=16, max_completion_tokens=8, group_size=4, reward_bound=10.0
)
ARRAYS = ("prompt", "tokens", "lengths", "behaviour_logp", "versions", "rewards", "finished")


def group(lengths: tuple[int, ...] = (3, 0, 8), prompt: int = 5) -> CompletionGroup:
    rng = np.random.default_rng(sum(lengths))
    total = sum(lengths)
    return CompletionGroup(
        id=FragmentId("job", "actor-0", 2, 7),
        weights_incarnation=3,
        problem=41,
        prompt=rng.integers(0, 100, prompt, np.int32),
        tokens=rng.integers(0, 100, total, np.int32),
        lengths=np.array(lengths, np.int32),
        behaviour_logp=-rng.random(total, np.float32),
        versions=rng.integers(4, 9, total, np.int64),
        rewards=rng.random(len(lengths), np.float32),
        finished=rng.random(len(lengths)) < 0.5,
        rollout_seconds=0.25,
    )


def sent(sample: CompletionGroup) -> IncomingCompletions:
    reader = RequestReader()
    (read,) = [r for each in to_requests(sample) if (r := reader.read(each)) is not None]
    assert isinstance(read, IncomingCompletions)
    return read


def refused(sample: CompletionGroup, spec: CompletionSpec = SPEC) -> MalformedFragment:
    with pytest.raises(MalformedFragment) as caught:
        spec.decode(sent(sample))
    return caught.value


@pytest.mark.parametrize("lengths", [(3, 0, 8), (1,), (0, 0), (8, 8, 8, 8)])
def test_a_group_survives_the_wire(lengths: tuple[int, ...]) -> None:
    sample = group(lengths)
    read = sent(sample)
    assert read.claimed_samples == len(lengths)
    decoded = SPEC.decode(read)
    assert (decoded.id, decoded.problem, decoded.rollout_seconds) == (sample.id, 41, 0.25)
    for name in ARRAYS:
        given, got = getattr(sample, name), getattr(decoded, name)
        assert got.dtype == given.dtype
        np.testing.assert_array_equal(got, given, err_msg=name)
    assert decoded.samples == len(lengths)
    assert decoded.acted.sum() == sum(lengths)
    assert decoded.nbytes == sample.nbytes <= SPEC.max_bytes


def test_a_large_group_goes_in_frames() -> None:
    spec = replace(SPEC, max_completion_tokens=100_000)
    sample = group((90_000, 80_000))
    requests = to_requests(sample)
    assert len(requests) > 1
    assert max(map(len, requests)) < FRAME_BYTES + 1024
    np.testing.assert_array_equal(spec.decode(sent(sample)).tokens, sample.tokens)


def test_a_frame_that_changes_its_kind_is_refused() -> None:
    first, second, *_ = to_requests(group((90_000, 80_000)))
    reader = RequestReader()
    reader.read(first)
    request = pb.StreamTrajectoriesRequest.FromString(second)
    request.frame.completions = False
    with pytest.raises(MalformedFragment, match="not as in the first frame"):
        reader.read(request.SerializeToString())


def put(name: str, index: int, value: Any) -> Callable[[CompletionGroup], CompletionGroup]:
    def change(sample: CompletionGroup) -> CompletionGroup:
        array = getattr(sample, name).copy()
        array[index] = value
        return replace(sample, **{name: array})

    return change


def cut(name: str) -> Callable[[CompletionGroup], CompletionGroup]:
    return lambda sample: replace(sample, **{name: getattr(sample, name)[:-1]})


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (put("tokens", 2, 100), "tokens"),
        (put("tokens", 0, -1), "tokens"),
        (put("prompt", 1, 100), "prompt"),
        (put("lengths", 2, 9), "lengths"),
        (put("lengths", 1, -1), "lengths"),
        (put("behaviour_logp", 3, np.nan), "behaviour_logp"),
        (put("behaviour_logp", 3, -np.inf), "behaviour_logp"),
        (put("behaviour_logp", 3, 0.1), "behaviour_logp"),
        (put("rewards", 0, np.nan), "rewards"),
        (put("rewards", 0, 1e30), "rewards"),
        (cut("tokens"), "tokens"),
        (cut("behaviour_logp"), "behaviour_logp"),
        (cut("versions"), "versions"),
        (cut("rewards"), "rewards"),
        (cut("finished"), "finished"),
        (lambda s: replace(s, prompt=s.prompt[:0]), "prompt"),
        (lambda s: replace(s, rollout_seconds=float("nan")), "rollout_seconds"),
        (lambda s: replace(s, id=replace(s.id, sequence=0)), "id.sequence"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_and_named(
    change: Callable[[CompletionGroup], CompletionGroup], field: str
) -> None:
    assert refused(change(group())).field == field


def test_a_negative_version_is_refused() -> None:
    # Our own sender cannot say it: it would have to be the oldest, which the head has as unsigned.
    message = pb.StreamTrajectoriesRequest.FromString(to_requests(group())[0]).completions
    versions = np.frombuffer(message.versions.data, "<i8").copy()
    versions[0] = -1
    message.versions.data = versions.tobytes()
    assert caught_field(message.SerializeToString()) == "versions"


def test_the_bounds_of_the_job_hold() -> None:
    assert refused(group((1, 1, 1, 1, 1))).field == "completions"
    assert refused(group(prompt=17)).field == "prompt"
    assert SPEC.decode(sent(group((8, 8, 8, 8), prompt=16))).nbytes == SPEC.max_bytes


def test_what_the_head_says_must_be_true() -> None:
    message = pb.StreamTrajectoriesRequest.FromString(to_requests(group())[0])
    for field, wrong in (("completions", 2), ("min_version", 1), ("max_version", 99)):
        head = pb.CompletionGroup()
        head.CopyFrom(message.completions)
        setattr(head, field, wrong)
        with pytest.raises(MalformedFragment) as caught:
            SPEC.decode(IncomingCompletions.parse(head.SerializeToString()))
        assert caught.value.field == field


@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_is_there_once_with_its_dtype_and_one_dimension(name: str) -> None:
    whole = pb.StreamTrajectoriesRequest.FromString(to_requests(group())[0]).completions
    missing = pb.CompletionGroup()
    missing.CopyFrom(whole)
    missing.ClearField(name)  # type: ignore[arg-type]
    assert caught_field(missing.SerializeToString()) == name
    again = (
        whole.SerializeToString()
        + pb.CompletionGroup(**{name: getattr(whole, name)}).SerializeToString()
    )
    assert caught_field(again) == name
    other = pb.CompletionGroup()
    other.CopyFrom(whole)
    tensor = getattr(other, name)
    tensor.shape[:] = [*tensor.shape, 1]
    assert caught_field(other.SerializeToString()) == name
    tensor.shape.pop()
    tensor.dtype = pb.DTYPE_UINT8
    tensor.data = tensor.data[: tensor.shape[0]]
    assert caught_field(other.SerializeToString()) == name


def caught_field(data: bytes) -> str:
    with pytest.raises(MalformedFragment) as caught:
        SPEC.decode(IncomingCompletions.parse(data))
    return caught.value.field
