"""From the rows of a matrix to what is said of it: who is compared with whom, and how it ends.

A setting is everything that is not compared: with `compare: algorithm` that is one lag and one
switch. In it each entry has one score for every training run; environments are its tasks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vaco_lab.matrix import Matrix
from vaco_lab.statistics import (
    Array,
    Estimate,
    Scores,
    estimate,
    interquartile_mean,
    probability_of_improvement,
)

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry in one setting.

    Attributes:
        label: Of the entry.
        rows: Its runs.
        scores: For each task its final scores.
        final: Their interquartile mean.
        auc: The same of the areas under the curves.
        better: Probability that the reference's final score is better than this one's; None for
            the reference itself.

    """

    label: str
    rows: list[Row]
    scores: Scores
    final: Estimate
    auc: Estimate
    better: Estimate | None

    def mean(self, column: str) -> float:
        """Return the mean of a column over its runs."""
        return float(np.mean([row[column] for row in self.rows]))

    def most(self, column: str) -> float:
        """Return its maximum."""
        return float(max(row[column] for row in self.rows))

    @property
    def runs(self) -> str:
        """Say how many runs it has in each task."""
        counts = {len(x) for x in self.scores}
        return str(counts.pop()) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"


@dataclass(frozen=True, slots=True)
class Setting:
    """What is not compared, and the entries that are; those without a run are not there."""

    label: str
    entries: list[Entry]


def settings_of(matrix: Matrix, rows: Sequence[Row]) -> Iterator[Setting]:
    """Compare: for each setting the entries that have runs, in the matrix's order.

    Only environments in which all of them have runs are tasks, and of those the same seeds for all.
    """
    axes = matrix.axes
    other = "switch" if matrix.compare == "algorithm" else "algorithm"
    others, labels = getattr(axes, other), list(getattr(axes, matrix.compare))
    for name in others:
        for lag in axes.lag:
            here = [row for row in rows if row[other] == name and row["lag"] == lag]
            whole = _whole(here, matrix.compare, labels)
            if whole:
                words = [f"K = {lag}"] if len(others) == 1 else [f"{other} {name}", f"K = {lag}"]
                entries = list(_entries(matrix, labels, whole))
                yield Setting(", ".join(words), entries)


def scores_of(matrix: Matrix, rows: Sequence[Row], column: str) -> Scores:
    """Return for each task its runs' values of a column, as scores if the matrix says how."""
    tasks: dict[str, list[float]] = {}
    for row in rows:
        low, high = matrix.scores.get(row["environment"], (0.0, 1.0))
        tasks.setdefault(row["environment"], []).append((row[column] - low) / (high - low))
    return [np.asarray(values, np.float64) for _, values in sorted(tasks.items())]


def _whole(rows: Sequence[Row], compare: str, labels: Sequence[str]) -> list[Row]:
    """Return the rows of those (environment, seed) that every entry has, and that have a return."""
    known = [row for row in rows if row["final_return"] is not None]
    have: dict[tuple[str, int], set[str]] = {}
    for row in known:
        have.setdefault((row["environment"], row["seed"]), set()).add(row[compare])
    wanted = {key for key, entries in have.items() if entries == set(labels)}
    return [row for row in known if (row["environment"], row["seed"]) in wanted]


def _entries(matrix: Matrix, labels: Sequence[str], rows: Sequence[Row]) -> Iterator[Entry]:
    def of(label: str) -> list[Row]:
        return [row for row in rows if row[matrix.compare] == label]

    def middle(groups: Sequence[Scores]) -> float:
        return interquartile_mean(groups[0])

    def superior(groups: Sequence[Scores]) -> float:
        return probability_of_improvement(groups[0], groups[1])

    reference: Scores = scores_of(matrix, of(matrix.reference), "final_return")
    for label in labels:
        scores = scores_of(matrix, of(label), "final_return")
        areas: Sequence[Array] = scores_of(matrix, of(label), "auc")
        # Each figure draws anew, so that a page does not depend on what else is on it.
        better = None
        if label != matrix.reference:
            better = estimate(superior, [reference, scores], np.random.default_rng(0))
        yield Entry(
            label,
            of(label),
            scores,
            estimate(middle, [scores], np.random.default_rng(0)),
            estimate(middle, [areas], np.random.default_rng(0)),
            better,
        )
