"""Every metric that the chart's dashboards and alerts name is one that a program serves."""

import asyncio
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric
from vaco.v1 import learner_pb2 as pb
from vaco_actor.metrics import ActorCollector, Counters
from vaco_learner.metrics import StatusCollector
from vaco_operator.cluster.metrics import Metrics
from vaco_operator.cluster.store import Stores
from vaco_operator.cluster.work_queue import WorkQueue

CHART = Path(__file__).resolve().parents[2] / "charts" / "vaco"
RULES = CHART / "templates" / "monitoring" / "prometheus_rule.yaml"
DASHBOARDS = sorted((CHART / "files" / "dashboards").glob("*.json"))
SUFFIXES = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}


class _Said:
    """A status source that says everything there is."""

    def status(self) -> pb.GetStatusResponse:
        return pb.GetStatusResponse(return_mean=1.0, tv=0.1)


def _names(families: Iterable[Metric]) -> Iterator[str]:
    for family in families:
        for suffix in SUFFIXES.get(family.type, [""]):
            yield family.name + suffix


async def _of_the_operator() -> set[str]:
    metrics = Metrics()
    queue = WorkQueue(metrics.waited)
    metrics.show(queue, Stores.make(queue.add))
    return set(_names(metrics.registry.collect()))


@pytest.fixture(scope="module")
def served() -> set[str]:
    return {
        *asyncio.run(_of_the_operator()),
        *_names(StatusCollector(_Said()).collect()),  # type: ignore[arg-type]
        *_names(ActorCollector(Counters(return_mean=1.0), lambda: 0).collect()),
    }


def _asked(text: str) -> set[str]:
    return set(re.findall(r"\bvaco_[a-z0-9_]+", text))


def test_alerts_look_at_metrics_that_exist(served: set[str]) -> None:
    asked = _asked(RULES.read_text())
    assert len(asked) > 5
    assert asked - served == set()


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_look_at_metrics_that_exist(path: Path, served: set[str]) -> None:
    board = json.loads(path.read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    queries += [variable["query"]["query"] for variable in board["templating"]["list"][1:]]
    asked = set().union(*map(_asked, queries))
    assert len(asked) > 5
    assert asked - served == set()


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_of_a_dashboard_do_not_overlap(path: Path) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in json.loads(path.read_text())["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
