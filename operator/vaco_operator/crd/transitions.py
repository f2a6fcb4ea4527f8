"""What may change when, as rules: one for each field, so that a refusal names the field.

All of them stand at `spec`, where the job is seen to be suspended, and where a field that comes or
goes is seen as well: a rule at the field itself would be judged only if it was there before and
after.
"""

from collections.abc import Iterator
from typing import Final

from vaco.schema.changes import Change, change_of, presence_of
from vaco.schema.tree import Node

from vaco_operator.crd.cel import Field, Validation, validation
from vaco_operator.crd.variants import members

_TOLD: Final[dict[Change, str]] = {
    "never": "it never changes: what was learned depends on it. Leave it as it was, or make "
    "another job.",
    "while suspended": "it changes only while the job is suspended. Set `spec.suspend` to true "
    "first.",
}
_GUARD: Final[dict[Change, str]] = {"never": "", "while suspended": "oldSelf.suspend || "}


def transition_rules(
    part: Node, path: tuple[str, ...] = (), unless: str = ""
) -> Iterator[Validation]:
    """Write the rules for all fields below a part.

    Args:
        part: `spec` or a part below it.
        path: From `spec` to the part.
        unless: When there is nothing to compare, followed by an or; empty: there always is.

    """
    seen: list[Field] = []
    hidden: list[Field] = []
    for member in members(part):
        here = (*path, member.name)
        there = member.required or member.has_default or member.name == part.tag
        field = Field(here, not there, member.opaque, "" if there else member.meant(part))
        if (member.node.fields or member.node.variants) and there:
            yield from transition_rules(member.node, here, unless)
        elif change_of(".".join(here)) is None:
            yield from _rule(field, presence_of(".".join(here)), field.stays, unless)
            yield from transition_rules(member.node, here, f"{unless}{field.missing} || ")
        else:
            (hidden if field.opaque else seen).append(field)
    for field in seen:
        yield from _rule(field, change_of(".".join(field.path)), field.unchanged, unless)
    others = " || ".join(field.changed for field in seen)
    for field in hidden:
        # What CEL cannot see is compared with the part around it, unless that is known to differ.
        when = change_of(".".join(field.path))
        yield from _rule(field, when, f"{Field(path).unchanged} || {others}", unless)


def _rule(field: Field, when: Change | None, unchanged: str, unless: str) -> Iterator[Validation]:
    if when in _TOLD:
        holds = f"{unless}{_GUARD[when]}{unchanged}"
        yield validation(holds, field.path, _TOLD[when], "FieldValueForbidden")
