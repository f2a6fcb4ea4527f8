"""A user's pod template merged into the operator's, the way Kubernetes merges strategically.

Mappings are merged field by field, null takes a field away, and a list is replaced, but for the
lists named here: their items have a key, and an item of the user's is merged into ours of the same
key or added behind. So it is in `kubectl patch --type=strategic`, with two differences:

- an item of `volumes` or `env` replaces ours of the same name as a whole, since it can have one
  source only;
- tolerations are added to ours, since without ours a pod waits minutes on a dead node.

The `$patch` directives of strategic merge patches are refused.
"""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Final

from pydantic import JsonValue
from vaco.errors import UserError

MERGE_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "containers": ("name",),
    "env": ("name",),
    "hostAliases": ("ip",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ports": ("containerPort",),
    "resourceClaims": ("name",),
    "schedulingGates": ("name",),
    "tolerations": ("key", "effect"),
    "topologySpreadConstraints": ("topologyKey",),
    "volumeDevices": ("devicePath",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
"""Lists that are merged by the fields that tell their items apart."""

# A toleration without a key is for every taint, one without an effect for every effect.
_OPTIONAL: Final = frozenset({"tolerations"})
_REPLACED: Final = frozenset({"env", "tolerations", "volumes"})

Fields = dict[str, Any]


def merged(base: Mapping[str, Any], change: Mapping[str, JsonValue], path: str) -> Fields:
    """Merge `change` into a copy of `base`.

    Args:
        base: pod template of the operator's, or a part of it.
        change: the user's.
        path: of `change` in the manifest, for errors.

    Raises:
        UserError: something in `change` cannot be merged.

    """
    result: Fields = deepcopy(dict(base))
    for name, value in change.items():
        here = f"{path}.{name}"
        if name.startswith("$"):
            raise UserError(here, "a directive", "Set a field to null to take it away.")
        if value is None:
            result.pop(name, None)
        else:
            result[name] = _value(name, result.get(name), value, here)
    return result


def _value(name: str, ours: Any, value: JsonValue, path: str) -> Any:
    if isinstance(ours, dict | list) and not isinstance(value, type(ours)):
        kind = "mapping" if isinstance(ours, dict) else "list"
        raise UserError(path, f"no {kind}", f"Give a {kind}, or null for none.")
    if isinstance(value, dict):
        return merged(ours if isinstance(ours, dict) else {}, value, path)
    if isinstance(value, list) and name in MERGE_KEYS:
        return _items(name, ours or [], value, path)
    return deepcopy(value)


def _items(name: str, ours: list[Fields], items: list[JsonValue], path: str) -> list[Fields]:
    result = {_key(name, item, path): deepcopy(item) for item in ours}
    for index, item in enumerate(items):
        here = f"{path}[{index}]"
        if not isinstance(item, dict):
            raise UserError(here, "no mapping", "Write its fields below it.")
        key = _key(name, item, here)
        before = {} if name in _REPLACED else result.get(key, {})
        result[key] = merged(before, item, here)
    return list(result.values())


def _key(name: str, item: Mapping[str, Any], path: str) -> tuple[Any, ...]:
    fields = MERGE_KEYS[name]
    lacking = [field for field in fields if not isinstance(item.get(field), str | int)]
    if lacking and name not in _OPTIONAL:
        raise UserError(path, f"has no {lacking[0]}", f"Give `{lacking[0]}`: it tells items apart.")
    return tuple(item.get(field) for field in fields)
