"""What a monitoring system reads from an actor."""

from prometheus_client import CollectorRegistry, generate_latest
from vaco_actor.given_up import GivenUp, Lost
from vaco_actor.metrics import ActorCollector, Counters


def scrape(registry: CollectorRegistry) -> dict[str, float]:
    lines = generate_latest(registry).decode().splitlines()
    pairs = (line.split(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_every_scrape_tells_the_moments_figures() -> None:
    counters = Counters(fragments=3, samples=700, version=9, given_up=24)
    registry = CollectorRegistry()
    registry.register(ActorCollector(counters, lambda: 2))
    seen = scrape(registry)
    assert seen["vaco_actor_fragments_total"] == 3
    assert seen["vaco_actor_samples_total"] == 700
    assert seen["vaco_actor_given_up_samples_total"] == 24
    assert seen["vaco_actor_version"] == 9
    assert seen["vaco_actor_unacknowledged"] == 2
    assert "vaco_actor_return_mean" not in seen
    counters.samples += 50
    counters.return_mean = -1.5
    seen = scrape(registry)
    assert seen["vaco_actor_samples_total"] == 750
    assert seen["vaco_actor_return_mean"] == -1.5


def test_what_is_given_up_is_told_by_reason() -> None:
    given_up = GivenUp("completions", "groups")
    given_up.add("were not complete", Lost(5, 2))
    given_up.add("got no credit", Lost())
    given_up.add("got no answer", Lost(8, 1))
    assert given_up.total == Lost(13, 3)
    told = (
        "gave up 13 completions of 3 groups: 5 completions of 2 groups were not complete, "
        "8 completions of 1 groups got no answer"
    )
    assert str(given_up) == told
