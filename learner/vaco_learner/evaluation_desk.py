"""Evaluations: asked of one connected actor at a time, and asked again if that one leaves."""

import logging
import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vaco.v1 import trajectory_pb2 as pb

from vaco_learner.session import Session

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EvaluationOutcome:
    """Episodes played with a policy's most probable actions.

    Attributes:
        version: of the weights.
        env_steps: trained when the evaluation was asked for.
        episodes: how many were played.
        return_mean: over the episodes.
        return_std: over the episodes (of the population).
        length_mean: steps.

    """

    version: int
    env_steps: int
    episodes: int
    return_mean: float
    return_std: float
    length_mean: float


@dataclass(slots=True)
class _Pending:
    request: pb.EvaluationRequest
    env_steps: int
    session: Session | None = None


class EvaluationDesk:
    """Lives in the ingest thread's event loop.

    Args:
        report: called with every outcome.

    """

    def __init__(self, report: Callable[[EvaluationOutcome], None]) -> None:
        self._report = report
        self._pending: _Pending | None = None
        self._requests = 0

    def request(
        self, episodes: int, seed: int, env_steps: int, sessions: Iterable[Session]
    ) -> None:
        """Ask for an evaluation, unless the last one is still awaited."""
        if self._pending is not None:
            _LOG.warning("the evaluation at %d steps is left out", env_steps)
            return
        self._requests += 1
        request = pb.EvaluationRequest(request_id=self._requests, episodes=episodes, seed=seed)
        self._pending = _Pending(request, env_steps)
        self.assign(sessions)

    def assign(self, sessions: Iterable[Session]) -> None:
        """Give what nobody works on to the first session, if there is one."""
        pending = self._pending
        if pending is None or pending.session is not None:
            return
        session = next(iter(sessions), None)
        if session is not None:
            pending.session = session
            session.request_evaluation(pending.request)

    def left(self, session: Session, remaining: Iterable[Session]) -> None:
        """Note that a session ended; somebody else takes over what it worked on."""
        if self._pending is not None and self._pending.session is session:
            self._pending.session = None
            self.assign(remaining)

    def result(self, session: Session, result: pb.EvaluationResult) -> None:
        """Take a result; one that nobody asked this session for is dropped."""
        pending = self._pending
        actor_id = session.actor.actor_id
        asked = pending is not None and pending.session is session
        if pending is None or not asked or result.request_id != pending.request.request_id:
            _LOG.warning("%s sent an evaluation that was not asked for", actor_id)
            return
        self._pending = None
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
            )
        )
