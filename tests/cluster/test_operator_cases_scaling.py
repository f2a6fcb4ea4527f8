"""Cases 16 to 19 of operator-cases.md: how many actors, why, and which of them go.

Learners here are doubles that only answer: what they measure is said by the tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from operator_harness import jobs
from vaco.v1 import learner_pb2 as pb

if TYPE_CHECKING:
    from operator_harness.stage import Field

pytestmark = pytest.mark.cluster

COST = "controller.kubernetes.io/pod-deletion-cost"
QUICK: dict[str, Any] = {
    "intervalSeconds": 0.5,
    "headroom": 1,
    "scaleUp": {"maxChange": 8, "periodSeconds": 1},
    "scaleDown": {"maxChange": 8, "periodSeconds": 1, "stabilizationWindowSeconds": 0},
}
MERGE = "application/merge-patch+json"


def _load(wish: float, **more: Any) -> pb.ScalingSignals:
    """Signals that ask for so many actors."""
    return pb.ScalingSignals(demand=1000 * wish, supply_per_actor=1000, **more)


def _scale(field: Field, replicas: int) -> None:
    """What `kubectl scale`, an HPA and KEDA do."""
    path = f"{field.api.path('training.vaco.dev/v1alpha1', 'VACOJob', 'pole', field.namespace)}"
    field.api.request(
        "PATCH", f"{path}/scale", {"spec": {"replicas": replicas}}, content_type=MERGE
    )


def test_demand_scales_up_and_lag_scales_down_and_both_are_told(field: Field) -> None:
    scaling = {**QUICK, "targetLag": {"versions": 4}}
    double, names = field.training(actors=1, autoscaling=scaling)
    double.say(scaling=_load(4))
    names = field.wait_for_pods("actor", 4)
    status = field.wait_for_status("it is told", lambda s: s["actors"]["desired"] == 4)
    assert "demand 4,000/s over 1,000/s per actor" in status["scaling"]["lastReason"]
    double.train(*names)
    double.say(scaling=_load(4, lag_versions=8))
    # Half of the actors make half of the lag.
    field.wait_for_pods("actor", 2)
    status = field.wait_for_status("it is told", lambda s: s["actors"]["desired"] < 4)
    up = field.wait("it is told", lambda: field.told("ScaledUp"))
    down = field.wait("it is told", lambda: field.told("ScaledDown"))
    assert up["message"].startswith("Actors 1 -> 4: demand")
    assert "is over its target 4" in down["message"]


def test_case_16_without_signals_the_count_holds_though_the_learner_is_gone(field: Field) -> None:
    double, names = field.training(actors=3, autoscaling={**QUICK, "signalTimeoutSeconds": 2})
    double.say(scaling=_load(3))
    field.wait_for_status("signals are used", lambda s: "demand" in s["scaling"]["lastReason"])
    double.fall_silent()
    condition = field.wait_for_condition("LearnerAvailable", "False")
    assert condition["reason"] == "NotAnswering"
    assert field.wait_for_pods("actor", 3) == names
    status = field.status()
    assert (status["actors"]["desired"], status["actors"]["ready"]) == (3, 0)
    double.train(*names)
    double.say(scaling=_load(1, age_seconds=60))
    double.listen()
    field.wait_for_condition("LearnerAvailable", "True")
    field.wait_for_status(
        "old ones are not used", lambda s: "60 s old" in s["scaling"]["lastReason"]
    )
    assert field.wait_for_pods("actor", 3) == names


def test_case_17_a_load_that_swings_scales_once_up_and_once_down_when_it_has_calmed(
    field: Field,
) -> None:
    window = 4
    down = {**QUICK["scaleDown"], "stabilizationWindowSeconds": window}
    double, _ = field.training(actors=1, autoscaling={**QUICK, "scaleDown": down})
    first, counts = double.asked, [1]

    def swings() -> bool:
        # With every question another load, for three windows.
        double.say(scaling=_load(5 if double.asked % 2 else 1))
        if (count := field.status()["actors"]["desired"]) != counts[-1]:
            counts.append(count)
        return double.asked > first + 3 * window / QUICK["intervalSeconds"]

    field.wait("it has swung for long", swings)
    assert counts == [1, 5]
    assert field.status()["scaling"]["events"] == 1
    double.say(scaling=_load(1))
    status = field.wait_for_status("it is told", lambda s: s["actors"]["desired"] == 1)
    assert status["scaling"]["events"] == 2


def test_case_18_the_actors_that_lag_most_go_and_not_the_busiest(field: Field) -> None:
    double, names = field.training(
        actors=5, autoscaling={"mode": "external", "intervalSeconds": 0.5}
    )
    accounts = [
        pb.ActorAccount(actor_id=name, connected=True, samples_per_second=1000 * i, lag_p95=lag)
        for i, (name, lag) in enumerate(zip(names, [2, 9, 1, 7, 3], strict=True))
    ]
    double.say(version=2, actors=accounts)
    field.wait_for_status("the lags are known", lambda s: s["version"] == 2)
    _scale(field, 3)
    left = field.wait_for_pods("actor", 3)
    assert set(names) - set(left) == {names[1], names[3]}
    event = field.wait("it is told", lambda: field.told("ScaledDown"))
    assert event["message"].startswith("Actors 5 -> 3: asked for 3")


def test_case_18_who_is_not_connected_goes_before_who_lags(field: Field) -> None:
    double, names = field.training(
        actors=3, autoscaling={"mode": "external", "intervalSeconds": 0.5}
    )
    accounts = [
        pb.ActorAccount(actor_id=name, connected=i != 1, lag_p95=50 * (i == 0))
        for i, name in enumerate(names)
    ]
    double.say(version=2, actors=accounts)
    field.wait_for_status("it is known", lambda s: s["actors"]["ready"] == 2)
    _scale(field, 2)
    left = field.wait_for_pods("actor", 2)
    assert set(names) - set(left) == {names[1]}
    costs = [p["metadata"].get("annotations", {}).get(COST) for p in field.pods("actor")]
    assert costs == [None, None], "only those who go are marked"


def test_case_19_external_scaling_and_the_same_manifest_again_do_not_fight(field: Field) -> None:
    manifest = jobs.job(
        "pole",
        field.namespace,
        actors={"minReplicas": 1, "maxReplicas": 6},
        autoscaling={"mode": "external", "intervalSeconds": 0.5},
    )
    field.api.apply(manifest, manager="kubectl")
    double = field.stage.doubles.of(field.api, field.job())
    names = field.wait_for_pods("actor", 1)
    double.train(*names, version=1, scaling=_load(6))
    field.wait_for_status("it trains", lambda s: s["phase"] == "Running")
    _scale(field, 4)
    before = field.wait_for_pods("actor", 4)
    field.wait_for_status("it is told", lambda s: s["actors"]["desired"] == 4)
    since = field.wait_until_at_rest()
    for _ in range(5):
        field.api.apply(manifest, manager="kubectl")
    assert field.job()["spec"]["actors"]["replicas"] == 4
    double.train(*before, version=2, scaling=_load(1))
    field.wait_for_status("the learner is heard", lambda s: s["actors"]["ready"] == 4)
    assert field.wait_for_pods("actor", 4) == before
    written = {e.resource for e in field.asked(since) if e.writes}
    assert written <= {"vacojobs/status"}
    assert field.status()["scaling"]["events"] == 1


def test_a_count_set_by_hand_holds_for_the_window_of_scaling_down(field: Field) -> None:
    scaling = {**QUICK, "scaleDown": {"stabilizationWindowSeconds": 4, "maxChange": 8}}
    double, names = field.training(actors=1, autoscaling=scaling)
    _scale(field, 3)
    names = field.wait_for_pods("actor", 3)
    double.train(*names, version=2, scaling=_load(5))
    status = field.wait_for_status("it is told", lambda s: s["scaling"]["requested"] == 3)
    assert "asked for 3; autoscaling goes on in 4 s" in status["scaling"]["lastReason"]
    assert status["actors"]["desired"] == 3
    field.wait_for_pods("actor", 5)


def test_case_24_the_next_operator_goes_on_with_the_count_it_finds(field: Field) -> None:
    stage = field.stage
    double, names = field.training(actors=1, autoscaling=QUICK)
    double.say(scaling=_load(4))
    names = field.wait_for_pods("actor", 4)
    double.train(*names)
    before = field.wait_for_status("all are ready", lambda s: s["actors"]["ready"] == 4)
    double.fall_silent()
    stage.operator.stop()
    stage.operator = stage.start()
    field.change(backoffLimit=3)
    generation = field.job()["metadata"]["generation"]
    status = field.wait_for_status("it is seen", lambda s: s["observedGeneration"] == generation)
    assert status["actors"]["desired"] == 4
    assert status["scaling"]["events"] == before["scaling"]["events"]
    assert field.wait_for_pods("actor", 4) == names
