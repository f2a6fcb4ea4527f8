"""Evaluations: asked of one connected actor, and of another one if it leaves or takes too long.

How long an evaluation takes nobody knows: the patience doubles each time. Whoever was asked and
answers first is believed, so one that was only slow has not worked in vain.
"""

import asyncio
import logging
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from vaco.completions import RIGHT_REWARD
from vaco.v1 import trajectory_pb2 as pb

from vaco_learner.session import Session

_LOG = logging.getLogger(__name__)

PATIENCE_SECONDS: Final = 600.0
"""For the first actor that is asked."""
_MAX_PATIENCE_SECONDS: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class EvaluationOutcome:
    """Episodes played with a policy's most probable actions.

    Attributes:
        version: of the weights.
        env_steps: trained when the evaluation was asked for.
        episodes: how many were played.
        return_mean: over the episodes.
        return_std: over the episodes (of the population).
        length_mean: steps, or tokens.
        accuracy: share of episodes with a return of at least `RIGHT_REWARD`: right answers, where
            the task is a language model's.

    """

    version: int
    env_steps: int
    episodes: int
    return_mean: float
    return_std: float
    length_mean: float
    accuracy: float = 0.0


@dataclass(slots=True)
class _Pending:
    """An evaluation that is awaited; those in `asked` are connected, the newest last."""

    request: pb.EvaluationRequest
    env_steps: int
    patience: float
    asked: list[Session] = field(default_factory=list)
    timer: asyncio.TimerHandle | None = None


class EvaluationDesk:
    """Lives in the ingest thread's event loop.

    Args:
        report: called with every outcome.
        sessions: returns the open streams.
        patience: seconds that the first actor has.

    """

    def __init__(
        self,
        report: Callable[[EvaluationOutcome], None],
        sessions: Callable[[], Sequence[Session]],
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        self._report = report
        self._sessions = sessions
        self._patience = patience
        self._pending: _Pending | None = None
        self._requests = 0

    def request(self, episodes: int, seed: int, env_steps: int) -> None:
        """Ask for an evaluation, unless the last one is still awaited."""
        if self._pending is not None:
            _LOG.warning("the evaluation at %d steps is left out", env_steps)
            return
        self._requests += 1
        request = pb.EvaluationRequest(request_id=self._requests, episodes=episodes, seed=seed)
        self._pending = _Pending(request, env_steps, self._patience)
        self.assign()

    def assign(self) -> None:
        """Give what nobody works on to a session, if there is one."""
        if self._pending is not None and not self._pending.asked:
            self._ask(self._pending)

    def left(self, session: Session) -> None:
        """Note that a session ended; somebody else takes over what it alone worked on."""
        if self._pending is not None and session in self._pending.asked:
            self._pending.asked.remove(session)
            self.assign()

    def result(self, session: Session, result: pb.EvaluationResult) -> None:
        """Take a result; one that nobody asked this session for is dropped."""
        pending = self._pending
        actor_id = session.actor.actor_id
        asked = pending is not None and session in pending.asked
        if pending is None or not asked or result.request_id != pending.request.request_id:
            _LOG.warning("%s sent an evaluation that was not asked for", actor_id)
            return
        self.close()
        returns, lengths = list(result.returns), list(result.lengths)
        usable = 0 < len(returns) <= pending.request.episodes and len(lengths) == len(returns)
        if not usable or not all(map(math.isfinite, returns)):
            _LOG.warning("%s sent an evaluation that cannot be used", actor_id)
            return
        self._report(
            EvaluationOutcome(
                version=result.version,
                env_steps=pending.env_steps,
                episodes=len(returns),
                return_mean=statistics.fmean(returns),
                return_std=statistics.pstdev(returns),
                length_mean=statistics.fmean(lengths),
                accuracy=sum(each >= RIGHT_REWARD for each in returns) / len(returns),
            )
        )

    def close(self) -> None:
        """Await nothing any more."""
        if self._pending is not None and self._pending.timer is not None:
            self._pending.timer.cancel()
        self._pending = None

    def _ask(self, pending: _Pending) -> None:
        """Ask a session that was not asked yet, if there is one, and be patient again."""
        session = next((s for s in self._sessions() if s not in pending.asked), None)
        if session is not None:
            pending.asked.append(session)
            session.request_evaluation(pending.request)
        if pending.timer is not None:
            pending.timer.cancel()
        loop = asyncio.get_running_loop()
        pending.timer = loop.call_later(pending.patience, self._lose_patience, pending)

    def _lose_patience(self, pending: _Pending) -> None:
        asked = ", ".join(session.actor.actor_id for session in pending.asked) or "nobody"
        _LOG.warning("no evaluation within %g s; asked so far: %s", pending.patience, asked)
        pending.patience = min(2 * pending.patience, _MAX_PATIENCE_SECONDS)
        self._ask(pending)
