"""From a file to a VACOJob and back."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from vaco.schema.base import Part
from vaco.schema.manifest import Document, read_file
from vaco.schema.overrides import apply_overrides
from vaco.schema.problems import FieldError, JobError, Translator, shown, spell
from vaco.schema.sound import Place, broken_rules
from vaco.schema.tags import with_guessed_tags
from vaco.schema.tree import tree_of
from vaco.schema.yaml_dialect import ManifestDumper

P = TypeVar("P", bound=Part)

_FILES = ("file", "heldOutFile")


def load(model: type[P], path: Path, overrides: Iterable[str]) -> P:
    """Read a manifest; see `vaco.job.load_job`."""
    read = read_file(path)
    if not isinstance(read.value, dict):
        problem = "empty" if read.value is None else f"{shown(read.value)} is no mapping"
        cure = "A manifest begins with `apiVersion: training.vaco.dev/v1alpha1`."
        raise JobError(str(path), [*read.problems, FieldError("document", problem, cure)])
    given = list(overrides)
    document = apply_overrides(read.value, given)
    lines = {} if given else read.lines
    problems = [*read.problems, *_resolve_files(document, path.parent, lines)]
    return parse(model, document, str(path), Document(lines=lines, problems=problems))


def parse(
    model: type[P], document: Mapping[str, Any], source: str, read: Document | None = None
) -> P:
    """Validate a manifest; see `vaco.job.parse_job`.

    Args:
        model: What it should be.
        document: The manifest in plain values.
        source: Where it comes from, for errors.
        read: Lines of the file and problems found before.

    """
    read = read or Document()
    problems = list(read.problems)
    try:
        part = model.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as error:
        # What the file could not say properly was told before, and need not be told again.
        known = {problem.path for problem in problems}
        found = _translated(model, document, error, read.lines)
        problems += [each for each in found if each.path not in known]
    else:
        if not problems:
            return part
    raise JobError(source, list({str(each): each for each in problems}.values()))


def dump(part: Part) -> str:
    """Write a part as YAML with all its defaults, without what is null."""
    plain = part.model_dump(mode="json", by_alias=True, exclude_none=True)
    return yaml.dump(plain, Dumper=ManifestDumper, sort_keys=False, allow_unicode=True, width=100)


def _translated(
    model: type[Part], document: Mapping[str, Any], error: ValidationError, lines: dict[Place, int]
) -> list[FieldError]:
    tree = tree_of(model)
    locate = Translator(tree, document, lines).locate
    guessed, errors = with_guessed_tags(model, document, error, locate)
    translator = Translator(tree, guessed, lines)
    unsound = frozenset(translator.place(each) for each in errors)
    found = [translator.error(each) for each in errors]
    found += [
        translator.rule(place, broken) for place, broken in broken_rules(model, guessed, unsound)
    ]
    return [each for each in found if each is not None]


def _resolve_files(
    document: dict[str, Any], directory: Path, lines: dict[Place, int]
) -> list[FieldError]:
    """Make the paths of files that `spec.task` names absolute, in place.

    A relative path is what its author has beside the manifest, so it must be there; an absolute one
    may be meant for another machine. What has not the form of a manifest is left to its validation.
    """
    task: Any = document
    for step in ("spec", "task"):
        task = task.get(step) if isinstance(task, dict) else None
    if not isinstance(task, dict):
        return []
    imports, data = task.get("imports"), task.get("data")
    named: list[tuple[Any, Place]] = []
    if isinstance(imports, list):
        named += [
            (imports, ("spec", "task", "imports", i))
            for i, name in enumerate(imports)
            if isinstance(name, str) and name.endswith(".py")
        ]
    if isinstance(data, dict) and data.get("type", "jsonl") == "jsonl":
        there = [key for key in _FILES if isinstance(data.get(key), str)]
        named += [(data, ("spec", "task", "data", key)) for key in there]
    problems = []
    for holder, place in named:
        name = holder[place[-1]]
        if Path(name).is_absolute():
            continue
        holder[place[-1]] = str((directory / name).resolve())
        if not Path(holder[place[-1]]).is_file():
            problem = f"there is no file {shown(name)} in {directory.resolve()}"
            cure = "Give its path relative to the manifest."
            problems.append(FieldError(spell(place), problem, cure, lines.get(place)))
    return problems
