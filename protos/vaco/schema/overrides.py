"""`--set algorithm.epochs=2`: fields of a manifest that are given on the command line."""

import copy
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from vaco.errors import UserError
from vaco.schema.manifest import read_text
from vaco.schema.problems import JobError

_ROOTS: Final = frozenset({"apiVersion", "kind", "metadata", "spec", "status"})


def apply_overrides(document: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Set fields of a manifest.

    Args:
        document: The manifest in plain values; it is not changed.
        overrides: Assignments such as `algorithm.epochs=2` or `metadata.name=x`. The path starts
            at the document or at `spec`; entries of lists are `wrappers[0]` or `wrappers.0`. The
            value is YAML.

    Returns:
        The changed copy. Whether the fields exist is for validation to tell.

    Raises:
        UserError: If an assignment is malformed or its path leads through what is no mapping.

    """
    changed: dict[str, Any] = copy.deepcopy(dict(document))
    for override in overrides:
        path, sign, text = override.partition("=")
        if not sign or not path.strip():
            raise UserError("--set", f"{override!r} is no assignment", "Write `--set path=value`.")
        steps = re.sub(r"\[(\d+)\]", r".\1", path.strip()).split(".")
        if steps[0] not in _ROOTS:
            steps.insert(0, "spec")
        _assign(changed, steps, _value(override, text), override)
    return changed


def _value(override: str, text: str) -> Any:
    try:
        read = read_text(text, override)
    except JobError as error:
        raise UserError(f"--set {override}", error.problems[0].problem) from error
    if read.problems:
        raise UserError(f"--set {override}", read.problems[0].problem, read.problems[0].cure)
    return read.value


def _assign(document: dict[str, Any], steps: list[str], value: Any, override: str) -> None:
    here: Any = document
    for done, step in enumerate(steps):
        last = done == len(steps) - 1
        if isinstance(here, dict):
            # A field that is absent or null is made, so that what is below it can be given.
            if last or here.get(step) is None:
                here[step] = value if last else {}
            here = here[step]
        elif isinstance(here, list) and step.isdecimal() and int(step) < len(here):
            if last:
                here[int(step)] = value
            here = here[int(step)]
        else:
            parent = ".".join(steps[:done])
            problem = f"{parent} has no field or entry {step}"
            raise UserError(f"--set {override}", problem, f"Set `{parent}` as a whole.")
