"""What monitoring sees of the operator, in Prometheus' terms.

| metric | labels | what |
|---|---|---|
| `vaco_operator_reconcile_seconds` | result | histogram; see `Controller` |
| `vaco_operator_queue_wait_seconds` | | histogram; from a change to a worker |
| `vaco_operator_queue_depth` | | jobs that wait for a worker |
| `vaco_operator_queue_adds_total` | | jobs that were put in |
| `vaco_operator_queue_retries_total` | | jobs that came back after a failure |
| `vaco_operator_api_requests_total` | verb, resource, code | attempts; HTTP's code, or one word |
| `vaco_operator_api_request_seconds` | verb | histogram; of a watch until it begins |
| `vaco_operator_watch_restarts_total` | resource, reason | `ended`, `expired`, `failed` |
| `vaco_operator_watched_objects` | resource | objects in the stores |
| `vaco_operator_unlisted_namespaces` | | those whose jobs wait, see `Coverage` |
| `vaco_operator_events_total` | result | `written`, `failed`, `dropped` |
| `vaco_operator_loop_lag_seconds` | | how late the event loop is |
| `vaco_operator_leader` | | 1: this replica reconciles |
| `vaco_jobs` | phase | jobs |
| `vaco_job_phase` | namespace, name, phase | 1; for `MAX_JOB_SERIES` jobs at most |
| `vaco_jobs_without_series` | | jobs beyond that number |

No other label has values that a user chooses, so nothing here grows without a bound.
"""

from collections import Counter as Count
from collections.abc import Iterator
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vaco_operator.cluster.store import Store, Stores
from vaco_operator.cluster.work_queue import WorkQueue

MAX_JOB_SERIES: Final = 1000
_SECONDS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0),
    # Jobs that are created by the hundred wait for minutes.
    *(120.0, 300.0),
)


class Metrics:
    """Counts; `registry` has everything."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._reconcile = self._histogram("reconcile", "One look at a job.", ("result",))
        self._wait = self._histogram("queue_wait", "From a change to a worker.", ())
        self._api_time = self._histogram("api_request", "One attempt.", ("verb",))
        self._api = Counter(
            "vaco_operator_api_requests",
            "Attempts to ask the API server.",
            ("verb", "resource", "code"),
            registry=self.registry,
        )
        self._watch = Counter(
            "vaco_operator_watch_restarts",
            "Watches that were begun again.",
            ("resource", "reason"),
            registry=self.registry,
        )
        self._events = Counter(
            "vaco_operator_events",
            "Events about jobs.",
            ("result",),
            registry=self.registry,
        )
        self._leader = self._gauge("leader", "1: this replica reconciles.")
        self._unlisted = self._gauge(
            "unlisted_namespaces", "Namespaces whose jobs wait, as not all there could be listed."
        )
        self._lag = self._gauge("loop_lag_seconds", "How late the event loop is.")

    def reconciled(self, result: str, seconds: float) -> None:
        """Count a look at a job."""
        self._reconcile.labels(result).observe(seconds)

    def waited(self, seconds: float) -> None:
        """Count a job that was taken from the queue."""
        self._wait.observe(seconds)

    def asked(self, verb: str, resource: str, code: str, seconds: float) -> None:
        """Count an attempt to ask the API server."""
        self._api.labels(verb, resource, code).inc()
        self._api_time.labels(verb).observe(seconds)

    def watch_restarted(self, resource: str, reason: str) -> None:
        """Count a watch that begins again."""
        self._watch.labels(resource, reason).inc()

    def unlisted(self, namespaces: int) -> None:
        """Say in how many namespaces jobs wait until everything there is listed."""
        self._unlisted.set(namespaces)

    def event(self, result: str) -> None:
        """Count an event that was `written`, `failed` or `dropped`."""
        self._events.labels(result).inc()

    def leads(self, leading: bool) -> None:
        """Say whether this replica leads."""
        self._leader.set(leading)

    def lagged(self, seconds: float) -> None:
        """Say how late the event loop is."""
        self._lag.set(seconds)

    def show(self, queue: WorkQueue, stores: Stores) -> None:
        """Have the queue and the stores asked whenever the metrics are read."""
        self.registry.register(_Sizes(queue, stores))
        self.registry.register(_Phases(stores.vaco_jobs))

    def _histogram(self, name: str, text: str, labels: tuple[str, ...]) -> Histogram:
        full = f"vaco_operator_{name}_seconds"
        return Histogram(full, text, labels, buckets=_SECONDS, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"vaco_operator_{name}", text, registry=self.registry)


class _Phases(Collector):
    """In which phase each job is, read when somebody asks."""

    def __init__(self, jobs: Store) -> None:
        self._jobs = jobs

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        # The store yields the jobs known for longest first: their series do not come and go.
        phases = [(place, phase or "Pending") for place, phase in self._jobs.phases()]
        totals = GaugeMetricFamily("vaco_jobs", "Jobs by phase.", labels=["phase"])
        for phase, count in sorted(Count(phase for _, phase in phases).items()):
            totals.add_metric([phase], count)
        yield totals
        each = GaugeMetricFamily(
            "vaco_job_phase", "1 for the phase of a job.", labels=["namespace", "name", "phase"]
        )
        for name, phase in phases[:MAX_JOB_SERIES]:
            each.add_metric([*name, phase], 1)
        yield each
        beyond = max(0, len(phases) - MAX_JOB_SERIES)
        yield GaugeMetricFamily("vaco_jobs_without_series", "Jobs beyond the bound.", beyond)


class _Sizes(Collector):
    """The queue and the stores, read when somebody asks."""

    def __init__(self, queue: WorkQueue, stores: Stores) -> None:
        self._queue = queue
        self._stores = stores

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        prefix = "vaco_operator_queue"
        yield GaugeMetricFamily(f"{prefix}_depth", "Jobs that wait.", len(self._queue))
        yield CounterMetricFamily(f"{prefix}_adds", "Jobs added.", self._queue.adds)
        yield CounterMetricFamily(f"{prefix}_retries", "Jobs that failed.", self._queue.retries)
        objects = GaugeMetricFamily(
            "vaco_operator_watched_objects", "Objects in the stores.", labels=["resource"]
        )
        for store in (self._stores.vaco_jobs, *self._stores.children()):
            objects.add_metric([store.resource.plural], len(store))
        yield objects
