"""How long to wait before asking again someone who did not answer."""

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackoffSettings:
    """Bounds of the waiting.

    Attributes:
        first: Seconds after the first failure.
        longest: Seconds that one wait grows to, doubling.
        patience: Seconds of failures without a success after which it is given up.

    """

    first: float = 0.2
    longest: float = 5.0
    patience: float = 600.0


class Backoff:
    """Exponential backoff with jitter, so that many actors do not return at the same moment.

    Args:
        settings: Bounds.
        clock: Monotonic seconds.
        rng: Of the jitter.

    """

    def __init__(
        self, settings: BackoffSettings, clock: Callable[[], float], rng: random.Random
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._rng = rng
        self._failures = 0
        self._failing_since = clock()

    def succeeded(self) -> None:
        """Forget the failures so far."""
        self._failures = 0
        self._failing_since = self._clock()

    def delay(self) -> float | None:
        """Count a failure; return the seconds to wait, None when patience is at its end.

        The wait is between half of the doubled one and all of it.
        """
        remaining = self._settings.patience - (self._clock() - self._failing_since)
        if self._failures == 0:
            self._failing_since = self._clock()
            remaining = self._settings.patience
        if remaining <= 0:
            return None
        # The exponent is bounded, because a float is.
        doubled = self._settings.first * 2.0 ** min(self._failures, 32)
        self._failures += 1
        delay = min(self._settings.longest, doubled) * self._rng.uniform(0.5, 1.0)
        return min(delay, remaining)
