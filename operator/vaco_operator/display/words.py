"""What things are called: a language model's samples are completions, not steps."""

from dataclasses import dataclass
from typing import Final

from vaco.job import VACOJobSpec
from vaco.schema.language_algorithm import VacoLmAlgorithm


@dataclass(frozen=True, slots=True)
class Words:
    """Names of the figures.

    Attributes:
        samples: what the ledger counts.
        long_samples: the same, where there is room.
        earned: the mean over recent episodes.
        lag: between the weights that acted and those that are trained.
        tv: total variation.
        filtered: what the filter drops.
        accurate: whether answers are right or wrong.

    """

    samples: str = "steps"
    long_samples: str = "environment steps"
    earned: str = "return"
    lag: str = "lag"
    tv: str = "TV"
    filtered: str = "filtered"
    accurate: bool = False


CONTROL: Final = Words()


def words_for(spec: VACOJobSpec) -> Words:
    """Return the words that fit a job."""
    if not spec.is_language:
        return CONTROL
    algorithm = spec.language.algorithm
    # What filters nothing is measured as the filter would by default.
    scope = algorithm.scope if isinstance(algorithm, VacoLmAlgorithm) else "prompt"
    return Words(
        samples="completions",
        long_samples=spec.samples,
        earned="reward",
        lag="token lag",
        tv="TV per prompt" if scope == "prompt" else "TV per token",
        filtered="tokens filtered",
        accurate=True,
    )
