"""Variants as one object: a structural schema has no unions, so their fields stand side by side.

A field that only some variants have gets no default, because it would be there with the others too;
the programs fill it in. A rule refuses it beside a tag that it does not belong to.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from vaco.explain import Entry, entries_of
from vaco.schema.base import RULES, Rule
from vaco.schema.tree import Node, phrase

from vaco_operator.crd.cel import Validation, escaped, one_of, quoted, validation


@dataclass(frozen=True, slots=True)
class Member:
    """A field of a part.

    Attributes:
        name: Its name in YAML.
        entries: What documentation says of it: one entry, or one for each meaning that variants
            give it.
        owners: Tags of the variants that have it; empty if the part has no variants.
        everywhere: Whether it is a field of the part whatever its variant.

    """

    name: str
    entries: tuple[Entry, ...]
    owners: tuple[str, ...]
    everywhere: bool

    @property
    def node(self) -> Node:
        """The field itself, as the first variant has it."""
        return self.entries[0].node

    @property
    def opaque(self) -> bool:
        """Whether CEL cannot see it, because anything may be below it."""
        value = self.node.value
        return value is not None and "type" not in value.bare

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.everywhere and self.entries[0].default == "required"

    @property
    def has_default(self) -> bool:
        """Whether it is filled in, with the same value whatever the variant."""
        one = self.everywhere and len(self.entries) == 1
        return one and self.node.schema.get("default") is not None

    def meant(self, part: Node) -> str:
        """Say in CEL what it means when it is left out of `{part}`; empty: nothing in CEL."""
        if self.node.fields or self.node.variants:
            return ""  # an object is no map in CEL: there is no way to spell one
        variants = [(owner, part.variants[owner].fields[self.name]) for owner in self.owners]
        defaults = {owner: json.dumps(node.schema.get("default")) for owner, node in variants}
        told = ""
        for owner, default in defaults.items():
            if default == "null":
                return ""
            if not told or len(set(defaults.values())) == 1:
                told = default
            else:
                told = f"{{part}}.{part.tag} == {quoted(owner)} ? {default} : {told}"
        return told


def members(part: Node) -> list[Member]:
    """List the fields of a part, those of all its variants together."""
    found: dict[str, list[Entry]] = {}
    for entry in entries_of(part):
        found.setdefault(entry.name, []).append(entry)
    return [_member(part, name, tuple(entries)) for name, entries in found.items()]


def _member(part: Node, name: str, entries: tuple[Entry, ...]) -> Member:
    owners = tuple(tag for tag, variant in part.variants.items() if name in variant.fields)
    return Member(name, entries, owners, everywhere=len(owners) == len(part.variants))


def rules_of(part: Node) -> Iterator[Validation]:
    """Write the rules of a part, and which of its fields belong to which variant."""
    for rule in part.bare.get(RULES, ()):
        yield _written(rule, "")
    tag = part.tag
    if tag is None:
        return
    for name, variant in part.variants.items():
        # The server judges the default of the part as well, which is empty: the first variant.
        first = name == next(iter(part.variants))
        unsaid = f"has(self.{tag}) &&" if first else f"!has(self.{tag}) ||"
        for rule in variant.bare.get(RULES, ()):
            yield _written(rule, f"{unsaid} self.{tag} != '{name}' || ")
    for member in members(part):
        if member.everywhere or member.opaque:
            continue
        needing = [tag for tag in member.owners if member.name in part.variants[tag].required]
        if needing:
            yield validation(
                f"!({one_of(f'self.{tag}', needing)}) || has(self.{escaped(member.name)})",
                [member.name],
                f"`{tag}: {{self.{tag}}}` needs it. Give {phrase(member.node)}.",
                "FieldValueRequired",
            )
        named = " or ".join(f"`{tag}: {owner}`" for owner in member.owners)
        yield validation(
            f"!has(self.{escaped(member.name)}) || {one_of(f'self.{tag}', member.owners)}",
            [member.name],
            f"it belongs to {named}, not to `{tag}: {{self.{tag}}}`. "
            f"Leave it out, or choose {named}.",
            "FieldValueForbidden",
        )


def _written(rule: Rule, unless: str) -> Validation:
    holds = f"{unless}({rule.cel.holds})" if unless else rule.cel.holds
    return validation(holds, rule.at, rule.cel.told)
