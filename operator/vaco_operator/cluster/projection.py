"""Whether a child is still as it was left: the part of it that we speak of.

The API server fills in defaults, writes quantities its own way, and others may have a say in the
same object. So what we asked for never equals what is there. What can be compared is what the
server answered to our last write, reduced to the fields in it, with what is there now, reduced the
same way: if they differ, somebody changed a field of ours.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

_KEYS: Final = ("name", "mountPath", "containerPort", "uid")
"""Fields by which Kubernetes tells items of a list apart, where it does."""


def projection(live: Any, shape: Any) -> Any:
    """Reduce `live` to the fields that are in `shape`."""
    if isinstance(shape, Mapping) and isinstance(live, Mapping):
        return {name: projection(live.get(name), part) for name, part in shape.items()}
    if isinstance(shape, list) and isinstance(live, list):
        key = _key(shape)
        if key is None:
            return live
        there = {item[key]: item for item in live if isinstance(item, Mapping) and key in item}
        return [projection(there.get(item[key]), item) for item in shape]
    return live


def digest(value: Any) -> bytes:
    """Digest plain values, whatever the order of their fields."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _key(items: Sequence[Any]) -> str | None:
    """Return a field that tells all items of a list apart."""
    return next((key for key in _KEYS if _tells_apart(key, items)), None)


def _tells_apart(key: str, items: Iterable[Any]) -> bool:
    values = [item.get(key) if isinstance(item, Mapping) else None for item in items]
    named = all(isinstance(value, str | int) for value in values)
    return named and len(set(values)) == len(values) > 0
