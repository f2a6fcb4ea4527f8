"""What other threads, signals and actors have to say to the training thread."""

import threading
from collections.abc import Callable

from vaco.errors import UserError


class StopRequestedError(Exception):
    """Somebody told the learner to stop (SIGTERM, Ctrl-C)."""


class JobFailedError(Exception):
    """Training cannot go on, and a restart would fail in the same way."""


class Control:
    """Set by anyone, read by the training thread whenever it would wait or begin a phase."""

    def __init__(self) -> None:
        self._stop = False
        self._stuck: Callable[[], str] = str
        self.complaint = ""
        """What was stuck when it was told to stop, as a phrase; empty: nothing was."""
        self._error: BaseException | None = None
        self._lock = threading.Lock()

    def watch(self, stuck: Callable[[], str]) -> None:
        """Have `stuck` tell, when it is told to stop, whether that is why; it takes no lock."""
        self._stuck = stuck

    def request_stop(self) -> None:
        """Ask the training thread to end; takes no lock, so a signal handler may call it."""
        self.complaint = self.complaint or self._stuck()
        self._stop = True

    def fail(self, message: str) -> None:
        """Report that the job cannot succeed."""
        self.crash(JobFailedError(message))

    def crash(self, error: BaseException) -> None:
        """Report that a thread ended with an error; the first report counts."""
        with self._lock:
            if self._error is None:
                self._error = error

    def check(self) -> None:
        """Raise what was reported.

        Raises:
            JobFailedError: the job failed; also for a `UserError`, which only its reader can mend.
            StopRequestedError: the learner shall stop.

        """
        error = self._error
        if isinstance(error, UserError):
            raise JobFailedError(str(error)) from error
        if error is not None:
            raise error
        if self._stop:
            raise StopRequestedError("told to stop")
