"""Arrays on the wire: one dtype, one shape, one run of bytes.

A `Tensor` message arrives from a process we do not trust to be correct, so its shape is
compared with its bytes before NumPy sees it, in Python's unbounded integers. What comes out
is a read-only view of the message's own bytes: nothing is allocated, nothing is copied.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from vaco.v1 import trajectory_pb2 as pb

Array: TypeAlias = npt.NDArray[Any]

MAX_DIMENSIONS: Final = 8
MAX_NAMED_TENSORS: Final = 64
MAX_NAME_LENGTH: Final = 128

_DTYPES: Final[dict["pb.DType.ValueType", np.dtype[Any]]] = {
    pb.DTYPE_BOOL: np.dtype(np.bool_),
    pb.DTYPE_UINT8: np.dtype(np.uint8),
    pb.DTYPE_INT8: np.dtype(np.int8),
    pb.DTYPE_INT32: np.dtype("<i4"),
    pb.DTYPE_INT64: np.dtype("<i8"),
    pb.DTYPE_FLOAT32: np.dtype("<f4"),
    pb.DTYPE_FLOAT64: np.dtype("<f8"),
}
_NUMBERS: Final[dict[np.dtype[Any], "pb.DType.ValueType"]] = {
    dtype: n for n, dtype in _DTYPES.items()
}


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


def tensor_to_proto(array: Array) -> pb.Tensor:
    """Copy `array` (any memory layout) into a message.

    Raises:
        TypeError: the wire has no such dtype.
    """
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _NUMBERS:
        raise TypeError(f"dtype {array.dtype} has no place on the wire")
    data = array.astype(dtype, copy=False).tobytes()
    return pb.Tensor(dtype=_NUMBERS[dtype], shape=array.shape, data=data)


def tensor_from_proto(
    field: str,
    tensor: pb.Tensor,
    shape: tuple[int, ...] | None = None,
    dtype: npt.DTypeLike | None = None,
) -> Array:
    """Return a read-only view of the bytes of `tensor`.

    Args:
        field: what to call the tensor in an error.
        tensor: the message.
        shape: the shape it must have; None: any.
        dtype: the dtype it must have; None: any the wire knows.

    Raises:
        MalformedFragment: the dtype is unknown or another than `dtype`, the shape is another
            than `shape` or does not fit the bytes, or a bool is neither 0 nor 1.
    """
    actual_dtype = _DTYPES.get(tensor.dtype)
    if actual_dtype is None:
        raise MalformedFragment(field, f"unknown dtype number {tensor.dtype}")
    if dtype is not None and actual_dtype != np.dtype(dtype):
        raise MalformedFragment(field, f"dtype {actual_dtype}, expected {np.dtype(dtype)}")
    if len(tensor.shape) > MAX_DIMENSIONS:
        raise MalformedFragment(field, f"{len(tensor.shape)} dimensions, over {MAX_DIMENSIONS}")
    actual_shape = tuple(tensor.shape)
    if shape is not None and actual_shape != shape:
        raise MalformedFragment(field, f"shape {actual_shape}, expected {shape}")
    data = tensor.data
    size = math.prod(actual_shape) * actual_dtype.itemsize
    if len(data) != size:
        raise MalformedFragment(field, f"{len(data)} bytes, shape {actual_shape} takes {size}")
    if actual_dtype == np.bool_ and len(data.translate(None, b"\x00\x01")) > 0:
        raise MalformedFragment(field, "a bool that is neither 0 nor 1")
    return np.frombuffer(data, dtype=actual_dtype).reshape(actual_shape)


def named_to_proto(arrays: Mapping[str, Array]) -> list[pb.NamedTensor]:
    """Copy every array of a mapping into a message, in the mapping's order."""
    return [pb.NamedTensor(name=n, tensor=tensor_to_proto(a)) for n, a in arrays.items()]


def named_from_proto(
    field: str, tensors: Iterable[pb.NamedTensor], count: int, leading: tuple[int, ...]
) -> dict[str, Array]:
    """Return read-only views by name; each begins with the dimensions `leading`.

    Raises:
        MalformedFragment: too many tensors, a name that is empty, too long or used twice, or
            a tensor that `tensor_from_proto` refuses or that has other leading dimensions.
    """
    if count > MAX_NAMED_TENSORS:
        raise MalformedFragment(field, f"{count} tensors, over {MAX_NAMED_TENSORS}")
    arrays: dict[str, Array] = {}
    for named in tensors:
        name = named.name
        if not 0 < len(name) <= MAX_NAME_LENGTH:
            raise MalformedFragment(field, f"a name of {len(name)} characters")
        if name in arrays:
            raise MalformedFragment(f"{field}[{name}]", "there twice")
        array = tensor_from_proto(f"{field}[{name}]", named.tensor)
        if array.shape[: len(leading)] != leading:
            problem = f"shape {array.shape} does not begin with {leading}"
            raise MalformedFragment(f"{field}[{name}]", problem)
        arrays[name] = array
    return arrays
