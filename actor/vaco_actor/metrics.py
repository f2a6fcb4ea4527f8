"""What monitoring sees of an actor: Prometheus metrics, fed by counters of the rollout."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(slots=True)
class Counters:
    """What an actor has done so far; written by the rollout thread alone.

    Attributes:
        fragments: Handed over to be sent.
        samples: In them.
        episodes: Ended in them.
        rollout_seconds: Spent on them.
        waiting_seconds: Spent waiting for credits, or for weights in lock-step.
        version: Of the weights that made the last one.
        given_up: Samples that the learner did not get because we left.
        return_mean: Of the episodes that ended in the last fragment in which any did.

    """

    fragments: int = 0
    samples: int = 0
    episodes: int = 0
    rollout_seconds: float = 0.0
    waiting_seconds: float = 0.0
    version: int = 0
    given_up: int = 0
    return_mean: float | None = None


class ActorCollector(Collector):
    """Turns an actor's counters into Prometheus metrics whenever they are scraped.

    Args:
        counters: Of the rollout.
        unacknowledged: Returns how many fragments are on their way.

    """

    def __init__(self, counters: Counters, unacknowledged: Callable[[], int]) -> None:
        self._counters = counters
        self._unacknowledged = unacknowledged

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics of this moment."""
        counters = self._counters
        for name, text, value in (
            ("fragments", "Fragments handed over to be sent.", counters.fragments),
            ("samples", "Samples handed over to be sent.", counters.samples),
            ("episodes", "Episodes ended.", counters.episodes),
            ("given_up_samples", "Samples begun or made, and given up.", counters.given_up),
            ("rollout_seconds", "Seconds spent producing.", counters.rollout_seconds),
            ("waiting_seconds", "Seconds spent held back.", counters.waiting_seconds),
        ):
            yield CounterMetricFamily(f"vaco_actor_{name}", text, value=value)
        yield GaugeMetricFamily(
            "vaco_actor_unacknowledged",
            "Fragments whose fate is not known.",
            value=self._unacknowledged(),
        )
        yield GaugeMetricFamily(
            "vaco_actor_version", "Version of the weights acting.", value=counters.version
        )
        if counters.return_mean is not None:
            yield GaugeMetricFamily(
                "vaco_actor_return_mean",
                "Mean return of the episodes that ended last.",
                value=counters.return_mean,
            )
