"""Documentation of the VACOJob, read off its models: `vaco explain` and docs/vacojob.md.

`python -m vaco.explain [PATH]` prints the documentation of a field, `--markdown` the reference of
all of them.
"""

import argparse
import json
import re
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from vaco.errors import EXIT_FAILURE, EXIT_OK, UserError, did_you_mean
from vaco.job import KIND, VACOJob
from vaco.schema.changes import change_of
from vaco.schema.tree import Node, one_of, phrase, tree_of

WIDTH = 96


@dataclass(frozen=True, slots=True)
class Entry:
    """One field as documentation shows it.

    Attributes:
        name: Its name in YAML.
        value: What it may be.
        default: What it is when left out, or `required`; empty if its own fields or its meaning
            say it.
        meaning: Its description.
        node: The field, to go on below it.

    """

    name: str
    value: str
    default: str
    meaning: str
    node: Node = field(compare=False)

    @property
    def head(self) -> str:
        """Value and default in one line."""
        if self.default in ("", "required"):
            return f"{self.value} (required)" if self.default else self.value
        return f"{self.value} (default {self.default})"


def explain(path: str | None = None) -> str:
    """Document a field: what it may be, its default, its meaning, and what is below it.

    Args:
        path: `spec.algorithm.delta`, or from `spec` on, `algorithm.delta`; entries of lists need no
            index. None for the whole document.

    Raises:
        UserError: If there is no such field.

    """
    tree = tree_of(VACOJob)
    if not path:
        return "\n".join([KIND, "", *_wrapped(tree.description), "", *_listed(tree)])
    steps = [step for step in re.sub(r"\[\d*\]", "", path.strip()).split(".") if step]
    if not steps or steps[0] not in tree.fields:
        steps.insert(0, "spec")
    lines: list[str] = []
    found = _find(tree, [step for step in steps if not step.isdecimal()], path)
    when = _when(".".join(steps))
    for entry in found:
        lines += [f"{'.'.join(steps)}: {entry.head}", "", *_wrapped(entry.meaning), ""]
        lines += [f"May change on a cluster: {when}.", ""] if when else []
        lines += _listed(entry.node)
    return "\n".join(lines).rstrip()


def _find(tree: Node, steps: list[str], path: str) -> list[Entry]:
    """Follow a path; more than one entry if variants mean different things by the last name."""
    node = tree
    found: list[Entry] = []
    for step in steps:
        entries = entries_of(node)
        found = [entry for entry in entries if entry.name == step]
        if not found:
            names = dict.fromkeys(entry.name for entry in entries)
            known = f"There is {', '.join(names)}." if names else "Nothing is below it."
            cure = f"{did_you_mean(step, names)}{known}"
            raise UserError(path, f"there is no field {step!r}", cure)
        node = found[0].node
    return found


def entries_of(node: Node) -> list[Entry]:
    """List the fields below a node: those of all variants first, then what only some have."""
    part = node.item or node
    if part.tag is None:
        return _entries_of_part(part)
    tags = list(part.variants)
    # Variants that say the same of a field share an entry.
    owners: dict[Entry, list[str]] = {}
    for tag, variant in part.variants.items():
        for entry in _entries_of_part(variant):
            owners.setdefault(entry, []).append(tag)
    shared, special = [], []
    for entry, having in owners.items():
        if entry.name == part.tag:
            continue
        if len(having) == len(tags):
            shared.append(entry)
        else:
            only = f"Only with `{part.tag}: {', '.join(having)}`. {entry.meaning}"
            special.append(replace(entry, meaning=only))
    tag_field = part.variants[tags[0]].fields[part.tag]
    tag_entry = Entry(part.tag, one_of(tags), tags[0], tag_field.description, tag_field)
    return [tag_entry, *shared, *special]


def _entries_of_part(part: Node) -> list[Entry]:
    return [
        Entry(name, phrase(child), _default(part, name), child.description, child)
        for name, child in part.fields.items()
    ]


def _default(part: Node, name: str) -> str:
    if name in part.required:
        return "required"
    default = part.fields[name].schema.get("default", {})
    return "" if isinstance(default, dict) else json.dumps(default).strip('"')


def _listed(node: Node) -> list[str]:
    lines: list[str] = []
    for entry in entries_of(node):
        lines += [f"  {entry.name}: {entry.head}", *_wrapped(entry.meaning, 6)]
    return lines


def _wrapped(text: str, indent: int = 0) -> list[str]:
    margin = " " * indent
    return textwrap.wrap(text, WIDTH, initial_indent=margin, subsequent_indent=margin)


def markdown() -> str:
    """Write the reference of all fields, one table per part."""
    tree = tree_of(VACOJob)
    lines = [
        "# VACOJob reference",
        "",
        "<!-- Generated by `python -m vaco.explain --markdown` from the models in vaco.schema. -->",
        "",
        "The manifest of a training run. `vaco validate FILE` checks one, `vaco explain PATH`",
        "prints what is said here of one field. Unknown fields are refused.",
        "",
        "*Changes* says when a field may change once the job is on a cluster: at any time, while",
        "`spec.suspend` is true, or never. Anything else is refused by the API server.",
        "",
        *_tables(KIND, "", tree, {}),
    ]
    return "\n".join(lines).rstrip()


def _tables(title: str, path: str, node: Node, told: dict[tuple[Entry, ...], str]) -> list[str]:
    """Write the table of a part and those below it; `told` holds what has a table already."""
    lines = [f"## {title}", "", node.description, ""]
    entries = entries_of(node)
    known = told.setdefault(tuple(entries), title)
    if known != title:
        return [*lines, f"It has the fields of [{known}](#{_anchor(known)}).", ""]
    in_spec = path.split(".")[0] == "spec"
    lines += ["| Field | Value | Default |" + " Changes |" * in_spec + " Meaning |"]
    lines += ["|---|---|---|" + "---|" * in_spec + "---|"]
    below: list[str] = []
    for entry in entries:
        here = f"{path}.{entry.name}" if path else entry.name
        changes = [_when(here) or "see below"] if in_spec else []
        cells = (f"`{entry.name}`", entry.value, entry.default, *changes, entry.meaning)
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
        if entries_of(entry.node):
            here += "[]" if entry.node.item else ""
            below += _tables(here, here, entry.node, told)
    return [*lines, "", *below]


def _when(path: str) -> str | None:
    """Tell when a field may change; None if the fields below it say it, or it is not of `spec`."""
    root, _, field = path.replace("[]", "").partition(".")
    return change_of(field) if root == "spec" and field else None


def _anchor(title: str) -> str:
    return re.sub(r"[^\w-]", "", title.lower())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m vaco.explain", description=__doc__)
    parser.add_argument("path", nargs="?", help="a field, such as spec.algorithm.delta")
    parser.add_argument("--markdown", action="store_true", help="the reference of all fields")
    given = parser.parse_args(arguments)
    try:
        told = markdown() if given.markdown else explain(given.path)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_FAILURE
    sys.stdout.write(f"{told}\n")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main())
