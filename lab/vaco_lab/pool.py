"""Worker processes, one for each cell, and how far they are."""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import Final

from vaco.errors import UserError

from vaco_lab.cell import ASYNC, Cell
from vaco_lab.progress import Progress
from vaco_lab.provenance import Provenance
from vaco_lab.store import Store

_POLL_SECONDS: Final = 1.0


def run_cells(
    store: Store, cells: Sequence[Cell], workers: int, provenance: Provenance
) -> list[Cell]:
    """Run what is not finished yet; return the cells that failed.

    Processes are forked from one that has imported torch already, and die with this one.
    """
    rest = [cell for cell in cells if not store.is_finished(cell)]
    context = _context()
    running: dict[int, tuple[ForkServerProcess, Cell]] = {}
    failed: list[Cell] = []
    queue = iter(rest)
    with ExitStack() as around:
        progress = around.enter_context(Progress(len(cells), len(cells) - len(rest), workers))
        around.callback(_end_all, running)
        while True:
            while len(running) < workers and (cell := next(queue, None)) is not None:
                process = context.Process(target=run_cell, args=(store, cell, provenance))
                process.start()
                running[process.sentinel] = process, cell
            if not running:
                return failed
            for sentinel in wait(list(running), _POLL_SECONDS):
                assert isinstance(sentinel, int)  # noqa: S101 - as they were given
                process, cell = running.pop(sentinel)
                process.join()
                done = process.exitcode == 0 and store.is_finished(cell)
                if not done:
                    failed.append(cell)
                progress.ended(cell, done=done)


def run_cell(store: Store, cell: Cell, provenance: Provenance) -> None:
    """Run one cell, in a process of its own."""
    # Ctrl-C is for the parent, which ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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


def _end_all(running: dict[int, tuple[ForkServerProcess, Cell]]) -> None:
    for process, _ in running.values():
        process.kill()
    for process, _ in running.values():
        process.join()
