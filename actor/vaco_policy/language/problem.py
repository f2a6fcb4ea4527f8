"""One problem."""

from typing import Final, NamedTuple

MAX_PROBLEMS: Final = 10**7
"""In one split; every process holds all of them in memory."""
MAX_TEXT_BYTES: Final = 1 << 20
"""Of one problem in a file, and of its prompt or answer anywhere: far beyond any budget."""


class Problem(NamedTuple):
    """A problem and what is checked against.

    Attributes:
        prompt: the problem, without the template around it.
        answer: as the data have it.

    """

    prompt: str
    answer: str
