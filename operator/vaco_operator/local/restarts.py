"""Whether what died is started again, and when: a bound, and a delay that doubles."""

from dataclasses import dataclass, replace
from typing import Final

FIRST_DELAY_SECONDS: Final = 0.5
MAX_DELAY_SECONDS: Final = 30.0
HEALTHY_SECONDS: Final = 600.0
"""What ran this long is taken to have recovered, and its earlier failures are forgotten."""


@dataclass(frozen=True, slots=True)
class Restarts:
    """The failures of one process so far; `limit` is the job's backoffLimit."""

    limit: int
    failures: int = 0

    def after(self, ran_seconds: float) -> "Restarts":
        """Count one more failure, of a process that had run for so long."""
        forgotten = ran_seconds >= HEALTHY_SECONDS
        return replace(self, failures=1 if forgotten else self.failures + 1)

    @property
    def exhausted(self) -> bool:
        """Whether it died more often than it may be started again."""
        return self.failures > self.limit

    @property
    def delay(self) -> float:
        """Seconds to wait before the next start."""
        if not self.failures:
            return 0.0
        # The exponent is bounded, or a large backoffLimit would overflow.
        return min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2.0 ** min(self.failures - 1, 10))
