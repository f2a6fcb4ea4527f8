"""Signals as something to wait for: an interruption, or the end of a child.

Handlers only count. What wakes the waiting loop is the byte that Python writes to a pipe when a
signal arrives, so nothing is lost between looking and waiting, and no handler takes a lock.
"""

import os
import select
import signal
import time
from types import FrameType, TracebackType
from typing import Final, Self

STOPPING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


SAME_SECONDS: Final = 0.3
"""Signals this close together are one: a wrapper passes on what the terminal has sent as well."""


class Interrupts:
    """Counts requests to stop while it is entered; for the main thread."""

    def __init__(self) -> None:
        self.asked = 0
        self.by: int = signal.SIGINT
        self._read, self._write = -1, -1
        self._wakeup = -1
        self._last = float("-inf")
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in STOPPING:
            # nohup means it. A shell's background job ignores SIGINT too, yet whoever sends one
            # by hand means that.
            if number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN:
                continue
            self._handlers[number] = signal.signal(number, self._count)
        # The default action for SIGCHLD writes no byte.
        self._handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, self._ignore)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # as signal() returned it
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)

    def wait(self, seconds: float) -> None:
        """Return when a signal arrived, or after so long."""
        readable, _, _ = select.select([self._read], [], [], seconds)
        if readable:
            os.read(self._read, 4096)

    def _count(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - self._last > SAME_SECONDS:
            self.asked += 1
            self.by = number
        self._last = now

    def _ignore(self, _number: int, _frame: FrameType | None) -> None:
        """Have the byte written, which is all."""
