"""Worker processes, one for each cell, and how far they are."""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from types import FrameType
from typing import Final

from vaco.errors import UserError

from vaco_lab.cell import ASYNC, Cell
from vaco_lab.progress import Progress
from vaco_lab.provenance import Provenance
from vaco_lab.store import Store

_POLL_SECONDS: Final = 1.0
_LEAVE_SECONDS: Final = 60.0
"""A real run ends its processes before it leaves; so long it may take."""


@dataclass(frozen=True, slots=True)
class _Running:
    """A cell that runs, and when it has run too long (`time.monotonic`)."""

    process: ForkServerProcess
    cell: Cell
    until: float


def run_cells(
    store: Store, cells: Sequence[Cell], workers: int, provenance: Provenance, minutes: float
) -> list[Cell]:
    """Run what is not finished yet; return the cells that failed.

    Processes are forked from one that has imported torch already, and die with this one.

    Args:
        store: Where results go.
        cells: Of the matrix.
        workers: How many run at once.
        provenance: What each row says of its origin.
        minutes: After which a cell is killed, and has failed.

    """
    # Real runs are alone, and would leave workers idle again and again if they were not last.
    waiting = sorted(cells, key=lambda cell: cell.lag == ASYNC)
    rest = deque(cell for cell in waiting if not store.is_finished(cell))
    context = _context()
    running: dict[int, _Running] = {}
    failed: list[Cell] = []
    with ExitStack() as around:
        progress = around.enter_context(Progress(len(cells), len(cells) - len(rest), workers))
        around.callback(lambda: _end(list(running.values())))
        while rest or running:
            while rest and _may_start(rest[0], [each.cell for each in running.values()], workers):
                cell = rest.popleft()
                process = context.Process(target=run_cell, args=(store, cell, provenance))
                process.start()
                until = time.monotonic() + 60 * minutes
                running[process.sentinel] = _Running(process, cell, until)
            for ended in _wait(running, minutes):
                done = ended.process.exitcode == 0 and store.is_finished(ended.cell)
                if not done:
                    failed.append(ended.cell)
                progress.ended(ended.cell, done=done)
    return failed


def _may_start(cell: Cell, running: Sequence[Cell], workers: int) -> bool:
    """Whether there is room: a real run is alone, or its lag would be that of its neighbours."""
    alone = any(each.lag == ASYNC for each in (cell, *running))
    return len(running) < (1 if alone else workers)


def _wait(running: dict[int, _Running], minutes: float) -> list[_Running]:
    """Wait a moment; take out of `running` what has ended, or was killed for taking too long."""
    ended = [running.pop(sentinel) for sentinel in _sentinels(wait(list(running), _POLL_SECONDS))]
    for each in ended:
        each.process.join()
    overdue = [key for key, each in running.items() if time.monotonic() > each.until]
    killed = [running.pop(key) for key in overdue]
    _end(killed)
    for each in killed:
        problem = f"took over {minutes:g} minutes and was killed"
        error = UserError("cellMinutes", problem, "Raise it in the matrix, or train for less.")
        sys.stderr.write(f"error: {each.cell}: {error}\n")
    return ended + killed


def _sentinels(ready: Iterable[object]) -> list[int]:
    """Return what `wait` gave as what it was given."""
    return [sentinel for sentinel in ready if isinstance(sentinel, int)]


def _end(running: Sequence[_Running]) -> None:
    """End cells: those that have processes of their own end these first."""
    for each in running:
        if each.cell.lag == ASYNC:
            each.process.terminate()
        else:
            each.process.kill()
    for each in running:
        each.process.join(_LEAVE_SECONDS)
        if each.process.exitcode is None:
            each.process.kill()
            each.process.join()


def run_cell(store: Store, cell: Cell, provenance: Provenance) -> None:
    """Run one cell, in a process of its own."""
    # Ctrl-C is for the parent, which ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        if cell.lag == ASYNC:
            from vaco_lab.measured import run_measured

            record = run_measured(cell, store.run_directory(cell))
        else:
            from vaco_lab.imposed import run_imposed

            record = run_imposed(cell, cell.lag)
        store.finish(cell, record, provenance)
    except UserError as error:
        sys.stderr.write(f"error: {cell}: {error}\n")
        sys.exit(1)
    except Exception:
        sys.stderr.write(f"error: {cell}:\n{traceback.format_exc()}")
        sys.exit(1)


def _leave(_number: int, _frame: FrameType | None) -> None:
    """Unwind, so that a real run's processes are ended."""
    # A second one must not cut that off.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)


def _end_with_parent() -> None:
    """End this process with the one that runs the matrix, however that one ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _context() -> ForkServerContext:
    # Before the libraries are loaded, or they start a thread for each core.
    for pool in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[pool] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vaco_lab.imposed"])
    return context
