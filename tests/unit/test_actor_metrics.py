"""What a monitoring system reads from an actor."""

from prometheus_client import CollectorRegistry, generate_latest
from vaco_actor.metrics import ActorCollector, Counters


def scrape(registry: CollectorRegistry) -> dict[str, float]:
    lines = generate_latest(registry).decode().splitlines()
    pairs = (line.split(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_every_scrape_tells_the_moments_figures() -> None:
    counters = Counters(fragments=3, samples=700, version=9)
    registry = CollectorRegistry()
    registry.register(ActorCollector(counters, lambda: 2))
    seen = scrape(registry)
    assert seen["vaco_actor_fragments_total"] == 3
    assert seen["vaco_actor_samples_total"] == 700
    assert seen["vaco_actor_version"] == 9
    assert seen["vaco_actor_unacknowledged"] == 2
    assert "vaco_actor_return_mean" not in seen
    counters.samples += 50
    counters.return_mean = -1.5
    seen = scrape(registry)
    assert seen["vaco_actor_samples_total"] == 750
    assert seen["vaco_actor_return_mean"] == -1.5
