"""What monitoring sees: TensorBoard files, and a Prometheus endpoint.

Both cost training nothing to speak of: TensorBoard gets at most one point per second, Prometheus
is answered in a thread of its own (`vaco.monitoring`) from the learner's status.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from vaco.v1 import learner_pb2

from vaco_learner.status import StatusSource

_LOG = logging.getLogger(__name__)

TENSORBOARD_SECONDS: Final = 1.0


class Board(Protocol):
    """Takes scalars that belong to a step."""

    def write(self, scalars: Mapping[str, float | None], step: int) -> None:
        """Take scalars; None is left out."""

    def close(self) -> None:
        """Write what is left."""


class NoBoard:
    """A board that keeps nothing."""

    def write(self, scalars: Mapping[str, float | None], step: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class TensorBoard:
    """Writes TensorBoard event files; scalars that come too soon after the last are left out.

    A full disk ends the files, not training.

    Args:
        directory: of the event files.
        clock: monotonic seconds.

    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        from torch.utils.tensorboard import SummaryWriter  # late: takes a second

        self._writer = SummaryWriter(str(directory))
        self._clock = clock
        self._next = 0.0
        self._broken = False

    def write(self, scalars: Mapping[str, float | None], step: int) -> None:
        """Write one point per scalar at `step`, if the last were written long enough ago."""
        now = self._clock()
        if now < self._next or self._broken:
            return
        self._next = now + TENSORBOARD_SECONDS
        with self._giving_up():
            for name, value in scalars.items():
                if value is not None:
                    self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left."""
        with self._giving_up():
            self._writer.close()

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        """Write no more once the disk is full or gone: the writer does not recover from it."""
        try:
            yield
        except OSError as error:
            _LOG.error("TensorBoard files end here, training goes on: %s", error)
            self._broken = True


class StatusCollector(Collector):
    """Turns the learner's status into Prometheus metrics whenever they are scraped."""

    def __init__(self, source: StatusSource) -> None:
        self._source = source

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of this moment."""
        status = self._source.status()
        yield from _gauges(status)
        for name, text, value in (
            ("env_steps", "Environment steps trained.", status.env_steps),
            ("episodes", "Episodes ended.", status.episodes),
            ("received_samples", "Samples that reached the learner.", status.ledger.received),
        ):
            yield CounterMetricFamily(f"vaco_learner_{name}", text, value=value)
        samples = CounterMetricFamily(
            "vaco_learner_samples", "Samples by what became of them.", labels=["fate"]
        )
        for fate in ("trained", "stale", "duplicate", "rejected", "filtered"):
            samples.add_metric([fate], getattr(status.ledger, fate))
        yield samples


def _gauges(status: learner_pb2.GetStatusResponse) -> Iterator[Metric]:
    connected = sum(actor.connected for actor in status.actors)
    gauges: tuple[tuple[str, str, float], ...] = (
        ("version", "Version of the weights.", status.version),
        ("incarnation", "Starts of the learner.", status.incarnation),
        ("checkpoint_version", "Newest complete checkpoint.", status.checkpoint_version),
        ("steps_per_second", "Environment steps trained per second.", status.steps_per_second),
        ("queued_samples", "Samples waiting to be trained.", status.ledger.queued),
        ("connected_actors", "Actors with an open stream.", connected),
        ("lag_p50_versions", "Median policy lag.", status.lag.p50),
        ("lag_p95_versions", "95th percentile of the policy lag.", status.lag.p95),
        ("tv", "Total variation against the anchor.", status.tv),
        ("filtered_share", "Share of samples filtered.", status.filtered_share),
        ("demand_samples_per_second", "Samples training could take.", status.scaling.demand),
        (
            "supply_samples_per_second",
            "Samples one actor produces.",
            status.scaling.supply_per_actor,
        ),
    )
    for name, text, value in gauges:
        yield GaugeMetricFamily(f"vaco_learner_{name}", text, value=value)
    if status.HasField("return_mean"):
        text = "Mean return of the last episodes."
        yield GaugeMetricFamily("vaco_learner_return_mean", text, value=status.return_mean)
