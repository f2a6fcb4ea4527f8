"""The spaces of the job: the first actor brings them, every other one must agree."""

import threading

from vaco_policy.spaces import Spaces


class SpacesRefusedError(Exception):
    """An actor whose environment is not the job's."""


class SpacesGate:
    """Agrees on the spaces; thread-safe.

    Args:
        spaces: known from a checkpoint.

    """

    def __init__(self, spaces: Spaces | None = None) -> None:
        self._spaces = spaces
        self._text = spaces.to_json() if spaces is not None else ""
        self._known = threading.Event()
        self._lock = threading.Lock()
        if spaces is not None:
            self._known.set()

    def agree(self, actor_id: str, text: str) -> None:
        """Take what an actor says its spaces are.

        Raises:
            SpacesRefusedError: they are not the job's; both are named.
            UserError: they are not spaces.

        """
        spaces = Spaces.from_json(text)
        canonical = spaces.to_json()
        with self._lock:
            if self._spaces is None:
                self._spaces, self._text = spaces, canonical
                self._known.set()
            elif canonical != self._text:
                raise SpacesRefusedError(
                    f"{actor_id} brings the spaces {canonical}, but the job's are {self._text}"
                )

    def wait(self, timeout: float) -> Spaces | None:
        """Return the spaces, waiting up to `timeout` seconds for the first actor."""
        self._known.wait(timeout)
        return self._spaces
