"""One child that is kept alive until it is told to leave.

    waiting --due--> running --died--> waiting ...        (the caller decides what dying means)
                        |
                      leave
                        v
                     leaving --grace is over--> killed --> gone

`tick` drives it; it never blocks, and the time is given to it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from vaco_operator.local.processes import Process
from vaco_operator.local.restarts import Restarts

State = Literal["waiting", "running", "leaving", "gone"]


@dataclass(frozen=True, slots=True)
class Death:
    """A child that ended without having been told to."""

    name: str
    exit_code: int
    last_words: str
    ran_seconds: float


class Supervised:
    """Keeps one child: start, restart with delay, leave with grace.

    Args:
        name: of the child.
        start: starts it, once per call.
        restarts: how often and how soon it may be started again.
        now: monotonic seconds; the first start is due then.

    """

    def __init__(
        self, name: str, start: Callable[[], Process], restarts: Restarts, now: float
    ) -> None:
        self.name = name
        self.restarts = restarts
        self.state: State = "waiting"
        self.process: Process | None = None
        self._start = start
        self._due = now
        self._started = now
        self._kill_at = 0.0

    def tick(self, now: float) -> Death | None:
        """Start what is due, kill what outstayed its grace, and report an unasked end once."""
        if self.state == "waiting":
            if now >= self._due:
                self.process = self._start()
                self._started = now
                self.state = "running"
            return None
        if self.process is None or self.state == "gone":
            return None
        code = self.process.exit_code()
        if code is None:
            if self.state == "leaving" and now >= self._kill_at:
                self.process.kill()
            return None
        if self.state == "leaving":
            self.state = "gone"
            return None
        self.state = "gone"
        return Death(self.name, code, self.process.last_words(), now - self._started)

    def restart(self, death: Death, now: float, at_least: float = 0.0) -> float | None:
        """Plan another start after `death`.

        Returns:
            The delay in seconds, no less than `at_least`; None: it died too often.

        """
        self.restarts = self.restarts.after(death.ran_seconds)
        if self.restarts.exhausted:
            return None
        delay = max(at_least, self.restarts.delay)
        self._due = now + delay
        self.state = "waiting"
        return delay

    def kill(self) -> None:
        """End it at once; `tick` will report its death."""
        if self.state == "running" and self.process is not None:
            self.process.kill()

    def leave(self, now: float, grace: float) -> None:
        """Tell it to finish; after `grace` seconds it is killed. A second call can only shorten."""
        if self.state == "waiting":
            self.state = "gone"
        elif self.state == "running" and self.process is not None:
            self.process.terminate()
            self.state = "leaving"
            self._kill_at = now + grace
        elif self.state == "leaving":
            self._kill_at = min(self._kill_at, now + grace)

    @property
    def running_since(self) -> float | None:
        """When the process that runs was started, in monotonic seconds; None: none runs."""
        return self._started if self.state in ("running", "leaving") else None

    @property
    def exit_code(self) -> int | None:
        """How its last process ended; None: it runs or never ran."""
        return self.process.exit_code() if self.process is not None else None
