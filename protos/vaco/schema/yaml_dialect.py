"""The YAML of manifests: read within bounds, written so that it is read as it was meant.

Scalars mean what they mean to `kubectl`, which differs from PyYAML in what people write: 1e-5 is a
number, 2026-01-31 and 1:30 are text. Bounds hold while nodes are composed, before any value is
built: on nesting, and on the number of nodes after aliases are followed, so that a few nested
aliases cannot blow up.
"""

import re
from typing import Any, Final

import yaml
from yaml.nodes import Node, ScalarNode
from yaml.resolver import Resolver

MAX_NODES: Final = 20_000
MAX_DEPTH: Final = 40

_UNICODE_BREAKS: Final = frozenset("\x85\u2028\u2029")

TAG: Final = "tag:yaml.org,2002:"
SCALARS: Final = {
    f"{TAG}null": re.compile(r"(~|null|Null|NULL|)\Z"),
    f"{TAG}bool": re.compile(r"(?i:true|false|yes|no|on|off)\Z"),
    f"{TAG}int": re.compile(r"[-+]?(0|[1-9][0-9_]{0,99}|0b[01]{1,99}|0x[0-9a-fA-F]{1,99})\Z"),
    f"{TAG}float": re.compile(
        r"([-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(?i:inf)|\.(?i:nan))\Z"
    ),
    f"{TAG}merge": re.compile(r"<<\Z"),
}
"""What a plain scalar is, by its spelling; anything else is text."""


class _Dialect(Resolver):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (declared so by PyYAML)


for _tag, _spelling in SCALARS.items():
    _Dialect.add_implicit_resolver(_tag, _spelling, None)


class ManifestLoader(_Dialect, yaml.SafeLoader):
    """Composes the nodes of one document within the bounds."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0
        self._depth = 0
        self._size: dict[Node, int] = {}

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        """Compose a node and count it, an alias as all that it stands for.

        Raises:
            yaml.MarkedYAMLError: If a bound is passed.

        """
        before = self._nodes
        mark = self.get_mark()
        is_alias = self.check_event(yaml.AliasEvent)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"nested more than {MAX_DEPTH} deep", problem_mark=mark
            )
        node = super().compose_node(parent, index)
        if node is not None:
            if is_alias and node not in self._size:
                raise yaml.MarkedYAMLError(
                    problem="an alias of a value that contains it", problem_mark=mark
                )
            self._nodes += self._size[node] if is_alias else 1
            self._size[node] = self._nodes - before
        if self._nodes > MAX_NODES:
            raise yaml.MarkedYAMLError(problem=f"more than {MAX_NODES} values", problem_mark=mark)
        self._depth -= 1
        return node


class ManifestDumper(_Dialect, yaml.SafeDumper):
    """Quotes what `ManifestLoader` would not read as text."""


def _text(dumper: ManifestDumper, text: str) -> ScalarNode:
    # Line breaks that only Unicode knows are folded away unless they are escaped.
    style = '"' if _UNICODE_BREAKS.intersection(text) else None
    return dumper.represent_scalar(f"{TAG}str", text, style)


ManifestDumper.add_representer(str, _text)


def in_one_line(value: object) -> str:
    """Write a value as it can stand after a field's name."""
    text = yaml.dump(value, Dumper=ManifestDumper, default_flow_style=True, sort_keys=False)
    return str(text).strip()
