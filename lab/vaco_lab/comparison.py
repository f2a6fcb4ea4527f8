"""From the rows of a matrix to what is said of it: who is compared with whom, and how it ends.

A setting is everything that is not compared: with `compare: algorithm` that is one lag and one
switch. In it each entry has one score for every training run; environments are its tasks. A run
that diverged is one of them, with the score that it earned.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from vaco_lab.cell import ASYNC, Lag
from vaco_lab.matrix import Matrix
from vaco_lab.statistics import (
    Estimate,
    Scores,
    estimate,
    interquartile_mean,
    probability_of_improvement,
)

Row = dict[str, Any]

FINAL: Final = "final_return"
AREA: Final = "auc"

LEAST_RUNS: Final = 3
"""Under this many runs in an environment nothing is told apart: each has few ways to fall out."""
FEW_RUNS: Final = 10
"""Under this many runs in an environment the bootstrap's intervals are too narrow."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One entry's scores in one column, and how it stands to the reference.

    Attributes:
        scores: For each task those of its runs.
        middle: Their interquartile mean.
        reference_better: Probability that a run of the reference scores more than one of this
            entry; None for the reference itself.

    """

    scores: Scores
    middle: Estimate
    reference_better: Estimate | None

    @property
    def told_apart(self) -> bool:
        """Whether the interval of that probability leaves out 1/2, and says something.

        With few runs it says nothing where it is a point: all pairs went one way, and so do all
        bootstrap samples of them.
        """
        better, runs = self.reference_better, min(len(task) for task in self.scores)
        if better is None or runs < LEAST_RUNS or (runs < FEW_RUNS and better.is_point):
            return False
        return better.leaves_out(0.5)

    @property
    def better(self) -> bool:
        """Whether it is told apart from the reference as the better one."""
        return self.told_apart and self._probability < 0.5

    @property
    def worse(self) -> bool:
        """Whether it is told apart from the reference as the worse one."""
        return self.told_apart and self._probability > 0.5

    @property
    def _probability(self) -> float:
        return self.reference_better.value if self.reference_better else 0.5


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry in one setting.

    Attributes:
        label: Of the entry.
        rows: Its runs.
        measures: Of `FINAL` and of `AREA`; without the latter where runs have none.

    """

    label: str
    rows: list[Row]
    measures: Mapping[str, Measure]

    @property
    def diverged(self) -> int:
        """How many of its runs diverged."""
        return sum(row["outcome"] == "diverged" for row in self.rows)

    def known(self, column: str) -> list[float]:
        """Return a column of those of its runs that have it: one that diverged at once has none."""
        return [float(row[column]) for row in self.rows if row.get(column) is not None]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is not compared, and the entries that are.

    Attributes:
        label: Of the setting.
        lag: K, or `async`.
        environments: That are compared in.
        seeds: Of each of them; the same number for all.
        missing: Environments of the matrix that are left out until they have more runs.
        unused: Finished runs that are in no figure, because another entry has no run of their seed
            or another environment has fewer seeds.
        entries: In the matrix's order.

    """

    label: str
    lag: Lag
    environments: list[str]
    seeds: int
    missing: list[str]
    unused: int
    entries: list[Entry]


def settings_of(matrix: Matrix, rows: Sequence[Row]) -> Iterator[Setting]:
    """Compare: for each setting that has runs of all entries, in the matrix's order."""
    axes = matrix.axes
    other = "switch" if matrix.compare == "algorithm" else "algorithm"
    others, labels = getattr(axes, other), list(getattr(axes, matrix.compare))
    for name in others:
        for lag in axes.lag:
            here = [row for row in rows if row[other] == name and row["lag"] == lag]
            seeds = _seeds(matrix, here, labels)
            if not seeds:
                continue
            used = [row for row in here if row["seed"] in seeds.get(row["environment"], ())]
            words = "real lag" if lag == ASYNC else f"K = {lag}"
            yield Setting(
                label=words if len(others) == 1 else f"{other} {name}, {words}",
                lag=lag,
                environments=list(seeds),
                seeds=len(next(iter(seeds.values()))),
                missing=[label for label in axes.environment if label not in seeds],
                unused=len(here) - len(used),
                entries=list(_entries(matrix, labels, used)),
            )


def scores_of(matrix: Matrix, rows: Sequence[Row], column: str) -> Scores:
    """Return for each task its runs' values of a column, as scores if the matrix says how."""
    tasks: dict[str, list[float]] = {}
    for row in rows:
        low, high = matrix.scores.get(row["environment"], (0.0, 1.0))
        tasks.setdefault(row["environment"], []).append((row[column] - low) / (high - low))
    return [np.asarray(values, np.float64) for _, values in sorted(tasks.items())]


def _seeds(matrix: Matrix, rows: Sequence[Row], labels: Sequence[str]) -> dict[str, list[int]]:
    """Return the environments that are compared in, and of each the same number of seeds.

    A seed counts if every entry has a run of it. Of the numbers that environments have, the one is
    taken that keeps most runs: so an environment with a few runs yet is left out, and one that
    lacks a few cuts the others. An equal number in each is what makes the tasks weigh alike.
    """
    have: dict[tuple[str, int], set[str]] = {}
    for row in rows:
        have.setdefault((row["environment"], row["seed"]), set()).add(row[matrix.compare])
    whole: dict[str, list[int]] = {}
    for environment in matrix.axes.environment:
        seeds = [
            seed
            for seed in range(matrix.axes.seed)
            if len(have.get((environment, seed), ())) == len(labels)
        ]
        if seeds:
            whole[environment] = seeds
    if not whole:
        return {}

    def kept(number: int) -> tuple[int, int]:
        environments = sum(len(seeds) >= number for seeds in whole.values())
        return number * environments, environments

    most = max({len(seeds) for seeds in whole.values()}, key=kept)
    return {label: seeds[:most] for label, seeds in whole.items() if len(seeds) >= most}


def _entries(matrix: Matrix, labels: Sequence[str], rows: Sequence[Row]) -> Iterator[Entry]:
    def of(label: str) -> list[Row]:
        return [row for row in rows if row[matrix.compare] == label]

    columns = [FINAL] if any(row[AREA] is None for row in rows) else [FINAL, AREA]
    reference = {name: scores_of(matrix, of(matrix.reference), name) for name in columns}
    for label in labels:
        measures = {
            name: _measure(
                scores_of(matrix, of(label), name),
                None if label == matrix.reference else reference[name],
            )
            for name in columns
        }
        yield Entry(label, of(label), measures)


def _measure(scores: Scores, reference: Scores | None) -> Measure:
    def middle(groups: Sequence[Scores]) -> float:
        return interquartile_mean(groups[0])

    def superior(groups: Sequence[Scores]) -> float:
        return probability_of_improvement(groups[0], groups[1])

    # Each figure draws anew, so that a page does not depend on what else is on it.
    better = None
    if reference is not None:
        better = estimate(superior, [reference, scores], np.random.default_rng(0))
    return Measure(scores, estimate(middle, [scores], np.random.default_rng(0)), better)
