"""A matrix: one job, and axes along which it is varied.

    base job x environment x algorithm x switch x lag x seed -> cells

Entries of an axis are assignments as `vaco run --set` takes them, under a label. All cells are
made, and so checked, before the first is run.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError
from vaco.errors import UserError, did_you_mean
from vaco.job import VACOJob, load_job, parse_job
from vaco.schema.base import RULE_BROKEN, Part
from vaco.schema.loading import load
from vaco.schema.manifest import read_file
from vaco.schema.overrides import apply_overrides
from vaco.schema.problems import JobError, shown

from vaco_lab.cell import ASYNC, Cell, Lag
from vaco_lab.evaluation import EvaluationPlan

MAX_CELLS: Final = 10_000
_LABEL: Final = re.compile(r"[A-Za-z0-9-][A-Za-z0-9 ._+=,/x-]{0,39}")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,50}")


def _lags(value: object) -> object:
    """Refuse what is no list of lags, in words: of either kind alone there would be two errors."""
    entries = value if isinstance(value, list) else [value]
    wrong = [each for each in entries if type(each) is not int and each != ASYNC]
    if wrong:
        near = did_you_mean(wrong[0], [ASYNC]) if isinstance(wrong[0], str) else ""
        raise _refusal(shown(wrong[0]), f"{near}Give numbers from 1, or `async`.")
    if not isinstance(value, list):
        raise _refusal(f"{shown(value)} is no list", "Give numbers from 1, or `async`, as a list.")
    return value


def _job_or_path(value: object) -> object:
    """Refuse what is neither, in words."""
    if not isinstance(value, str | dict):
        raise _refusal(shown(value), "Give the path of a manifest, or a VACOJob.")
    return value


def _refusal(problem: str, cure: str) -> PydanticCustomError:
    return PydanticCustomError(RULE_BROKEN, "{problem}", {"problem": problem, "cure": cure})


class Axes(Part):
    """What is varied; entries are assignments such as `algorithm.epochs=2`, under a label."""

    environment: dict[str, list[str]] = Field(description="Environments, by label.")
    algorithm: dict[str, list[str]] = Field(description="Algorithms, by label.")
    switch: dict[str, list[str]] = Field(default={"-": []}, description="Variants, by label.")
    lag: Annotated[list[int | Literal["async"]], BeforeValidator(_lags)] = Field(
        default=[1],
        description="K: each fragment is made with one of the last K versions, drawn uniformly, so "
        "1 is no lag. `async`: a real `vaco run`, whose lag is measured.",
    )
    seed: int = Field(default=10, ge=1, le=1000, description="How many seeds, counted from 0.")


class Matrix(Part):
    """A matrix of training runs."""

    name: str = Field(description="Name of the result page.")
    title: str = Field(description="Heading of the result page.")
    notes: str = Field(default="", description="What the page says besides, in Markdown.")
    base: Annotated[str | dict[str, Any], BeforeValidator(_job_or_path)] = Field(
        description="The job that is varied: the path of a manifest, or a VACOJob."
    )
    axes: Axes = Field(description="What is varied.")
    compare: Literal["algorithm", "switch"] = Field(
        default="algorithm", description="The axis whose entries are compared with each other."
    )
    reference: str = Field(description="The entry of that axis that the others are compared with.")
    scores: dict[str, list[float]] = Field(
        default={},
        description="For each environment the return that counts as 0 and the one that counts as "
        "1: by these environments are averaged.",
    )
    evaluation: EvaluationPlan = Field(
        default=EvaluationPlan(), description="When and on how much each run is evaluated."
    )
    cell_minutes: float = Field(
        default=30.0,
        gt=0,
        le=100_000,
        description="Minutes after which a cell is killed and counts as failed.",
    )
    findings: str | None = Field(
        default=None,
        description="The path of what is said of the results, in Markdown, which the page prints; "
        "left out: NAME.md beside the matrix, if there is one.",
    )


def load_matrix(path: Path) -> Matrix:
    """Read a matrix; its base is then a job in full, so that it can be written elsewhere.

    For the same reason the path of its findings is then absolute; there need be no such file.

    Raises:
        UserError: The file, the base or an entry will not do.

    """
    _check_file(path, str(path), "Give the path of a matrix.")
    matrix = load(Matrix, path, ())
    _check(matrix, str(path))
    findings = (path.parent / (matrix.findings or f"{matrix.name}.md")).resolve()
    base = matrix.base
    if isinstance(base, str):
        cure = "Give the path of a manifest beside the matrix, or a VACOJob."
        _check_file(path.parent / base, f"{path} base", cure)
        base = _base(path.parent / base)
    return matrix.model_copy(update={"base": base, "findings": str(findings)})


def _check_file(path: Path, where: str, cure: str) -> None:
    """Refuse a file that cannot be opened, in words for what it should be."""
    try:
        path.open("rb").close()
    except OSError as error:
        told = "" if where == str(path) else f"{path}: "
        raise UserError(where, f"{told}{error.strerror}", cure) from error


def _base(path: Path) -> dict[str, Any]:
    """Read a manifest as it is written: the defaults of one algorithm are not another's fields."""
    job = load_job(path)
    document: dict[str, Any] = read_file(path).value
    if not job.spec.is_language and job.spec.control.task.imports:
        document["spec"]["task"]["imports"] = list(job.spec.control.task.imports)
    return document


def cells_of(matrix: Matrix, source: str) -> list[Cell]:
    """Return all cells: one environment after the other, and in each seed by seed.

    What is done of a matrix is then complete for some seeds.

    Args:
        matrix: With its base in full.
        source: Where it comes from, for errors.

    Raises:
        UserError: An entry makes a job that is not sound, none that can be compared, or the same
            as another.

    """
    axes = matrix.axes
    made: list[Cell] = []
    for environment in axes.environment:
        low = matrix.scores[environment][0] if environment in matrix.scores else None
        jobs = {
            labels: _job(matrix, source, (environment, *labels))
            for labels in itertools.product(axes.algorithm, axes.switch)
        }
        for seed in range(axes.seed):
            for (labels, job), lag in itertools.product(jobs.items(), axes.lag):
                _check_lag(job, lag, source)
                seeded = job.model_copy(update={"spec": job.spec.model_copy(update={"seed": seed})})
                algorithm, switch = labels
                names = (environment, algorithm, lag, switch, seed)
                made.append(Cell(*names, seeded, matrix.evaluation, low))
    _check_twins(made, source)
    return made


def _job(matrix: Matrix, source: str, labels: tuple[str, str, str]) -> VACOJob:
    environment, algorithm, switch = labels
    axes = matrix.axes
    assert isinstance(matrix.base, dict)  # noqa: S101 - load_matrix saw to it
    where = f"{source} ({environment}, {algorithm}, {switch})"
    given = [*axes.environment[environment], *axes.algorithm[algorithm], *axes.switch[switch]]
    try:
        job = parse_job(apply_overrides(matrix.base, given), where)
    except JobError:
        raise
    except UserError as error:
        raise UserError(f"{where} {error.path}", error.problem, error.cure) from error
    spec = job.spec
    if spec.is_language:
        raise UserError(where, "a language model's task", "Only environments can be compared.")
    if spec.stop.env_steps is None or spec.stop.return_ or spec.stop.wall_clock_seconds:
        raise UserError(
            f"{where} spec.stop",
            "runs are compared after the same number of steps",
            "Give `envSteps`, and neither `return` nor `wallClockSeconds`.",
        )
    return job


def _check_twins(cells: Sequence[Cell], source: str) -> None:
    """Refuse entries that do the same under two labels: one run would count as two."""
    known: dict[str, Cell] = {}
    for cell in cells:
        twin = known.setdefault(cell.key, cell)
        if twin is not cell:
            cure = "Remove one, or let its assignments change something."
            raise UserError(f"{source} axes", f"'{twin}' and '{cell}' are the same run", cure)


def _check_lag(job: VACOJob, lag: Lag, source: str) -> None:
    most = job.spec.learner.max_policy_lag
    if lag != ASYNC and lag - 1 > most:
        raise UserError(
            f"{source} axes.lag",
            f"{lag}, but fragments over {most} versions behind are not trained",
            "Raise `spec.learner.maxPolicyLag`.",
        )


def _check(matrix: Matrix, source: str) -> None:
    """Refuse what the types of the fields let pass."""
    axes = matrix.axes
    if not _NAME.fullmatch(matrix.name):
        raise UserError(f"{source} name", f"'{matrix.name}'", "Use a-z, 0-9 and `-`.")
    for name in ("environment", "algorithm", "switch"):
        _check_labels(f"{source} axes.{name}", getattr(axes, name))
    if not axes.lag or any(lag != ASYNC and lag < 1 for lag in axes.lag):
        raise UserError(f"{source} axes.lag", f"{axes.lag}", "Give numbers from 1, or `async`.")
    if len(set(axes.lag)) < len(axes.lag):
        raise UserError(f"{source} axes.lag", f"{axes.lag} has an entry twice", "Keep one.")
    entries = getattr(axes, matrix.compare)
    if matrix.reference not in entries:
        near = did_you_mean(matrix.reference, entries)
        cure = f"{near}It is an entry of `axes.{matrix.compare}`."
        raise UserError(f"{source} reference", f"there is no '{matrix.reference}'", cure)
    _check_scores(matrix, source)
    count = axes.seed * len(axes.lag)
    for name in ("environment", "algorithm", "switch"):
        count *= len(getattr(axes, name))
    if count > MAX_CELLS:
        raise UserError(f"{source} axes", f"{count} cells, over {MAX_CELLS}", "Vary less.")


def _check_labels(where: str, entries: Mapping[str, list[str]]) -> None:
    if not entries:
        raise UserError(where, "no entries", "Give at least one, with `[]` if it changes nothing.")
    for label in entries:
        if not _LABEL.fullmatch(label):
            raise UserError(where, f"the label '{label}'", "Use up to 40 letters, digits, ` ._+-`.")


def _check_scores(matrix: Matrix, source: str) -> None:
    environments = matrix.axes.environment
    for label, pair in matrix.scores.items():
        if label not in environments:
            cure = f"{did_you_mean(label, environments)}It is an entry of `axes.environment`."
            raise UserError(f"{source} scores", f"there is no environment '{label}'", cure)
        if len(pair) != 2 or pair[0] >= pair[1]:
            cure = "Give the return that counts as 0, then a greater one that counts as 1."
            raise UserError(f"{source} scores.{label}", f"{pair}", cure)
    missing = [label for label in environments if label not in matrix.scores]
    if missing and len(environments) > 1:
        cure = "Give the returns that count as 0 and as 1, or only one environment."
        raise UserError(f"{source} scores", f"none for '{missing[0]}'", cure)
