"""What learner and actors must agree on before anything is trained: the job's contract.

For environments it is their spaces: the first actor brings them, every other one must agree. For a
language model it is the model and its tokenizer: the learner has them, every actor must agree.
"""

import threading
from collections.abc import Callable

from vaco_policy.spaces import Spaces


class ContractRefusedError(Exception):
    """An actor whose contract is not the job's."""


def canonical_spaces(text: str) -> str:
    """Return the one spelling of the same spaces.

    Raises:
        UserError: they are not spaces.

    """
    return Spaces.from_json(text).to_json()


class ContractGate:
    """Agrees on the contract; thread-safe.

    Args:
        contract: known from a checkpoint; None: not known yet.
        brought: returns the one spelling of a contract that an actor brings, or raises UserError;
            None: actors bring none, the learner settles it.

    """

    def __init__(
        self,
        contract: str | None = None,
        brought: Callable[[str], str] | None = canonical_spaces,
    ) -> None:
        self._contract = contract
        self._brought = brought
        self._known = threading.Event()
        self._lock = threading.Lock()
        if contract is not None:
            self._known.set()

    def agree(self, actor_id: str, text: str) -> None:
        """Take what an actor says the contract is.

        Raises:
            ContractRefusedError: it is not the job's; both are named.
            UserError: it is none.

        """
        given = self._brought(text) if self._brought is not None else text
        with self._lock:
            if self._contract is None:
                if self._brought is not None:
                    self._settle(given)
            elif given != self._contract:
                raise ContractRefusedError(
                    f"{actor_id} brings {given}, but the job's is {self._contract}"
                )

    def settle(self, contract: str) -> None:
        """Say what it is; a later `agree` is judged by it."""
        with self._lock:
            self._settle(contract)

    def wait(self, timeout: float) -> str | None:
        """Return the contract, waiting up to `timeout` seconds for the first actor."""
        self._known.wait(timeout)
        return self._contract

    def _settle(self, contract: str) -> None:
        self._contract = contract
        self._known.set()
