"""The actors of a local run: as many as desired, each kept alive, the right ones told to leave."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from vaco_operator.local.processes import Process
from vaco_operator.local.restarts import Restarts
from vaco_operator.local.supervised import Death, Supervised


@dataclass(frozen=True, slots=True)
class Connection:
    """What the learner knows of an actor: connected or not, and lag p95 in versions."""

    connected: bool
    lag: float


@dataclass(frozen=True, slots=True)
class Candidate:
    """An actor as the choice of victims sees it."""

    index: int
    running: bool
    connected: bool
    lag: float


def choose_victims(candidates: Iterable[Candidate], count: int) -> list[int]:
    """Choose who leaves: not running, then not connected, then most lagging, then youngest."""
    ranked = sorted(candidates, key=lambda c: (c.running, c.connected, -c.lag, -c.index))
    return [candidate.index for candidate in ranked[: max(0, count)]]


class ActorPool:
    """Slots 0, 1, 2, ..., each with at most one actor process.

    Args:
        start: starts the actor of an index, with a new incarnation at every call.
        backoff_limit: restarts of one dying actor.
        drain_seconds: what an actor that is told to leave has to do so.

    """

    def __init__(
        self, start: Callable[[int], Process], backoff_limit: int, drain_seconds: float
    ) -> None:
        self._start = start
        self._limit = backoff_limit
        self._drain = drain_seconds
        self._slots: dict[int, Supervised] = {}

    def resize(self, desired: int, connections: Mapping[str, Connection], now: float) -> None:
        """Add or drain actors until `desired` of them are meant to stay."""
        staying = {i: slot for i, slot in self._slots.items() if slot.state != "leaving"}
        candidates = [
            Candidate(
                index=index,
                running=slot.state == "running",
                connected=(known := connections.get(slot.name, Connection(False, 0.0))).connected,
                lag=known.lag,
            )
            for index, slot in staying.items()
        ]
        for index in choose_victims(candidates, len(staying) - desired):
            self._slots[index].leave(now, self._drain)
        for _ in range(desired - len(staying)):
            self._add(now)

    def tick(self, now: float) -> list[Death]:
        """Drive every slot; those that are gone give their index back."""
        deaths = [death for slot in self._slots.values() if (death := slot.tick(now))]
        dead = {death.name for death in deaths}
        self._slots = {
            index: slot
            for index, slot in self._slots.items()
            if slot.state != "gone" or slot.name in dead
        }
        return deaths

    def restart(self, death: Death, now: float, at_least: float = 0.0) -> float | None:
        """Plan another start of the actor that died, as `Supervised.restart` does."""
        slot = next(slot for slot in self._slots.values() if slot.name == death.name)
        return slot.restart(death, now, at_least)

    def leave(self, now: float, grace: float) -> None:
        """Tell all of them to leave."""
        for slot in self._slots.values():
            slot.leave(now, grace)

    def ready(self, connections: Mapping[str, Connection]) -> int:
        """Count the actors that run, stay, and are connected to the learner."""
        return sum(
            slot.state == "running"
            and slot.name in connections
            and connections[slot.name].connected
            for slot in self._slots.values()
        )

    @property
    def empty(self) -> bool:
        """Whether no actor is left."""
        return not self._slots

    def _add(self, now: float) -> None:
        index = next(i for i in range(len(self._slots) + 1) if i not in self._slots)
        self._slots[index] = Supervised(
            actor_name(index), lambda: self._start(index), Restarts(self._limit), now
        )


def actor_name(index: int) -> str:
    """Name the actor of a slot."""
    return f"actor-{index}"
