"""What a page's runs were runs of: the base job, and what each label assigns; and its matrix."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from vaco.errors import UserError
from vaco.files import replace_file
from vaco.schema.base import yaml_name
from vaco.schema.loading import dump

from vaco_lab.cell import ASYNC, DECIDING, DECIDING_LEARNER, DECIDING_REAL
from vaco_lab.matrix import Matrix

_MARK: Final = "# The matrix of the page beside it; written by `vaco bench report`."
_WHOLE: Final = (*DECIDING, "stop")
_LEARNER: Final = tuple(map(yaml_name, DECIDING_LEARNER))


def what_ran(matrix: Matrix) -> Iterator[str]:
    """Return the base job as far as it decides a run, and the assignments of the labels."""
    yield "The base job; what is not here has its default, or does not decide what a run gives:\n"
    base = yaml.safe_dump(_deciding(matrix), sort_keys=False, default_flow_style=None, width=120)
    yield f"```yaml\n{base.strip()}\n```\n"
    for axis in ("environment", "algorithm", "switch"):
        for label, assignments in getattr(matrix.axes, axis).items():
            # A matrix without switches has one that is called this.
            if label != "-" or assignments:
                given = ", ".join(f"`{each}`" for each in assignments) or "the base job's"
                yield f"- {axis} {label}: {given}"
    lags = ", ".join(map(str, matrix.axes.lag))
    plan = matrix.evaluation
    yield (
        f"- lag: {lags}; seeds: {matrix.axes.seed}; evaluations: {plan.points} of"
        f" {plan.episodes} episodes"
    )


def check_copy(path: Path) -> None:
    """Refuse to write a copy of the matrix over a file that is none.

    Raises:
        UserError: There is one, which somebody wrote.

    """
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            if file.readline().strip() == _MARK:
                return
    except OSError:
        # Nothing is there, or what cannot be replaced says so when it is.
        return
    raise UserError(
        "--out", f"{path} is there, and no copy of the matrix", "Give another directory."
    )


def write_copy(matrix: Matrix, path: Path) -> None:
    """Write the matrix beside its page, as one that can be run; its findings stay where they are.

    Their path is relative: pages are kept in repositories.
    """
    findings = matrix.findings and os.path.relpath(matrix.findings, path.parent.resolve())
    kept = matrix.model_copy(update={"findings": findings})
    replace_file(path, f"{_MARK}\n{dump(kept)}")


def _deciding(matrix: Matrix) -> dict[str, Any]:
    """Return the fields of the base as they are written, of those parts that matter."""
    assert isinstance(matrix.base, dict)  # noqa: S101 - load_matrix saw to it
    spec: Mapping[str, Any] = matrix.base["spec"]
    real = ASYNC in matrix.axes.lag
    told = {
        name: spec[name] for name in (*_WHOLE, *(DECIDING_REAL if real else ())) if name in spec
    }
    learner = spec.get("learner") or {}
    if not real and any(name in learner for name in _LEARNER):
        told["learner"] = {name: learner[name] for name in _LEARNER if name in learner}
    if (told.get("task") or {}).get("imports"):
        # Where they lie on some machine is of no use to anybody.
        imports = [Path(name).name for name in told["task"]["imports"]]
        told["task"] = {**told["task"], "imports": imports}
    return told
