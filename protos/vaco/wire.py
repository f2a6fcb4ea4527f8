"""Protobuf's wire format, as far as large arrays need it.

The generated code copies every `bytes` field twice on the way in and four times on the way out.
For what is small that does not matter; for an array of a MiB it is most of the cost. So messages
are taken apart here: large fields are found where they lie and stay there, the small rest goes
through the generated code. A message is a run of fields; a field is a key (number and wire
type), then a number, or a length and that many bytes.

What is read comes from a process we do not trust to be correct: nothing is believed before it was
compared with the bytes that are there, and the number of fields looked at is bounded.
"""

from collections.abc import Container
from typing import Final, TypeAlias

from google.protobuf.message import Message

_VARINT: Final = 0
_FIXED64: Final = 1
_LENGTH_DELIMITED: Final = 2
_FIXED32: Final = 5

MAX_FIELDS: Final = 256
_MAX_VARINT_BITS: Final = 63

Span: TypeAlias = tuple[int, int]
"""Where the bytes of a field begin and end."""


class WireError(ValueError):
    """Bytes that are no message."""


def field_number(message: type[Message], field: str) -> int:
    """Return the number of a field of `message`."""
    return message.DESCRIPTOR.fields_by_name[field].number


def field_key(message: type[Message], field: str) -> bytes:
    """Return what a length-delimited field of `message` begins with, before its length."""
    return varint(field_number(message, field) << 3 | _LENGTH_DELIMITED)


def varint(value: int) -> bytes:
    """Return `value` (not negative) in protobuf's variable-length encoding."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def split(data: bytes, span: Span, wanted: Container[int]) -> tuple[bytes, list[tuple[int, Span]]]:
    """Separate the length-delimited fields `wanted` of a message from its other fields.

    Args:
        data: holds the message.
        span: where in `data` the message is.
        wanted: numbers of fields.

    Returns:
        The other fields, for the generated code to parse, and number and place of each wanted one.

    Raises:
        WireError: a field reaches beyond the message, has an unknown wire type, or there are more
            than `MAX_FIELDS` of them.

    """
    rest: list[bytes] = []
    found: list[tuple[int, Span]] = []
    position, end = span
    kept = position
    fields = 0
    while position < end:
        fields += 1
        if fields > MAX_FIELDS:
            raise WireError(f"more than {MAX_FIELDS} fields")
        begin = position
        # Nearly all keys, and most lengths, are one byte: that is read without a call.
        key, position = data[position], position + 1
        if key > 0x7F:
            key, position = _read_varint(data, begin, end)
        wire_type = key & 7
        if wire_type == _LENGTH_DELIMITED:
            if position < end and data[position] <= 0x7F:
                size, first = data[position], position + 1
            else:
                size, first = _read_varint(data, position, end)
            position = first + size
            if key >> 3 in wanted:
                if kept < begin:
                    rest.append(data[kept:begin])
                found.append((key >> 3, (first, position)))
                kept = position
        elif wire_type == _VARINT:
            position = _read_varint(data, position, end)[1]
        elif wire_type in (_FIXED32, _FIXED64):
            position += 4 if wire_type == _FIXED32 else 8
        else:
            raise WireError(f"wire type {wire_type}")
        if position > end:
            raise WireError("a field that reaches beyond its message")
    if kept < end:
        rest.append(data[kept:end])
    return b"".join(rest), found


def _read_varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Return the number at `position` and the position behind it.

    Raises:
        WireError: it does not end before `end`, or is too large.

    """
    value = shift = 0
    while position < end:
        byte = data[position]
        position += 1
        if byte < 0x80:
            return value | byte << shift, position
        value |= (byte & 0x7F) << shift
        shift += 7
        if shift > _MAX_VARINT_BITS:
            break
    raise WireError("a number that does not end")
