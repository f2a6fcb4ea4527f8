"""Payloads are written into one buffer and read where they lie."""

import json
import math
from collections.abc import Callable

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from vaco.errors import UserError
from vaco.weights import new_buffer
from vaco_policy.parameters import PayloadWriter, load_payload, payload_bound, to_payload
from vaco_policy.payload import NotSafetensorsError, PayloadLayout, read_places, tensor_at

DTYPES = [
    *(torch.float64, torch.float32, torch.bfloat16, torch.float16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
]


def tensors() -> dict[str, Tensor]:
    """One of every dtype, of odd sizes, one without numbers and one without dimensions."""
    generator = torch.Generator().manual_seed(0)
    made = {
        f"t{n}": (10 * torch.randn(3, n + 1, generator=generator)).to(dtype)
        for n, dtype in enumerate(DTYPES)
    }
    return {**made, "empty": torch.zeros(0, 4), "scalar": torch.tensor(3.0)}


class Tied(nn.Module):
    """A decoder's way with its embedding."""

    def __init__(self, size: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size, 4)
        self.head = nn.Linear(4, size, bias=False)
        self.head.weight = self.embedding.weight


def test_the_package_reads_what_we_write_and_we_read_what_it_writes() -> None:
    given_tensors = tensors()
    layout = PayloadLayout(given_tensors)
    buffer = new_buffer(layout.size)
    layout.write(given_tensors, buffer)
    theirs = safetensors.torch.load(bytes(buffer))
    assert theirs.keys() == given_tensors.keys()
    written = safetensors.torch.save(given_tensors, {"note": "metadata is passed over"})
    places = read_places(written)
    for name, tensor in given_tensors.items():
        assert torch.equal(theirs[name], tensor)
        assert theirs[name].dtype == tensor.dtype
        assert torch.equal(tensor_at(written, places[name]), tensor)


def test_every_tensor_is_aligned_and_a_view_of_the_buffer() -> None:
    given_tensors = tensors()
    layout = PayloadLayout(given_tensors)
    buffer = new_buffer(layout.size)
    layout.write(given_tensors, buffer)
    for name, place in read_places(buffer).items():
        view = tensor_at(buffer, place)
        assert view.data_ptr() % max(view.itemsize, 1) == 0
        if view.numel():
            begun = bytes(buffer[place.begin : place.begin + 1])
            view.view(-1).view(torch.uint8)[0] ^= 1
            assert bytes(buffer[place.begin : place.begin + 1]) != begun, name


def test_tied_weights_are_written_once_and_stay_tied() -> None:
    source, target = Tied(), Tied()
    payload = to_payload(source)
    assert list(read_places(payload)) == ["embedding.weight"]
    load_payload(target, payload)
    assert torch.equal(target.head.weight, source.embedding.weight)
    assert target.head.weight is target.embedding.weight


def test_bfloat16_is_rounded_on_the_way() -> None:
    source, target = nn.Linear(5, 3), nn.Linear(5, 3)
    writer = PayloadWriter(source, "bfloat16")
    buffer = new_buffer(writer.size)
    writer.write(buffer)
    load_payload(target, buffer)
    assert torch.equal(target.weight, source.weight.bfloat16().float())
    narrow = nn.Linear(5, 3).bfloat16()
    load_payload(narrow, buffer)
    assert torch.equal(narrow.weight, source.weight.bfloat16())
    assert writer.size <= payload_bound(narrow)


class Largest(TorchDispatchMode):
    """Notes the largest tensor that an operation returns and that is no view of anything else."""

    def __init__(self) -> None:
        super().__init__()
        self.known: set[int] = set()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.known.update(t.untyped_storage().data_ptr() for t in args if isinstance(t, Tensor))
            storage = result.untyped_storage()
            if storage.data_ptr() not in self.known:
                self.bytes = max(self.bytes, storage.nbytes())
        return result


def test_to_write_and_to_load_takes_no_memory_that_grows_with_the_model() -> None:
    source, target = nn.Linear(3000, 2000), nn.Linear(3000, 2000)
    writer = PayloadWriter(source, "bfloat16")
    buffer = new_buffer(writer.size)
    with Largest() as seen:
        writer.write(buffer)
        assert seen.bytes < 1 << 20
        load_payload(target, buffer)
    assert seen.bytes < 1 << 20


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 1, 500, 998, 999])
def test_one_number_that_is_not_finite_is_found_wherever_it_is(
    dtype: torch.dtype, number: float, at: int
) -> None:
    source, target = nn.Linear(1, 1000, bias=False).to(dtype), nn.Linear(1, 1000, bias=False)
    target.to(dtype)
    load_payload(target, to_payload(source))
    with torch.no_grad():
        source.weight[at] = number
    with pytest.raises(UserError, match="weight has a number that is not finite"):
        load_payload(target, to_payload(source))


def broken(change: Callable[[dict[str, dict[str, list[int]]]], object]) -> bytes:
    """The payload of two tensors with its header changed."""
    payload = safetensors.torch.save({"a": torch.ones(4), "b": torch.ones(2)})
    length = int.from_bytes(payload[:8], "little")
    document = json.loads(payload[8 : 8 + length])
    replaced = change(document)
    text = json.dumps(replaced if isinstance(replaced, list | int) else document).encode()
    return len(text).to_bytes(8, "little") + text + payload[8 + length :]


BROKEN = {
    "no object": lambda _: [1, 2],
    "a number": lambda _: 5,
    "an entry of text": lambda d: d.update(a="F32"),
    "no dtype": lambda d: d["a"].pop("dtype"),
    "an unknown dtype": lambda d: d["a"].update(dtype="F128"),
    "a dtype of another size": lambda d: d["a"].update(dtype="F64"),
    "a negative shape": lambda d: d["a"].update(shape=[-2, -2]),
    "a fraction": lambda d: d["a"].update(shape=[4.0]),
    "a shape of text": lambda d: d["a"].update(shape="4"),
    "true for 1": lambda d: d["a"].update(shape=[4, True]),
    "another shape": lambda d: d["a"].update(shape=[5]),
    "a tensor over another": lambda d: d["b"].update(data_offsets=[0, 8]),
    "a hole": lambda d: d["b"].update(data_offsets=[20, 28]),
    "beyond the end": lambda d: d["b"].update(data_offsets=[16, 32], shape=[4]),
    "three offsets": lambda d: d["a"].update(data_offsets=[0, 8, 16]),
    "a missing tensor": lambda d: d.pop("b"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_header_that_is_not_right_is_refused(case: str) -> None:
    payload = broken(BROKEN[case])
    with pytest.raises(NotSafetensorsError):
        read_places(payload)


@settings(max_examples=300)
@given(st.data())
def test_whatever_the_bytes_are_the_policy_is_unchanged_or_sound(draw: st.DataObject) -> None:
    policy = nn.Linear(3, 2)
    before = {name: tensor.clone() for name, tensor in policy.state_dict().items()}
    payload = bytearray(to_payload(nn.Linear(3, 2)))
    for _ in range(draw.draw(st.integers(1, 3))):
        payload[draw.draw(st.integers(0, len(payload) - 1))] = draw.draw(st.integers(0, 255))
    cut = draw.draw(st.integers(0, len(payload)) | st.just(len(payload)))
    try:
        load_payload(policy, payload[:cut])
    except UserError:
        after = policy.state_dict()
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(tensor.isfinite().all() for tensor in policy.state_dict().values())
