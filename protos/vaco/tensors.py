"""Arrays on the wire: one dtype, one shape, one run of bytes.

Both ways the array's bytes are left where they are: what goes out refers to the array's memory,
what comes in is a read-only view of the message. A shape is compared with the bytes that are
there, in Python's unbounded integers, before NumPy sees it.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError

from vaco.v1 import trajectory_pb2 as pb
from vaco.wire import Span, WireError, field_key, field_number, split, varint

Array: TypeAlias = npt.NDArray[Any]
Part: TypeAlias = bytes | memoryview

MAX_DIMENSIONS: Final = 8
MAX_NAME_LENGTH: Final = 128

ALIGNMENT: Final = 8
_MAX_HEAD_BYTES: Final = 1024  # of a tensor without its data, of a name
_MAX_VOLUME: Final = 1 << 40

_DTYPES: Final[dict["pb.DType.ValueType", np.dtype[Any]]] = {
    pb.DTYPE_BOOL: np.dtype(np.bool_),
    pb.DTYPE_UINT8: np.dtype(np.uint8),
    pb.DTYPE_INT8: np.dtype(np.int8),
    pb.DTYPE_INT32: np.dtype("<i4"),
    pb.DTYPE_INT64: np.dtype("<i8"),
    pb.DTYPE_FLOAT32: np.dtype("<f4"),
    pb.DTYPE_FLOAT64: np.dtype("<f8"),
}
_NUMBERS: Final[dict[np.dtype[Any], "pb.DType.ValueType"]] = {d: n for n, d in _DTYPES.items()}

_DATA_KEY: Final = field_key(pb.Tensor, "data")
_TENSOR_KEY: Final = field_key(pb.NamedTensor, "tensor")
_DATA: Final = frozenset({field_number(pb.Tensor, "data")})
_TENSOR: Final = frozenset({field_number(pb.NamedTensor, "tensor")})


class MalformedFragment(ValueError):  # noqa: N818 - the fate it leads to is the better name
    """A fragment that cannot be trained on.

    Attributes:
        field: the message's field that is wrong, e.g. `observations[image]`.
        problem: what is wrong with it.

    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


def tensor_parts(
    key: bytes, array: Array, position: int, name: str | None = None
) -> tuple[bytes, memoryview]:
    """Return a serialised `Tensor` field: what precedes the array's bytes, and those.

    Args:
        key: of the field, from `field_key`.
        array: any memory layout; its memory is referred to, unless it is not contiguous.
        position: where in the message the field begins; the array's bytes are aligned to it.
        name: given, the field is a `NamedTensor`.

    Raises:
        TypeError: the wire has no such dtype.

    """
    number = _NUMBERS.get(array.dtype)
    if number is None:
        number = _NUMBERS.get(array.dtype.newbyteorder("<"))
        if number is None:
            raise TypeError(f"dtype {array.dtype} has no place on the wire")
    shape = array.shape
    data = np.ascontiguousarray(array, _DTYPES[number]).data
    return _head(key, number, shape, data.nbytes, position % ALIGNMENT, name), data


@functools.lru_cache(maxsize=1024)
def _head(
    key: bytes,
    dtype: "pb.DType.ValueType",
    shape: tuple[int, ...],
    size: int,
    phase: int,
    name: str | None,
) -> bytes:
    """Return everything before the array's bytes, with the padding that aligns them."""
    for padding in range(2 * ALIGNMENT):
        tensor = pb.Tensor(dtype=dtype, shape=shape, padding=bytes(padding))
        head = tensor.SerializeToString() + _DATA_KEY + varint(size)
        if name is not None:
            named = pb.NamedTensor(name=name).SerializeToString()
            head = named + _TENSOR_KEY + varint(len(head) + size) + head
        head = key + varint(len(head) + size) + head
        if (phase + len(head)) % ALIGNMENT == 0:
            break
    return head


class Envelope(NamedTuple):
    """A serialised tensor without its array.

    Attributes:
        head: the bytes before the array's.
        tail: those after them; none, if our own code wrote them.
        name: of a `NamedTensor`; else empty.
        dtype: of the array.
        shape: of the array.
        size: bytes of the array.

    """

    head: bytes
    tail: bytes
    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    size: int

    def place(self, span: Span) -> Span:
        """Return where the array's bytes are in a tensor at `span`."""
        end = span[1] - len(self.tail)
        return end - self.size, end


def read_tensor(field: str, data: bytes, span: Span) -> Array:
    """Return a read-only view of the array in the serialised `Tensor` at `span`.

    Only an array that its sender did not align is copied.

    Raises:
        MalformedFragment: no tensor, of unknown dtype, or of a shape that its bytes do not fill.

    """
    return _view(data, span, ENVELOPES.of_tensor(field, data, span))


def read_named_tensor(field: str, data: bytes, span: Span) -> tuple[str, Array]:
    """Return name and array of the serialised `NamedTensor` at `span`; see `read_tensor`.

    Raises:
        MalformedFragment: no name, one that is too long, or no tensor as `read_tensor` reads it.

    """
    envelope = ENVELOPES.of_named_tensor(field, data, span)
    return envelope.name, _view(data, span, envelope)


def check_bools(field: str, array: Array) -> None:
    """Refuse a bool that is neither 0 nor 1: NumPy does not expect there to be any.

    Args:
        field: what to name in the error.
        array: of any dtype; others than bools are passed over.

    Raises:
        MalformedFragment: there is one.

    """
    if array.dtype.kind != "b" or array.size == 0:
        return
    if np.maximum.reduce(array.reshape(-1).view(np.uint8)) > 1:
        raise MalformedFragment(field, "a bool that is neither 0 nor 1")


def _view(data: bytes, span: Span, envelope: Envelope) -> Array:
    if envelope.size == 0:
        return np.empty(envelope.shape, envelope.dtype)
    array: Array = np.ndarray(envelope.shape, envelope.dtype, data, envelope.place(span)[0])
    return array if array.flags.aligned else array.copy()


class _Envelopes:
    """Remembers what tensors looked like that were parsed before.

    All fragments of a job have tensors of the same few names, dtypes and shapes, so a tensor whose
    bytes before the array are ones already seen need not be parsed again. `size` entries at most.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._known: dict[tuple[str, int], Envelope] = {}

    def of_tensor(self, field: str, data: bytes, span: Span) -> Envelope:
        """Return the envelope of the `Tensor` at `span`; may raise MalformedFragment."""
        return self._find(field, data, span, _parse_tensor)

    def of_named_tensor(self, field: str, data: bytes, span: Span) -> Envelope:
        """Return the envelope of the `NamedTensor` at `span`; may raise MalformedFragment."""
        return self._find(field, data, span, _parse_named_tensor)

    def _find(
        self, field: str, data: bytes, span: Span, parse: Callable[[str, bytes, Span], Envelope]
    ) -> Envelope:
        start, end = span
        known = self._known.get((field, end - start))
        if (
            known is not None
            and data.startswith(known.head, start)
            and data.endswith(known.tail, start, end)
        ):
            return known
        envelope = parse(field, data, span)
        if len(self._known) >= self._size:
            self._known.clear()
        self._known[field, end - start] = envelope
        return envelope


ENVELOPES: Final = _Envelopes(size=1024)


def _parse_tensor(field: str, data: bytes, span: Span) -> Envelope:
    start, end = span
    try:
        rest, found = split(data, span, _DATA)
        if len(rest) > _MAX_HEAD_BYTES or len(found) > 1:
            raise WireError(f"data {len(found)} times, {len(rest)} bytes besides")
        tensor = pb.Tensor.FromString(rest)
    except (WireError, DecodeError) as error:
        raise MalformedFragment(field, f"not a Tensor: {error}") from error
    dtype = _DTYPES.get(tensor.dtype)
    if dtype is None:
        raise MalformedFragment(field, f"unknown dtype {tensor.dtype}")
    if len(tensor.shape) > MAX_DIMENSIONS:
        raise MalformedFragment(field, f"{len(tensor.shape)} dimensions, over {MAX_DIMENSIONS}")
    shape = tuple(tensor.shape)
    # An empty array can have dimensions whose product NumPy cannot hold.
    if math.prod(max(d, 1) for d in shape) > _MAX_VOLUME:
        raise MalformedFragment(field, f"shape {shape} is too large")
    first, last = found[0][1] if found else (end, end)
    size = math.prod(shape) * dtype.itemsize
    if last - first != size:
        raise MalformedFragment(field, f"{last - first} bytes, shape {shape} takes {size}")
    return Envelope(data[start:first], data[last:end], "", dtype, shape, size)


def _parse_named_tensor(field: str, data: bytes, span: Span) -> Envelope:
    start, end = span
    try:
        rest, found = split(data, span, _TENSOR)
        if len(rest) > _MAX_HEAD_BYTES:
            raise WireError(f"{len(rest)} bytes besides the tensor's")
        name = pb.NamedTensor.FromString(rest).name
    except (WireError, DecodeError) as error:
        raise MalformedFragment(field, f"not a NamedTensor: {error}") from error
    if not 0 < len(name) <= MAX_NAME_LENGTH:
        raise MalformedFragment(field, f"a name of {len(name)} characters")
    if len(found) != 1:
        raise MalformedFragment(f"{field}[{name}]", f"{len(found)} tensors")
    tensor = _parse_tensor(f"{field}[{name}]", data, found[0][1])
    first, last = tensor.place(found[0][1])
    return tensor._replace(head=data[start:first], tail=data[last:end], name=name)
