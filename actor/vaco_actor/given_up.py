"""What an actor that leaves had begun or made, and the learner does not get."""

from dataclasses import dataclass, field
from typing import NamedTuple


class Lost(NamedTuple):
    """Some of what was lost.

    Attributes:
        samples: how many.
        fragments: that they are of, or would have been.

    """

    samples: int = 0
    fragments: int = 0


@dataclass(slots=True)
class GivenUp:
    """All that was lost, by reason.

    Attributes:
        samples: what samples are called.
        fragments: what fragments are called.
        reasons: what was lost for each, as words that go on: "were not complete".

    """

    samples: str
    fragments: str
    reasons: dict[str, Lost] = field(default_factory=dict)

    def add(self, reason: str, lost: Lost) -> None:
        """Count what was lost for a reason that there was not yet; nothing is no reason."""
        if lost.samples:
            self.reasons[reason] = lost

    @property
    def total(self) -> Lost:
        """All of it. A fragment of which parts were lost for two reasons counts twice."""
        lost = self.reasons.values()
        return Lost(sum(each.samples for each in lost), sum(each.fragments for each in lost))

    def __str__(self) -> str:
        """Tell it in one line."""
        lost = self.total
        whole = f"{lost.samples} {self.samples} of {lost.fragments} {self.fragments}"
        parts = [
            f"{each.samples} {self.samples} of {each.fragments} {self.fragments} {why}"
            for why, each in self.reasons.items()
        ]
        return f"gave up {whole}: {', '.join(parts)}"
