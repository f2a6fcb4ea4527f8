"""One problem."""

from typing import NamedTuple


class Problem(NamedTuple):
    """A problem and what is checked against.

    Attributes:
        prompt: the problem, without the template around it.
        answer: as the data have it.

    """

    prompt: str
    answer: str
