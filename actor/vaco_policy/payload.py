"""The layout of a payload: safetensors, written into a buffer and read where it lies.

    8 bytes: length of the JSON | JSON: name -> dtype, shape, begin, end | the tensors' bytes

The `safetensors` package makes a copy of everything to write it and another to read it. A model of
gigabytes has no room for those, and the layout is this simple. Tensors lie in the package's order,
so that each is aligned to the size of its numbers.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor
from vaco.weights import Payload

WeightsDtype = Literal["float32", "bfloat16"]

WEIGHTS_DTYPES: Final[dict[WeightsDtype, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
}

# The smallest numbers last, so that what comes before is a multiple of each one's size.
_NAMES: Final = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.int16: "I16",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES: Final = {name: dtype for dtype, name in _NAMES.items()}
_ORDER: Final = {dtype: n for n, dtype in enumerate(_NAMES)}
_LENGTH_BYTES: Final = 8
_METADATA: Final = "__metadata__"


class NotSafetensorsError(ValueError):
    """Bytes that are no safetensors."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor lies.

    Attributes:
        name: of the tensor.
        dtype: of its numbers.
        shape: of the tensor.
        begin: first byte in the payload.
        end: first byte behind it.

    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def distinct(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without those that are another one by a second name (tied weights)."""
    seen: set[tuple[object, ...]] = set()
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        identity: tuple[object, ...] = (
            (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
            if tensor.numel()
            else (name,)
        )
        if identity not in seen:
            seen.add(identity)
            kept[name] = tensor
    return kept


class PayloadLayout:
    """Where each tensor of a policy lies in its payloads.

    Args:
        tensors: as `distinct` returns them.
        dtype: of the float32 tensors in the payload; others are written as they are.

    Attributes:
        size: bytes of a payload.

    Raises:
        TypeError: a tensor's dtype has no place in a payload.

    """

    def __init__(self, tensors: Mapping[str, Tensor], dtype: WeightsDtype = "float32") -> None:
        described = sorted(
            ((name, _sent_as(name, tensor, dtype), tensor) for name, tensor in tensors.items()),
            key=lambda each: (_ORDER[each[1]], each[0]),
        )
        document, end = {}, 0
        spans = []
        for name, sent, tensor in described:
            begin, end = end, end + tensor.numel() * sent.itemsize
            shape = list(tensor.shape)
            document[name] = {"dtype": _NAMES[sent], "shape": shape, "data_offsets": [begin, end]}
            spans.append((name, sent, tuple(tensor.shape), begin, end))
        text = json.dumps(document, separators=(",", ":")).encode()
        text += b" " * (-len(text) % _LENGTH_BYTES)
        self._head = len(text).to_bytes(_LENGTH_BYTES, "little") + text
        data = len(self._head)
        self._places = [Place(n, d, s, data + begin, data + end) for n, d, s, begin, end in spans]
        self.size = data + end

    def write(self, tensors: Mapping[str, Tensor], buffer: memoryview) -> None:
        """Write the tensors, wherever they live, into `buffer`, of `size` bytes."""
        buffer[: len(self._head)] = self._head
        for place in self._places:
            if place.begin < place.end:
                tensor_at(buffer, place).copy_(tensors[place.name])


def read_places(payload: Payload) -> dict[str, Place]:
    """Return where the tensors of a payload lie, by name.

    Raises:
        NotSafetensorsError: it is none, or a tensor is not where the header says.

    """
    view = memoryview(payload)
    length = int.from_bytes(view[:_LENGTH_BYTES], "little")
    data = _LENGTH_BYTES + length
    if len(view) < _LENGTH_BYTES or data > len(view):
        raise NotSafetensorsError(f"{len(view)} bytes, with a header of {length}")
    try:
        document = json.loads(bytes(view[_LENGTH_BYTES:data]))
        places = [
            _place(name, entry, data) for name, entry in document.items() if name != _METADATA
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise NotSafetensorsError(f"the header: {type(error).__name__}: {error}") from error
    end = data
    for place in sorted(places, key=lambda each: (each.begin, each.end)):
        if place.begin != end:
            raise NotSafetensorsError(f"{place.name[:80]} begins at {place.begin}, not at {end}")
        end = place.end
    if end != len(view):
        raise NotSafetensorsError(f"{len(view)} bytes, and the tensors end at {end}")
    return {place.name: place for place in places}


def tensor_at(payload: Payload, place: Place) -> Tensor:
    """Return a view of the tensor at `place`; a copy of it where a view is not possible."""
    if place.begin == place.end:
        return torch.empty(place.shape, dtype=place.dtype)
    piece = memoryview(payload)[place.begin : place.end]
    flat = torch.frombuffer(_writable(piece), dtype=place.dtype)
    if flat.data_ptr() % place.dtype.itemsize:
        flat = torch.frombuffer(bytearray(piece), dtype=place.dtype)
    return flat.view(place.shape)


def _writable(piece: memoryview) -> Payload:
    return bytearray(piece) if piece.readonly else piece


def _sent_as(name: str, tensor: Tensor, dtype: WeightsDtype) -> torch.dtype:
    sent = WEIGHTS_DTYPES[dtype] if tensor.dtype == torch.float32 else tensor.dtype
    if sent not in _ORDER:
        raise TypeError(f"{name}: {sent} has no place in a payload")
    return sent


def _place(name: str, entry: Mapping[str, Any], data: int) -> Place:
    dtype = _DTYPES[entry["dtype"]]
    shape = tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
        raise ValueError(f"{name[:80]}: not whole numbers from 0")
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name[:80]}: {end - begin} bytes for the shape {shape[:8]}")
    return Place(name, dtype, shape, data + begin, data + end)
