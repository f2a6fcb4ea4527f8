"""How far a matrix is: a bar in a terminal, a line for each cell elsewhere."""

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from vaco_lab.cell import Cell


class Progress:
    """Counts cells and estimates when they are all done: by those done since it began.

    Args:
        total: Cells of the matrix.
        finished: Of them before.
        workers: Cells that run at once.

    """

    def __init__(self, total: int, finished: int, workers: int) -> None:
        self._console = Console(stderr=True)
        self._total = total
        self._workers = workers
        self._finished = self._before = finished
        self._failed = 0
        self._began = time.monotonic()
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(
            f"{workers} at once", total=total, completed=finished, left=""
        )

    def __enter__(self) -> Self:
        before = f"{self._total} cells, {self._before} there, {self._workers} at once"
        self._console.print(before, soft_wrap=True, highlight=False)
        self._bar.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def ended(self, cell: Cell, *, done: bool) -> None:
        """Take note of a cell that ended."""
        if done:
            self._finished += 1
        else:
            self._failed += 1
        left = self._left()
        self._bar.update(self._task, completed=self._finished, left=left)
        if not self._console.is_terminal:
            told = "finished" if done else "FAILED"
            self._console.print(
                f"{self._finished}/{self._total} {told}: {cell}; {left}", soft_wrap=True
            )

    def _left(self) -> str:
        ended = self._finished - self._before + self._failed
        rest = self._total - self._finished - self._failed
        minutes = (time.monotonic() - self._began) / ended * rest / 60
        return f"about {minutes:.0f} min left" if rest else "all done"
