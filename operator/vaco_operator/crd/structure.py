"""From the schema's tree to a structural schema: types, bounds, defaults, documentation.

Nothing is nullable: the API server removes a null where no value is meant, so that leaving a field
out and writing null are the same, as they are for the models. In the status nothing is bounded or
required: what was observed is told, never refused.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from vaco.schema.changes import change_of
from vaco.schema.pod_template import AS_WRITTEN
from vaco.schema.tree import Node

from vaco_operator.crd.cel import Validation
from vaco_operator.crd.variants import Member, members, rules_of

Schema = dict[str, Any]

_ANYTHING: Final[Schema] = {"x-kubernetes-preserve-unknown-fields": True, "nullable": True}
_INT64: Final = (-(2**63), 2**63 - 1)
_KEPT: Final = ("minLength", "maxLength", "pattern", "minItems", "maxItems", "maxProperties")


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the document a field is, and what that means for its schema.

    Attributes:
        path: From the document down, without the indices of lists.
        bounded: Whether values are bounded and fields may be required.
        defaults: Whether defaults are filled in.

    """

    path: str
    bounded: bool = True
    defaults: bool = True

    def below(self, name: str) -> "Place":
        """Go down to a field."""
        return replace(self, path=f"{self.path}.{name}")


def part(node: Node, place: Place, more_rules: Iterable[Validation] = ()) -> Schema:
    """Write the schema of an object with known fields."""
    fields = members(node)
    schema: Schema = {
        "type": "object",
        "properties": {each.name: field(node, each, place.below(each.name)) for each in fields},
    }
    required = [each.name for each in fields if each.required and place.bounded]
    if required:
        schema["required"] = required
    if node.bare.get("additionalProperties"):
        schema["x-kubernetes-preserve-unknown-fields"] = True
    rules = [*rules_of(node), *more_rules]
    if rules and place.bounded:
        schema["x-kubernetes-validations"] = rules
    return schema


def field(parent: Node, member: Member, place: Place) -> Schema:
    """Write the schema of a field, with what documentation says of it."""
    node = member.node
    described = {"description": " ".join(_told(member, place))}
    if AS_WRITTEN in node.bare:
        place = replace(place, defaults=False)
    if member.name == parent.tag:
        words = list(parent.variants)
        return {**described, "type": "string", "enum": words, "default": words[0]}
    schema = {**described, **value(node, place)}
    if place.defaults and place.bounded and member.has_default:
        is_part = bool(node.fields or node.variants)
        # The defaults of a part's own fields fill it.
        schema["default"] = {} if is_part else node.schema["default"]
    return schema


def value(node: Node, place: Place) -> Schema:
    """Write the schema of a value, without documentation."""
    bare = node.bare
    if node.fields or node.variants:
        return part(node, place)
    if "x-kubernetes-int-or-string" in bare:
        return {name: bare[name] for name in bare if name != "title"}
    kind = bare.get("type")
    if kind is None:
        return dict(_ANYTHING)
    schema: Schema = {"type": kind}
    if kind == "integer":
        schema["format"] = "int64"
    if node.value is not None:
        schema["additionalProperties"] = value(node.value, place)
    if node.item is not None:
        schema["items"] = value(node.item, place)
        schema["x-kubernetes-list-type"] = "atomic"
    if "format" in bare:
        schema["format"] = bare["format"]
    if place.bounded:
        schema |= {"enum": list(node.choices)} if node.choices else {}
        schema |= {name: bare[name] for name in _KEPT if name in bare}
        schema |= dict(_bounds(bare))
    return schema


def _bounds(bare: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Spell bounds as Kubernetes does: an open one is a flag beside it."""
    for end, open_end in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if open_end in bare:
            yield end, bare[open_end]
            yield open_end, True
        # Those of an int64 hold anyway; as a float, in which the server keeps bounds, the upper
        # one would be too high.
        elif end in bare and bare[end] not in _INT64:
            yield end, bare[end]


def _told(member: Member, place: Place) -> Iterator[str]:
    """Say what a field means, what it may be, and when it may change."""
    for entry in member.entries:
        yield entry.meaning
        if not (entry.node.fields or entry.node.variants):
            yield f"Value: {entry.head}."
    root, _, below = place.path.partition(".")
    when = change_of(below) if root == "spec" and below and place.defaults else None
    if when is not None:
        yield f"May change: {when}."
