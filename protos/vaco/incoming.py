"""A fragment that has arrived and is not decoded yet: identity and totals are read, arrays are not.

So the learner can tell whose it is, and answer and count it, before it trusts any more of it.
"""

from typing import Any, Final, Self

import numpy as np
from google.protobuf.message import DecodeError

from vaco.layout import Layout, Layouts, Placed
from vaco.tensors import (
    ENVELOPES,
    Array,
    MalformedFragment,
    check_bools,
    read_named_tensor,
    read_tensor,
)
from vaco.v1 import trajectory_pb2 as pb
from vaco.wire import Span, WireError, field_key, field_number, split, varint

MAX_NAMED_TENSORS: Final = 64

NAMED_FIELDS: Final = ("observations", "core_state", "final_observations")
TENSOR_FIELDS: Final = (
    "actions",
    "rewards",
    "terminated",
    "truncated",
    "valid",
    "behaviour_logp",
    "versions",
    "episode_start",
    "return_carry",
    "final_steps",
    "episode_returns",
    "episode_lengths",
)
_FIELDS: Final = {
    field_number(pb.Trajectory, name): name for name in (*NAMED_FIELDS, *TENSOR_FIELDS)
}
_KEYS: Final = {number: field_key(pb.Trajectory, name) for number, name in _FIELDS.items()}
_MAX_HEAD_BYTES: Final = 4096


_LAYOUTS: Final = Layouts()
_NOTHING: Final[Array] = np.empty(0)


class IncomingFragment:
    """A serialised `Trajectory`, taken apart.

    Attributes:
        head: the message without its arrays.

    """

    __slots__ = ("_data", "_keys", "_record", "_spans", "head")

    def __init__(
        self,
        head: pb.Trajectory,
        data: bytes,
        laid_out: tuple[Layout, Array] | None,
        spans: dict[str, list[Span]],
    ) -> None:
        self.head = head
        self._data = data
        self._keys = laid_out[0].keys if laid_out else {}
        self._record = laid_out[1] if laid_out else _NOTHING
        self._spans = spans

    @classmethod
    def parse(cls, data: bytes, span: Span | None = None) -> Self:
        """Take the message in `data` apart; nothing is copied, `data` is kept.

        Args:
            data: holds the serialised message.
            span: where it is; None: it is all of `data`.

        Raises:
            MalformedFragment: the bytes are no `Trajectory`.

        """
        start, end = span or (0, len(data))
        laid_out = _LAYOUTS.find(data, (start, end))
        try:
            behind = start + laid_out[0].size if laid_out else start
            rest, found = split(data, (behind, end), _FIELDS)
            if len(rest) > _MAX_HEAD_BYTES:
                raise WireError(f"{len(rest)} bytes of other fields than arrays")
            head = pb.Trajectory.FromString(rest)
        except (WireError, DecodeError) as error:
            raise MalformedFragment("trajectory", f"not a message: {error}") from error
        spans: dict[str, list[Span]] = {}
        for number, where in found:
            spans.setdefault(_FIELDS[number], []).append(where)
        if laid_out is None:
            _learn(data, start, found)
        return cls(head, data, laid_out, spans)

    @property
    def claimed_samples(self) -> int:
        """Valid steps, if it is well-formed enough to tell; else all that it says it has."""
        steps: int = self.head.length * self.head.environments
        try:
            return min(int(np.count_nonzero(self.tensor("valid"))), steps)
        except MalformedFragment:
            return steps

    def tensor(
        self,
        field: str,
        shape: tuple[int, ...] | None = None,
        dtype: np.dtype[Any] | None = None,
    ) -> Array:
        """Return a read-only view of an array.

        Args:
            field: its name.
            shape: the shape it must have; None: any.
            dtype: the dtype it must have; None: any the wire knows.

        Raises:
            MalformedFragment: it is not there exactly once, malformed, or another than asked for.

        """
        keys, spans = self._keys.get(field), self._spans.get(field)
        if keys is not None and spans is None:
            array = self._record[keys[""]]
        elif keys is None and spans is not None and len(spans) == 1:
            array = read_tensor(field, self._data, spans[0])
        else:
            raise MalformedFragment(field, "there twice" if keys or spans else "missing")
        if dtype is not None and array.dtype != dtype:
            raise MalformedFragment(field, f"dtype {array.dtype}, expected {dtype}")
        if shape is not None and array.shape != shape:
            raise MalformedFragment(field, f"shape {array.shape}, expected {shape}")
        check_bools(field, array)
        return array

    def named_tensors(self, field: str, leading: tuple[int, ...]) -> dict[str, Array]:
        """Return read-only views of arrays by name; each begins with the dimensions `leading`.

        Raises:
            MalformedFragment: too many, a name twice, malformed, or of other dimensions.

        """
        spans = self._spans.get(field, ())
        arrays = {name: self._record[key] for name, key in self._keys.get(field, {}).items()}
        if len(arrays) + len(spans) > MAX_NAMED_TENSORS:
            problem = f"{len(arrays) + len(spans)} tensors, over {MAX_NAMED_TENSORS}"
            raise MalformedFragment(field, problem)
        for span in spans:
            name, array = read_named_tensor(field, self._data, span)
            if name in arrays:
                raise MalformedFragment(f"{field}[{name}]", "there twice")
            arrays[name] = array
        for name, array in arrays.items():
            if array.shape[: len(leading)] != leading:
                problem = f"shape {array.shape} does not begin with {leading}"
                raise MalformedFragment(f"{field}[{name}]", problem)
            check_bools(f"{field}[{name}]", array)
        return arrays


def _learn(data: bytes, start: int, found: list[tuple[int, Span]]) -> None:
    """Remember the layout of a message that was read field by field."""
    placed = []
    for number, span in found:
        field = _FIELDS[number]
        find = ENVELOPES.of_named_tensor if field in NAMED_FIELDS else ENVELOPES.of_tensor
        try:
            envelope = find(field, data, span)
        except MalformedFragment:
            return  # what is malformed is no example
        begin = span[0] - len(varint(span[1] - span[0])) - len(_KEYS[number])
        placed.append(Placed(field, begin, span, envelope))
    _LAYOUTS.learn(data, start, placed)
