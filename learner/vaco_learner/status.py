"""The learner's status: one message for the operator, the local runner, Prometheus and the disk."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from google.protobuf import json_format
from grpc import aio
from vaco.files import remove_leftovers, replace_file
from vaco.v1 import learner_pb2 as pb
from vaco.v1 import learner_pb2_grpc
from vaco.vital import Pulse

from vaco_learner.claims import Claim
from vaco_learner.ledger import Ledger, LedgerCounts
from vaco_learner.progress import Progress, View
from vaco_learner.roster import Roster
from vaco_learner.windows import LagSummary

_LOG = logging.getLogger(__name__)

FILE_SECONDS: Final = 2.0

Context: TypeAlias = aio.ServicerContext[pb.GetStatusRequest, pb.GetStatusResponse]


class StatusSource:
    """Puts the status together; thread-safe.

    Args:
        job_uid: of the job.
        progress: where training is.
        ledger: where the samples are.
        metrics_address: of the Prometheus endpoint.
        stuck: returns which threads are stuck, as phrases; empty: none.

    """

    def __init__(
        self,
        job_uid: str,
        progress: Progress,
        ledger: Ledger,
        metrics_address: str,
        stuck: Callable[[], str],
    ) -> None:
        self._job_uid = job_uid
        self._progress = progress
        self._ledger = ledger
        self._roster: Roster | None = None
        self._metrics_address = metrics_address
        self._stuck = stuck

    def set_roster(self, roster: Roster) -> None:
        """Give the actors, as soon as there can be any."""
        self._roster = roster

    def status(self) -> pb.GetStatusResponse:
        """Return the status of this moment."""
        view = self._progress.view()
        with self._ledger.lock:
            counts = self._ledger.counts()
            actors = [] if self._roster is None else self._roster.accounts()
            supply = 0.0 if self._roster is None else self._roster.supply_per_actor()
        response = _progress_message(view, counts, supply)
        response.job_uid = self._job_uid
        response.metrics_address = self._metrics_address
        response.stuck = self._stuck()
        response.actors.extend(
            pb.ActorAccount(
                actor_id=account.actor_id,
                actor_incarnation=account.incarnation,
                connected=account.connected,
                samples=account.samples,
                trained=account.trained,
                samples_per_second=account.samples_per_second,
                lag_p95=account.lag_p95,
                seconds_since_last=account.seconds_since_last,
            )
            for account in actors
        )
        return response


def _progress_message(view: View, counts: LedgerCounts, supply: float) -> pb.GetStatusResponse:
    standing = view.standing
    response = pb.GetStatusResponse(
        phase=view.phase.value,
        message=view.message,
        incarnation=view.incarnation,
        version=standing.version,
        env_steps=counts.trained,
        episodes=standing.episodes,
        return_mean=standing.return_mean,
        return_episodes=standing.return_episodes,
        train_seconds=view.train_seconds,
        steps_per_second=standing.steps_per_second,
        lag=_lag_message(standing.lag),
        tv=standing.tv,
        tv_threshold=standing.tv_threshold,
        filtered_share=standing.filtered_share,
        ledger=_ledger_message(counts),
        scaling=pb.ScalingSignals(
            demand=standing.demand,
            supply_per_actor=supply,
            lag_versions=standing.lag.p95,
            tv=standing.tv or 0.0,
            age_seconds=view.signals_age,
        ),
        uptime_seconds=view.uptime_seconds,
        checkpoint_version=view.checkpoint_version,
    )
    if view.evaluation is not None:
        response.evaluation.version = view.evaluation.version
        response.evaluation.env_steps = view.evaluation.env_steps
        response.evaluation.episodes = view.evaluation.episodes
        response.evaluation.return_mean = view.evaluation.return_mean
        response.evaluation.return_std = view.evaluation.return_std
    if view.accuracy is not None:
        response.accuracy.initial = view.accuracy.initial
        response.accuracy.best = view.accuracy.best
        response.accuracy.latest = view.accuracy.latest
    return response


def _lag_message(lag: LagSummary) -> pb.Lag:
    return pb.Lag(p50=lag.p50, p95=lag.p95, p99=lag.p99, max=lag.max)


def _ledger_message(counts: LedgerCounts) -> pb.Ledger:
    return pb.Ledger(
        received=counts.received,
        queued=counts.queued,
        trained=counts.trained,
        stale=counts.stale,
        duplicate=counts.duplicate,
        rejected=counts.rejected,
        filtered=counts.filtered,
    )


class StatusServicer(learner_pb2_grpc.LearnerServiceServicer):
    """Serves the status."""

    def __init__(self, source: StatusSource) -> None:
        self._source = source

    async def GetStatus(  # noqa: N802 - as the service is defined
        self, _request: pb.GetStatusRequest, _context: Context
    ) -> pb.GetStatusResponse:
        """Return the status of this moment."""
        return self._source.status()


class StatusFile:
    """`learner-status.json`: the status for who comes when the learner is gone.

    Args:
        path: of the file, which is replaced at once each time.
        source: of the status.
        claim: to the run directory.

    """

    def __init__(self, path: Path, source: StatusSource, claim: Claim) -> None:
        self._path = path
        self._source = source
        self._claim = claim
        self._failing = False
        remove_leftovers(path)

    def write(self) -> None:
        """Write the status of this moment; that the disk is full or gone is only logged, once.

        Raises:
            FencedError: the run directory is a newer learner's, and so is the file.

        """
        status = self._source.status()
        try:
            self._claim.check()
            replace_file(self._path, json_format.MessageToJson(status))
        except OSError as error:
            if not self._failing:
                _LOG.error("the status cannot be written, training goes on: %s", error)
            self._failing = True
        else:
            self._failing = False

    async def keep(self, pulse: Pulse) -> None:
        """Write it every few seconds, until cancelled.

        Raises:
            FencedError: as `write`.

        """
        while True:
            pulse.beat()
            self.write()
            await asyncio.sleep(FILE_SECONDS)
