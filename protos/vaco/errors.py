"""What goes wrong in a way a person can mend, and how programs say it on their way out.

A `UserError` is raised at the edges (manifest, command line, checkpoint, environment) and names
what is wrong, where, and what to do. The exit statuses are how learner and actor tell the local
runner or Kubernetes whether starting them again could help.
"""

import difflib
from collections.abc import Iterable
from typing import Final

EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1
"""May be restarted: the cause can pass."""
EXIT_PERMANENT: Final = 3
"""A restart would fail in the same way: the job is Failed."""
EXIT_FENCED: Final = 4
"""A newer learner of the same job has the run directory: this one ended and wrote nothing more."""
EXIT_INTERRUPTED: Final = 143
"""The learner was told to stop (SIGTERM) and has checkpointed."""


class UserError(Exception):
    """Something its reader can mend.

    Args:
        path: Where it is: a field in the manifest's own spelling (`spec.algorithm.delta`), a file,
            an option of the command line.
        problem: What is wrong, with the value found; no full stop at the end.
        cure: What to do about it, as a sentence; empty when the problem says it all.

    """

    def __init__(self, path: str, problem: str, cure: str = "") -> None:
        super().__init__(path, problem, cure)
        self.path = path
        self.problem = problem
        self.cure = cure

    def __str__(self) -> str:
        told = f"`{self.path}`: {self.problem}." if self.path else f"{self.problem}."
        return f"{told} {self.cure}" if self.cure else told


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Guess what was meant: a sentence with a space after it, for a cure; or nothing."""
    near = nearest(word, known)
    return f"Did you mean `{near}`? " if near else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return what was probably meant; None if nothing is near."""
    folded = {_folded(each): each for each in known}
    near = difflib.get_close_matches(_folded(word), folded, n=1)
    return folded[near[0]] if near else None


def _folded(word: str) -> str:
    return word.lower().replace("_", "")
