"""`vaco bench`: the lag laboratory, a program of its own because it needs torch."""

import importlib.util
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from vaco.errors import EXIT_PERMANENT, UserError

from vaco_operator.local import _guard

EXIT_BAD_INPUT: Final = 2
_NEEDED: Final = ("vaco_lab", "torch", "matplotlib")


def lag(matrix: Path, out: Path | None, workers: int | None) -> int:
    """Run a matrix; returns the exit status.

    Raises:
        UserError: the laboratory is not installed.

    """
    given = {"--out": out, "--workers": workers}
    return _laboratory("lag", matrix, given)


def report(directory: Path, out: Path | None) -> int:
    """Write the page of a matrix; returns the exit status.

    Raises:
        UserError: the laboratory is not installed.

    """
    return _laboratory("report", directory, {"--out": out})


def _laboratory(command: str, what: Path, options: dict[str, Path | int | None]) -> int:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError("vaco bench", f"{missing[0]} is not installed", "Install `vaco[lab]`.")
    given = [text for name, value in options.items() if value for text in (name, str(value))]
    # Ctrl-C reaches the laboratory as well, which says how it ended; were it ignored here, the
    # laboratory would inherit that.
    signal.signal(signal.SIGINT, lambda *_: None)
    # What ran is kept with its results.
    called = [f"--command-line={shlex.join(['vaco', *sys.argv[1:]])}"]
    laboratory = [sys.executable, "-m", "vaco_lab", *called, command, str(what), *given]
    done = subprocess.run(_guard.guarded(laboratory), check=False)  # noqa: S603
    return EXIT_BAD_INPUT if done.returncode == EXIT_PERMANENT else done.returncode
