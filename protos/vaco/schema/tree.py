"""The schema as a tree of fields, to look things up in: what is where, and what it may be.

Errors (`vaco.schema.problems`) and documentation (`vaco.explain`) both speak from it, so that a
field is described in the same words wherever it is described. The tree is read from the JSON schema
that pydantic derives from the models.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any

from pydantic import BaseModel

JsonSchema = Mapping[str, Any]


@dataclass(frozen=True)
class Node:
    """A field, an item of a list, or the document itself.

    Attributes:
        schema: Its JSON schema, its reference resolved.
        definitions: What references refer to.

    """

    schema: JsonSchema
    definitions: Mapping[str, JsonSchema]

    @cached_property
    def nullable(self) -> bool:
        """Whether null is a value of it."""
        return {"type": "null"} in self.schema.get("anyOf", ())

    @cached_property
    def bare(self) -> JsonSchema:
        """The schema of a value that is not null."""
        others = [each for each in self.schema.get("anyOf", ()) if each != {"type": "null"}]
        return self._resolved(others[0]) if self.nullable else self.schema

    @property
    def alternatives(self) -> "list[Node]":
        """The schemas of which a value has one; none if there is only one."""
        return [self._node(each) for each in self.bare.get("anyOf", ())]

    @property
    def description(self) -> str:
        """What it means."""
        return str(self.schema.get("description", ""))

    @property
    def tag(self) -> str | None:
        """Field whose value decides which of the `variants` this is."""
        discriminator = self.bare.get("discriminator")
        return None if discriminator is None else str(discriminator["propertyName"])

    @cached_property
    def variants(self) -> dict[str, "Node"]:
        """What it may be by the value of its `tag`, in the order of the models."""
        named = {ref: name for name, ref in self._mapping().items()}
        references = [str(each["$ref"]) for each in self.bare.get("oneOf", ())]
        return {named[ref]: self._node({"$ref": ref}) for ref in references}

    @cached_property
    def fields(self) -> dict[str, "Node"]:
        """Fields below it, by their names in YAML; none if it has variants."""
        return {name: self._node(each) for name, each in self.bare.get("properties", {}).items()}

    @property
    def required(self) -> frozenset[str]:
        """Names of the fields that must be given."""
        return frozenset(self.bare.get("required", ()))

    @property
    def item(self) -> "Node | None":
        """An entry, if it is a list."""
        return self._node(self.bare["items"]) if "items" in self.bare else None

    @property
    def value(self) -> "Node | None":
        """What is under each key, if it is a mapping with keys of any name."""
        values = self.bare.get("additionalProperties")
        return self._node(values) if isinstance(values, dict) else None

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that it may be, if it is one of some words."""
        if "const" in self.bare:
            return (str(self.bare["const"]),)
        return tuple(str(word) for word in self.bare.get("enum", ()))

    def below(self, step: str | int) -> "Node | None":
        """Go one step down; None where the schema says nothing more."""
        if isinstance(step, int):
            return self.item
        if step in self.fields:
            return self.fields[step]
        return next(
            (each.fields[step] for each in self.variants.values() if step in each.fields),
            self.value,
        )

    def described_by(self, other: "Node") -> "Node":
        """Take the description of another."""
        return replace(self, schema={**self.schema, "description": other.description})

    def walk(self, path: str = "") -> Iterator[tuple[str, "Node"]]:
        """Go through all fields below it, parents first, each with its path."""
        for name, node in self.fields.items():
            here = f"{path}.{name}" if path else name
            yield here, node
            for branch in (node, *node.variants.values(), *([node.item] if node.item else [])):
                yield from branch.walk(here)

    def _mapping(self) -> Mapping[str, str]:
        mapping: Mapping[str, str] = self.bare.get("discriminator", {}).get("mapping", {})
        return mapping

    def _node(self, schema: JsonSchema) -> "Node":
        return Node(self._resolved(schema), self.definitions)

    def _resolved(self, schema: JsonSchema) -> JsonSchema:
        if "$ref" not in schema:
            return schema
        target = self.definitions[str(schema["$ref"]).removeprefix("#/$defs/")]
        # What is said where a part is used counts more than what the part says of itself.
        return {**target, **schema}


@cache
def tree_of(model: type[BaseModel]) -> Node:
    """Read the tree from a model."""
    schema = model.model_json_schema(by_alias=True)
    return Node(schema, schema.get("$defs", {}))


def phrase(node: Node) -> str:
    """Say what a field may be: `an integer from 1 to 64`."""
    told = _phrase_of_value(node)
    return f"{told}, or null" if node.nullable else told


def one_of(words: Sequence[str]) -> str:
    """List alternatives: `a, b or c`."""
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def _phrase_of_value(node: Node) -> str:
    if node.choices:
        return one_of(node.choices)
    if "x-kubernetes-int-or-string" in node.bare:
        return "a quantity such as 500m or 8Gi"
    match node.bare.get("type"):
        case "integer" | "number" as kind:
            return f"{'an integer' if kind == 'integer' else 'a number'}{_bounds(node.bare)}"
        case "boolean":
            return "true or false"
        case "string":
            return "a time such as 2026-01-31T12:00:00Z" if "format" in node.bare else "text"
        case "array":
            most = f" of at most {node.bare['maxItems']}" if "maxItems" in node.bare else ""
            each = f", each {phrase(node.item)}" if node.item else ""
            return f"a list{most}{each}"
        case "object":
            return "a mapping"
        case _:
            kinds = [phrase(each) for each in node.alternatives]
            return "a mapping" if node.tag else one_of(kinds) or "anything"


def _bounds(schema: JsonSchema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f" from {_number(low)} to {_number(high)}" if low != high else f" that is {low}"
    ends = {
        "of at least": low,
        "above": schema.get("exclusiveMinimum"),
        "up to": high,
        "below": schema.get("exclusiveMaximum"),
    }
    told = [f"{word} {_number(end)}" for word, end in ends.items() if end is not None]
    return f" {' and '.join(told)}" if told else ""


def _number(bound: float) -> str:
    return f"{bound:.15g}" if isinstance(bound, float) else f"{bound}"
