"""What is wrong with a manifest, all of it at once, in the words of the person who wrote it.

Every problem is told as path, value found, cause and cure; paths are spelled as in the file.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pydantic_core import ErrorDetails

from vaco.errors import UserError, did_you_mean
from vaco.schema.base import RULE_BROKEN, Broken
from vaco.schema.sound import Place
from vaco.schema.tags import WRONG_TAG
from vaco.schema.tree import Node, one_of, phrase
from vaco.schema.yaml_dialect import in_one_line

MAX_SHOWN: Final = 60
"""Characters of a value that are shown."""


class FieldError(UserError):
    """A problem of one field, with the line of the file that has it, if it is known."""

    def __init__(self, path: str, problem: str, cure: str = "", line: int | None = None) -> None:
        super().__init__(path, problem, cure)
        self.line = line

    def __str__(self) -> str:
        told = super().__str__()
        at = f"`{self.path}`"
        return told.replace(at, f"{at} (line {self.line})", 1) if self.line else told


class JobError(UserError):
    """A manifest is refused, for all the reasons in `problems`."""

    def __init__(self, source: str, problems: Sequence[FieldError]) -> None:
        self.problems = tuple(sorted(problems, key=lambda each: each.line or 0))
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        super().__init__(source, count)

    def __str__(self) -> str:
        return "\n".join([f"{self.path}: {self.problem}", *(f"  {each}" for each in self.problems)])


def spell(place: Iterable[str | int]) -> str:
    """Spell a place as a path: `spec.task.imports[0]`."""
    told = ""
    for step in place:
        if isinstance(step, int):
            told += f"[{step}]"
        elif re.fullmatch(r"[\w-]+", step):
            told += f".{step}" if told else step
        else:
            told += f"[{json.dumps(step)}]"
    return told


def shown(value: object) -> str:
    """Show a value as it could stand in the file, cut to a readable length."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


class Translator:
    """Translates what pydantic found into what the reader of the manifest understands.

    Args:
        tree: The schema.
        document: What was validated.
        lines: Line of the file for each place that the file has.

    """

    def __init__(self, tree: Node, document: Mapping[str, Any], lines: Mapping[Place, int]) -> None:
        self._tree = tree
        self._document = document
        self._lines = lines

    def place(self, error: ErrorDetails) -> Place:
        """Tell where in the manifest a finding is."""
        return self.locate(error)[0]

    def locate(self, error: ErrorDetails) -> tuple[Place, Node]:
        """Tell where in the manifest a finding is, and what the schema says of that field."""
        return self._locate(error["loc"])

    def error(self, error: ErrorDetails) -> FieldError | None:
        """Translate one finding; None if it only follows from another."""
        if error["type"] == "default_factory_not_called":
            return None
        place, node = self._locate(error["loc"])
        if error["type"] == RULE_BROKEN:
            words = error["ctx"]
            return self._field_error(place, str(words["problem"]), str(words["cure"]))
        if error["type"] == "extra_forbidden":
            return self._field_error(place, "unknown field", self._cure_unknown(place))
        if error["type"] == "missing":
            cure = f"Give {phrase(node)}: {_first(node)}{_example(place, node)}"
            return self._field_error(place, "missing", cure)
        if error["type"] == WRONG_TAG and node.tag is not None:
            return self._wrong_tag((*place, node.tag), node, str(error["ctx"]["tag"]))
        cause, cure = _of_value(error, node)
        return self._field_error(place, cause, cure)

    def rule(self, place: Place, broken: Broken) -> FieldError:
        """Translate a rule that is broken at a place."""
        return self._field_error(place, broken.problem, broken.cure)

    def _field_error(self, place: Place, problem: str, cure: str) -> FieldError:
        # What is missing is told at the line of what it is missing from.
        parents = (place[:n] for n in range(len(place), 0, -1))
        line = next((self._lines[each] for each in parents if each in self._lines), None)
        return FieldError(spell(place), problem, cure, line)

    def _locate(self, location: Sequence[str | int]) -> tuple[Place, Node]:
        """Follow a location of pydantic's, which has the tags of variants in it, down the tree."""
        place: Place = ()
        node = self._tree
        for step in location:
            if isinstance(step, str) and step in node.variants:
                node = node.variants[step]
                continue
            place = (*place, step)
            below = node.below(step) or Node({}, {})
            # An entry of a list is described where the list is.
            node = below if below.description else below.described_by(node)
        return place, node

    def _wrong_tag(self, place: Place, node: Node, said: str) -> FieldError:
        choices = list(node.variants)
        cure = f"{did_you_mean(said, choices)}Give {one_of(choices)}."
        return self._field_error(place, f"{shown(said)} is none of its choices", cure)

    def _cure_unknown(self, place: Place) -> str:
        *parents, name = place
        parent, said = self._parent(parents)
        holders = [tag for tag, variant in parent.variants.items() if name in variant.fields]
        fields = parent.variants[said].fields if said in parent.variants else parent.fields
        if holders:
            guess = f"It belongs to `{parent.tag}: {one_of(holders)}`; this is {said}. "
        else:
            guess = did_you_mean(str(name), fields) or self._elsewhere(place)
        owner = f"`{spell(parents)}`" if parents else "The document"
        return f"{guess}{owner} has {', '.join(fields)}."

    def _parent(self, parents: Sequence[str | int]) -> tuple[Node, str]:
        """Find the part that a field is in, and which of its variants the manifest says it is."""
        node, value = self._tree, self._document
        for step in parents:
            node, value = node.below(step) or Node({}, {}), value[step]  # type: ignore[index]
        return node, str(value.get(node.tag or "", next(iter(node.variants), "")))

    def _elsewhere(self, place: Place) -> str:
        """Name the places where a field of that name would be right."""
        ends = [path for path, _ in self._tree.walk() if path.rpartition(".")[2] == place[-1]]
        near = sorted({path for path in ends if path.split(".")[0] == (*place, "spec")[0]})
        return f"There is `{'` and `'.join(near[:3])}`. " if near else ""


def _of_value(error: ErrorDetails, node: Node) -> tuple[str, str]:
    """Tell cause and cure of a value that is not what the field takes."""
    value, kind = error["input"], error["type"]
    found, cure = shown(value), f"Give {phrase(node)}."
    if node.choices:
        return f"{found} is none of its choices", did_you_mean(str(value), node.choices) + cure
    if kind in _OUT_OF_BOUNDS:
        return f"{found} is {_OUT_OF_BOUNDS[kind]}", cure
    if kind in ("too_short", "too_long"):
        return f"{len(value)} entries are too {'few' if kind == 'too_short' else 'many'}", cure
    if kind in ("string_too_short", "string_too_long"):
        amount = "few" if kind == "string_too_short" else "many"
        return f"{len(value)} characters are too {amount}", _first(node)
    if kind == "string_pattern_mismatch":
        return f"{found} is not spelled as it must be", _first(node)
    if isinstance(value, str) and node.bare.get("type") in ("integer", "number", "boolean"):
        return f"{found} is text", f"{cure} Numbers, true and false are written without quotes."
    if node.fields:
        cure = f"Give a mapping with {', '.join(node.fields)}{', or null' * node.nullable}."
    return f"{found} is {_kind_of(value, node)}", cure


_OUT_OF_BOUNDS: Final = {
    "greater_than": "too small",
    "greater_than_equal": "too small",
    "less_than": "too large",
    "less_than_equal": "too large",
}


def _kind_of(value: object, node: Node) -> str:
    if isinstance(value, float) and node.bare.get("type") == "integer":
        return "not whole"
    kinds = {
        type(None): "no value",
        bool: "a truth value",
        int: "a number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a mapping",
    }
    return kinds.get(type(value), f"a {type(value).__name__}")


def _example(place: Place, node: Node) -> str:
    """Show how a field could be given, if its schema has an example."""
    examples = node.schema.get("examples", ())
    return f" For example `{place[-1]}: {in_one_line(examples[0])}`." if examples else ""


def _first(node: Node) -> str:
    """Take the first sentence of a field's description."""
    return f"{node.description.split('. ')[0].rstrip('.')}."
