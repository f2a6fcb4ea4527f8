"""What a monitoring system reads from an actor."""

from urllib.request import urlopen

from vaco_actor.metrics import ActorCollector, Counters, MetricsServer


def scrape(server: MetricsServer) -> dict[str, float]:
    with urlopen(f"http://{server.address}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    pairs = (line.split(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_every_scrape_tells_the_moments_figures() -> None:
    counters = Counters(fragments=3, samples=700, version=9)
    server = MetricsServer(ActorCollector(counters, lambda: 2), "127.0.0.1", 0)
    try:
        seen = scrape(server)
        assert seen["vaco_actor_fragments_total"] == 3
        assert seen["vaco_actor_samples_total"] == 700
        assert seen["vaco_actor_version"] == 9
        assert seen["vaco_actor_unacknowledged"] == 2
        assert "vaco_actor_return_mean" not in seen
        counters.samples += 50
        counters.return_mean = -1.5
        seen = scrape(server)
        assert seen["vaco_actor_samples_total"] == 750
        assert seen["vaco_actor_return_mean"] == -1.5
    finally:
        server.close()
