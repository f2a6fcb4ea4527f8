"""SIGTERM and SIGINT as an event that threads can wait for.

A Python signal handler runs between two instructions of the main thread, which may just then hold
the lock that setting the event would take. So the interpreter writes the signal's number into a
pipe, and a thread that reads the pipe sets the event.

Worker processes that environments fork have nothing to do with that: SIGTERM ends them, and SIGINT,
which a terminal sends to all, leaves them to their parent.
"""

import os
import signal
import threading
from types import FrameType


def stop_on_signals() -> threading.Event:
    """Return an event that SIGTERM and SIGINT set, from now on; call it in the main thread."""
    stop = threading.Event()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _heard)
    os.register_at_fork(after_in_child=_leave_to_parent)

    def listen() -> None:
        os.read(reading, 1)
        stop.set()

    threading.Thread(target=listen, name="signals", daemon=True).start()
    return stop


def _heard(_number: int, _frame: FrameType | None) -> None:
    """Keep the signal from ending the process; the pipe has its number already."""


def _leave_to_parent() -> None:
    """Stop writing into the pipe, which is the parent's."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
