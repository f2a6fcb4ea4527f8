"""The actors of a job: who they are, what they have delivered, how fast they produce.

One `Actor` per actor id, for its newest incarnation. Everything here is guarded by the ledger's
lock, because deliveries and the ledger must agree in every checkpoint.
"""

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from vaco.schema.actors import MAX_ACTORS

from vaco_learner.deliveries import DeliveryLog, DeliveryRecord

_RECENT: Final = 32
"""Fragments over which an actor's rates and lag are measured."""
MAX_ACTOR_ID_LENGTH: Final = 253
MAX_INCARNATION: Final = (1 << 63) - 1


class ActorRefusedError(Exception):
    """An actor that must not connect; retrying would not help it."""


class ActorFencedError(ActorRefusedError):
    """An incarnation of an actor that has a newer one; started again, it may be the newest."""


@dataclass(frozen=True, slots=True)
class ActorRecord:
    """An actor as a checkpoint keeps it."""

    actor_id: str
    incarnation: int
    deliveries: DeliveryRecord
    samples: int
    trained: int


@dataclass(frozen=True, slots=True)
class ActorAccount:
    """An actor as the status shows it.

    Attributes:
        actor_id: e.g. `actor-0`.
        incarnation: the newest one.
        connected: whether its stream is open.
        samples: received, over all incarnations.
        trained: trained, over all incarnations.
        samples_per_second: that arrived recently.
        lag_p95: of its recently trained fragments, in versions.
        seconds_since_last: since it connected or sent a fragment.

    """

    actor_id: str
    incarnation: int
    connected: bool
    samples: int
    trained: int
    samples_per_second: float
    lag_p95: float
    seconds_since_last: float


@dataclass(slots=True)
class Actor:
    """The account of one actor.

    Attributes:
        actor_id: e.g. `actor-0`.
        incarnation: the newest one.
        log: its deliveries.
        connected: whether its stream is open.
        samples: samples received, over all incarnations.
        trained: samples trained, over all incarnations.
        rejections: fragments rejected since the last one that was admitted.
        last_seen: monotonic time of the last fragment or connection.
        productions: (samples, seconds it took to produce them) of recent fragments.
        arrivals: (monotonic time, samples) of recent fragments.
        lags: lag in versions of recently trained fragments.

    """

    actor_id: str
    incarnation: int
    log: DeliveryLog
    connected: bool = False
    samples: int = 0
    trained: int = 0
    rejections: int = 0
    last_seen: float = 0.0
    productions: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_RECENT))
    arrivals: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_RECENT))
    lags: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def supply(self) -> float:
        """Sample per second it produces when nothing holds it back; 0: not known yet."""
        seconds = sum(seconds for _, seconds in self.productions)
        return sum(samples for samples, _ in self.productions) / seconds if seconds > 0 else 0.0

    def account(self, now: float) -> ActorAccount:
        """Return what the status shows, at the monotonic time `now`."""
        return ActorAccount(
            actor_id=self.actor_id,
            incarnation=self.incarnation,
            connected=self.connected,
            samples=self.samples,
            trained=self.trained,
            samples_per_second=self._samples_per_second(now),
            lag_p95=sorted(self.lags)[int(0.95 * (len(self.lags) - 1))] if self.lags else 0.0,
            seconds_since_last=max(0.0, now - self.last_seen),
        )

    def _samples_per_second(self, now: float) -> float:
        if not self.arrivals:
            return 0.0
        first, first_samples = self.arrivals[0]
        total = sum(samples for _, samples in self.arrivals)
        return (total - first_samples) / (now - first) if now > first else 0.0


class Roster:
    """All actors of the job.

    Args:
        records: what a checkpoint kept.
        max_actors: how many are remembered; beyond it the disconnected one that was silent for
            longest is forgotten, unless fragments of it are queued.
        clock: monotonic seconds.

    """

    def __init__(
        self,
        records: tuple[ActorRecord, ...] = (),
        max_actors: int = MAX_ACTORS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_actors = max_actors
        self._clock = clock
        self._actors = {r.actor_id: _restored(r, clock()) for r in records}

    def __iter__(self) -> Iterator[Actor]:
        return iter(self._actors.values())

    def find(self, actor_id: str) -> Actor | None:
        """Return the actor, in its newest incarnation."""
        return self._actors.get(actor_id)

    def connect(self, actor_id: str, incarnation: int) -> Actor:
        """Note that an actor opened a stream; a newer incarnation starts a new delivery log.

        Raises:
            ActorFencedError: a newer incarnation is known.
            ActorRefusedError: there are too many actors, or it is none.

        """
        if not 0 < len(actor_id) <= MAX_ACTOR_ID_LENGTH:
            raise ActorRefusedError(f"an actor id of {len(actor_id)} characters")
        if not 0 < incarnation <= MAX_INCARNATION:
            raise ActorRefusedError(f"{actor_id}: incarnation {incarnation} is not a number from 1")
        actor = self._actors.get(actor_id)
        if actor is None:
            self._make_room()
            actor = self._actors[actor_id] = Actor(actor_id, incarnation, DeliveryLog())
        elif incarnation < actor.incarnation:
            raise ActorFencedError(
                f"{actor_id}: incarnation {incarnation} is fenced by {actor.incarnation}: another"
                " process of this name is newer, or the clock was set back. Start it again"
            )
        elif incarnation > actor.incarnation:
            actor.incarnation, actor.log = incarnation, DeliveryLog()
            actor.productions.clear()
        actor.connected = True
        actor.last_seen = self._clock()
        return actor

    def received(self, actor: Actor, samples: int, seconds: float = 0.0) -> None:
        """Note samples of `actor`, and how long it took to produce them (0: not known)."""
        now = self._clock()
        actor.samples += samples
        actor.last_seen = now
        actor.arrivals.append((now, samples))
        if samples > 0 and seconds > 0:
            actor.productions.append((samples, seconds))

    def supply_per_actor(self) -> float:
        """Median over the connected actors of what one produces per second; 0: not known."""
        rates = [rate for actor in self if actor.connected and (rate := actor.supply()) > 0]
        return statistics.median(rates) if rates else 0.0

    def accounts(self) -> list[ActorAccount]:
        """Return all actors for the status."""
        now = self._clock()
        return [actor.account(now) for actor in self]

    def records(self) -> tuple[ActorRecord, ...]:
        """Return what must survive the process."""
        return tuple(
            ActorRecord(a.actor_id, a.incarnation, a.log.record(), a.samples, a.trained)
            for a in self
        )

    def _make_room(self) -> None:
        if len(self._actors) < self._max_actors:
            return
        idle = [actor for actor in self if not actor.connected and actor.log.waiting == 0]
        if not idle:
            raise ActorRefusedError(f"{self._max_actors} actors are connected already")
        del self._actors[min(idle, key=lambda actor: actor.last_seen).actor_id]


def _restored(record: ActorRecord, now: float) -> Actor:
    log = DeliveryLog(record.deliveries.last, record.deliveries.undecided)
    actor = Actor(record.actor_id, record.incarnation, log)
    actor.samples, actor.trained = record.samples, record.trained
    actor.last_seen = now
    return actor
