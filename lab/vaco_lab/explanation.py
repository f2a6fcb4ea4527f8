"""How to read a result page: what its figures are, and what its lag is and is not."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vaco_lab.cell import ASYNC, Cell
from vaco_lab.matrix import Matrix
from vaco_lab.statistics import REPETITIONS


def explanation(
    matrix: Matrix, cells: Sequence[Cell], documents: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    """Return paragraphs; those on lag are about the kinds of lag that the documents have."""
    imposed = [document["row"] for document in documents if document["row"]["lag"] != ASYNC]
    yield _scores(matrix, area=bool(imposed))
    yield _statistics()
    if imposed:
        yield _imposed(cells, imposed)
    if len(imposed) < len(documents):
        yield (
            "**Real lag is measured**: `vaco run` with its processes, as it came out on the machine"
            " above. Such a run is not repeatable. Its last policy alone is evaluated, so it has"
            " neither a curve nor an area."
        )
    yield (
        "**TV** is against the filter's anchor, or against the policy that acted (β) where nothing"
        " is filtered; TV to start is against the learner's policy at the start of the phase, so"
        " it is movement within a phase; TV to β is against β for all. They are means over gradient"
        " steps, TV max the most of any step and run. They are estimated from ratios of"
        " probabilities on the data that is trained on, and may be over 1. Seconds are of training"
        " alone, beside whatever else the machine did. Columns and tables:"
        " [lag-laboratory.md](../lag-laboratory.md)."
    )


def _scores(matrix: Matrix, *, area: bool) -> str:
    scales = ", ".join(f"{name} {low:g} to {high:g}" for name, (low, high) in matrix.scores.items())
    scaled = f"Scores are returns scaled to 0 to 1 ({scales}). " if scales else ""
    through = "the area is the mean of the curve through all evaluations"
    told = f"; {through}, over the steps of the whole run" if area else ""
    lost = "as 0" if scales else "as the one before training"
    return (
        f"{scaled}**All returns are of evaluations**: {matrix.evaluation.episodes} episodes that"
        " the learner's own policy plays to their end, with its most probable actions, in"
        f" environments of their own. The final score is of its last policy{told}. A run that"
        f" diverged stays in every figure: evaluations that it did not live to see count {lost}."
    )


def _statistics() -> str:
    return (
        "Scores are interquartile means over the runs of all environments, with 95 % intervals by"
        f" the bootstrap ({REPETITIONS} repetitions, stratified by environment). **Its unit is one"
        " training run.** P is the probability that a run of the reference scores more than one of"
        " the row, averaged over environments (Agarwal et al. 2021, arXiv 2108.13264). A band in a"
        " picture is such intervals too, for each point alone."
    )


def _imposed(cells: Sequence[Cell], rows: Sequence[Mapping[str, Any]]) -> str:
    versions = _span([row["updates"] for row in rows if row["outcome"] == "complete"])
    draws = _span([_fragments(cell) for cell in cells])
    batch = "1 fragment" if draws == "1" else f"{draws} fragments"
    return (
        "**Lag is imposed**: a ring holds the last K versions of the weights, and each fragment is"
        " made with one of them, drawn uniformly; K = 1 is no lag. The ring is not full in the"
        f" first K versions, of {versions} in a run, so lag is less there. A batch is {batch},"
        " so it has that few draws, and its lag varies much. With K over 1 training"
        " episodes are played by several old policies; no figure here is of theirs. The mechanism"
        " is ours: real lag is neither uniform nor bounded by a ring."
    )


def _fragments(cell: Cell) -> int:
    """Return how many fragments a batch has; one more where some steps are no samples."""
    spec = cell.job.spec
    samples = spec.rollout.environments_per_actor * spec.rollout.fragment_length
    return -(-spec.learner.batch_size // samples)


def _span(numbers: Sequence[int]) -> str:
    if not numbers:
        return "none"
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"
