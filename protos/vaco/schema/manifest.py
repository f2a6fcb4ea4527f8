"""A manifest on its way in: one file, one YAML document, plain values, and where each of them is.

Plain values are what JSON has, because the same file goes to the API server as JSON.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from vaco.errors import UserError
from vaco.schema.problems import FieldError, JobError, spell
from vaco.schema.sound import Place
from vaco.schema.yaml_dialect import MAX_DEPTH, SCALARS, TAG, ManifestLoader

MAX_BYTES: Final = 256 * 1024


@dataclass(slots=True)
class Document:
    """What a text says.

    Attributes:
        value: The document itself, in plain values.
        lines: Line of each place in the text, from 1.
        problems: What the text says that no JSON can say.

    """

    value: Any = None
    lines: dict[Place, int] = field(default_factory=dict)
    problems: list[FieldError] = field(default_factory=list)

    def plain(self, node: Node, place: Place = ()) -> Any:
        """Turn a node into a plain value, and note what cannot be turned."""
        # A field is where its name is, though its value may begin in a later line.
        self.lines.setdefault(place, _line(node))
        if len(place) > MAX_DEPTH:
            self._refuse(place, node, f"nested more than {MAX_DEPTH} deep", "Nest less.")
        elif isinstance(node, MappingNode) and node.tag == f"{TAG}map":
            return {name: self.plain(of, (*place, name)) for name, of in self._fields(node, place)}
        elif isinstance(node, SequenceNode) and node.tag == f"{TAG}seq":
            return [self.plain(item, (*place, i)) for i, item in enumerate(node.value)]
        elif isinstance(node, ScalarNode):
            return self._scalar(node, place)
        else:
            self._refuse_tag(place, node)
        return None

    def _fields(self, node: MappingNode, place: Place) -> Iterator[tuple[str, Node]]:
        """Give the fields of a mapping, what is merged into it (`<<`) before its own."""
        own: dict[str, tuple[Node, Node]] = {}
        for key, value in node.value:
            if key.tag == f"{TAG}merge":
                for merged in value.value if isinstance(value, SequenceNode) else [value]:
                    if isinstance(merged, MappingNode):
                        yield from self._fields(merged, place)
                    else:
                        self._refuse(place, key, "`<<` of what is no mapping", "Leave it out.")
            elif not isinstance(key, ScalarNode) or key.tag != f"{TAG}str":
                self._refuse(place, key, "a key that is not text", "Put it in quotes.")
            elif key.value in own:
                where = f"it is already in line {_line(own[key.value][0])}"
                self._refuse((*place, key.value), key, f"given twice, {where}", "Keep one.")
            else:
                own[key.value] = key, value
        for name, (key, value) in own.items():
            self.lines[*place, name] = _line(key)
            yield name, value

    def _scalar(self, node: ScalarNode, place: Place) -> Any:
        text = node.value
        if node.tag in (f"{TAG}str", f"{TAG}merge"):
            return text
        if node.tag not in SCALARS or not SCALARS[node.tag].match(text):
            self._refuse_tag(place, node)
            return None
        match node.tag.removeprefix(TAG):
            case "null":
                return None
            case "bool":
                return text.lower() in ("true", "yes", "on")
            case "int":
                return int(text, 0)
            case _:
                return self._float(node, place)

    def _float(self, node: ScalarNode, place: Place) -> float | int | None:
        number = float(node.value.replace(".inf", "inf").replace(".nan", "nan").lower())
        if not isfinite(number):
            self._refuse(place, node, f"{node.value} is no finite number", "Give a finite number.")
            return None
        # 1e6 is how people write a million steps; JSON, which the API server reads, knows no
        # difference.
        return int(number) if "e" in node.value.lower() and number.is_integer() else number

    def _refuse_tag(self, place: Place, node: Node) -> None:
        tag = node.tag.replace(TAG, "!!")
        self._refuse(place, node, f"the tag {tag} has no meaning here", "Leave it out.")

    def _refuse(self, place: Place, node: Node, problem: str, cure: str) -> None:
        path = spell(place) or "document"
        self.problems.append(FieldError(path, problem, cure, _line(node)))


def _line(node: Node) -> int:
    return node.start_mark.line + 1


def read_text(text: str, source: str) -> Document:
    """Read one YAML document.

    Args:
        text: The YAML.
        source: Where it comes from, for errors.

    Raises:
        JobError: If it is no YAML, passes a bound, or is more or less than one document.

    """
    try:
        node = ManifestLoader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        told = ", ".join(part for part in (error.context, error.problem) if part)
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise JobError(source, [FieldError("document", told, line=line)]) from error
    except yaml.YAMLError as error:
        told = " ".join(str(error).split())
        raise JobError(source, [FieldError("document", told)]) from error
    document = Document()
    if node is not None:
        document.value = document.plain(node)
    return document


def read_file(path: Path) -> Document:
    """Read a manifest.

    Raises:
        UserError: If there is no such file, or it is too large or no UTF-8.
        JobError: If it is not one YAML document within the bounds.

    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UserError(str(path), f"larger than {MAX_BYTES} bytes", "Is it a manifest?")
        return read_text(content.decode(), str(path))
    except OSError as error:
        raise UserError(str(path), str(error.strerror), "Give the path of a manifest.") from error
    except UnicodeDecodeError as error:
        raise UserError(
            str(path), f"no UTF-8 at byte {error.start}", "Is it a manifest?"
        ) from error
