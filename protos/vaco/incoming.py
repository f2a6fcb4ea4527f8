"""A fragment that has arrived and is not decoded yet: identity and totals are read, arrays are not.

So the learner can tell whose it is, and answer and count it, before it trusts any more of it.
"""

from typing import Any, Final, Self

import numpy as np
from google.protobuf.message import DecodeError

from vaco.tensors import Array, MalformedFragment, read_named_tensors, read_tensor
from vaco.v1 import trajectory_pb2 as pb
from vaco.wire import Span, WireError, field_number, split

NAMED_TENSORS: Final = ("observations", "final_observations", "core_state")
TENSORS: Final = (
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
_FIELDS: Final = {field_number(pb.Trajectory, name): name for name in (*NAMED_TENSORS, *TENSORS)}
_MAX_HEAD_BYTES: Final = 4096


class IncomingFragment:
    """A serialised `Trajectory`, taken apart.

    Attributes:
        head: the message without its arrays.

    """

    __slots__ = ("_data", "_spans", "head")

    def __init__(self, head: pb.Trajectory, data: bytes, spans: dict[str, list[Span]]) -> None:
        self.head = head
        self._data = data
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
        span = span or (0, len(data))
        try:
            rest, found = split(data, span, _FIELDS)
            if len(rest) > _MAX_HEAD_BYTES:
                raise WireError(f"{len(rest)} bytes of other fields than arrays")
            head = pb.Trajectory.FromString(rest)
        except (WireError, DecodeError) as error:
            raise MalformedFragment("trajectory", f"not a message: {error}") from error
        spans: dict[str, list[Span]] = {}
        for number, where in found:
            spans.setdefault(_FIELDS[number], []).append(where)
        return cls(head, data, spans)

    def tensor(
        self,
        field: str,
        shape: tuple[int, ...] | None = None,
        dtype: np.dtype[Any] | None = None,
    ) -> Array:
        """Return a read-only view of an array; see `read_tensor`.

        Raises:
            MalformedFragment: it is not there exactly once, or malformed.

        """
        spans = self._spans.get(field, [])
        if len(spans) != 1:
            raise MalformedFragment(field, "there twice" if spans else "missing")
        return read_tensor(field, self._data, spans[0], shape, dtype)

    def named_tensors(self, field: str, leading: tuple[int, ...]) -> dict[str, Array]:
        """Return read-only views of arrays by name; see `read_named_tensors`.

        Raises:
            MalformedFragment: one is malformed.

        """
        return read_named_tensors(field, self._data, self._spans.get(field, []), leading)
