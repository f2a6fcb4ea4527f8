"""How versions of the weights relate across restarts of the learner.

A restarted learner goes back to a checkpoint but never back in version: it publishes the
checkpoint's weights under a number above everything its predecessor published. So the numbers
between the checkpoint and the crash name weights that no longer exist (they are *fenced*), and
the jump over them is no policy lag.

    incarnation 1:  0 ... 40 (checkpoint) ... 57 (crash)
    incarnation 2:        40 published again as 58, 59, ...

A fragment of incarnation 1 made with version 38 is then 3 updates behind version 59, not 21; one
made with version 45 is fenced.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

MAX_INCARNATIONS: Final = 1024


@dataclass(frozen=True, slots=True)
class Incarnation:
    """One life of the learner.

    Attributes:
        number: from 1, growing.
        restored_version: version of the checkpoint it began with (0 without one).
        first_version: version under which it published that checkpoint's weights.

    """

    number: int
    restored_version: int
    first_version: int


@dataclass(frozen=True, slots=True)
class Lineage:
    """The incarnations that led to the weights being trained, oldest first.

    Raises:
        ValueError: they are not in order, or a first version is below the restored one.

    """

    incarnations: tuple[Incarnation, ...]

    def __post_init__(self) -> None:
        if not self.incarnations:
            raise ValueError("a lineage has at least one incarnation")
        for life in self.incarnations:
            if life.first_version < life.restored_version:
                raise ValueError(f"the version went back: {life}")
        for before, after in pairwise(self.incarnations):
            if after.number <= before.number or after.first_version < before.first_version:
                raise ValueError(f"incarnations out of order: {before}, {after}")

    @classmethod
    def first(cls) -> "Lineage":
        """Return the lineage of a job's first learner."""
        return cls((Incarnation(1, 0, 0),))

    @property
    def current(self) -> Incarnation:
        """The life that is being lived."""
        return self.incarnations[-1]

    def restarted(self, number: int, restored_version: int, first_version: int) -> "Lineage":
        """Return the lineage of a learner that began with a checkpoint of this one.

        Only the newest incarnations are kept; fragments of a forgotten one are fenced.
        """
        following = Incarnation(number, restored_version, first_version)
        return Lineage((*self.incarnations, following)[-MAX_INCARNATIONS:])

    def reached(self, incarnation: int, version: int) -> bool:
        """Whether the weights being trained descend from `version` of `incarnation`."""
        later = self._after(incarnation)
        if not any(life.number == incarnation for life in self.incarnations):
            return False
        return all(version <= life.restored_version for life in later)

    def jumped(self, incarnation: int) -> int:
        """Version numbers that were skipped by the restarts since `incarnation`.

        The lag of weights `version` of that incarnation is `now - version - jumped`.
        """
        return sum(life.first_version - life.restored_version for life in self._after(incarnation))

    def _after(self, incarnation: int) -> Iterable[Incarnation]:
        return [life for life in self.incarnations if life.number > incarnation]
