"""Whether a program is alive and ready: what its threads say of themselves.

A thread that should move *beats*; one that waits for what need not come (an actor, a credit, the
end) *rests*. A program is alive while no thread is stuck, that is, while none beat longer ago than
the bound. It is ready when it has nothing to say against it.
"""

import os
import time
from collections.abc import Callable, Mapping
from typing import Final

from vaco.errors import UserError

STUCK_SECONDS: Final = 300.0
"""Default bound: longer than one gradient step, one step of an environment or one checkpoint."""
STUCK_VARIABLE: Final = "VACO_STUCK_SECONDS"


def stuck_seconds(environ: Mapping[str, str] = os.environ) -> float:
    """Return the bound that VACO_STUCK_SECONDS sets, in seconds.

    Raises:
        UserError: it is not a positive number.

    """
    text = environ.get(STUCK_VARIABLE, "")
    if not text:
        return STUCK_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UserError(STUCK_VARIABLE, f"{text!r}, not a positive number", "Give seconds.")
    return seconds


class Pulse:
    """One thread's sign of life; written by that thread, read by whoever asks.

    Args:
        name: of the thread, for people.
        bound: seconds between two beats at most.
        clock: monotonic seconds.

    """

    def __init__(self, name: str, bound: float, clock: Callable[[], float]) -> None:
        self._name = name
        self._bound = bound
        self._clock = clock
        self._last: float | None = None

    def beat(self) -> None:
        """Say that the thread moves."""
        self._last = self._clock()

    def rest(self) -> None:
        """Say that the thread may be still, until it beats again. So it begins."""
        self._last = None

    def complaint(self) -> str:
        """Return what is wrong, as a phrase; empty: nothing."""
        last = self._last
        still = 0.0 if last is None else self._clock() - last
        if still <= self._bound:
            return ""
        return f"{self._name} has not moved for {still:.0f} s, of {self._bound:g} s at most"


class Vitals:
    """All pulses of a program, and whether it is ready.

    Args:
        bound: seconds between two beats of a pulse at most.
        unready: returns what is missing, as a phrase; empty: nothing.
        clock: monotonic seconds.

    """

    def __init__(
        self,
        bound: float,
        unready: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.unready = unready
        self._bound = bound
        self._clock = clock
        self._pulses: list[Pulse] = []

    def pulse(self, name: str) -> Pulse:
        """Return the pulse of one more thread, at rest."""
        pulse = Pulse(name, self._bound, self._clock)
        self._pulses.append(pulse)
        return pulse

    def stuck(self) -> str:
        """Return which threads are stuck, as phrases; empty: none."""
        return "; ".join(filter(None, (pulse.complaint() for pulse in self._pulses)))
