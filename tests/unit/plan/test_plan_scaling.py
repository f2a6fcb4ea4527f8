"""How many actors a job gets on a cluster, who goes first, and what the status says of it."""

from __future__ import annotations

from typing import Any

import pytest
from plan_scenes import Scene, applied, connected, reasons, truth
from vaco.v1 import learner_pb2 as pb
from vaco_operator.cluster.pods import DELETION_COST
from vaco_operator.cluster.steps import Memory
from vaco_operator.cluster.victims import SEEN_SECONDS

LATER = 1.5 * SEEN_SECONDS
QUICK: dict[str, Any] = {
    "intervalSeconds": 1,
    "headroom": 1,
    "scaleUp": {"maxChange": 100},
    "scaleDown": {"maxChange": 100, "stabilizationWindowSeconds": 0},
}


def replicas(scene: Scene) -> int:
    """What the Deployment is told next."""
    return applied(scene.look(), "Deployment")["spec"]["replicas"]


def wants(count: float, **more: Any) -> dict[str, Any]:
    """Fields of an answer that asks for so many actors."""
    signals = pb.ScalingSignals(demand=1000 * count, supply_per_actor=1000, **more)
    return {"scaling": signals}


def names(count: int) -> list[str]:
    return [f"pole-actors-{i}" for i in range(count)]


def test_demand_over_supply_gives_the_count_and_the_status_says_why():
    scene = Scene(autoscaling=QUICK).running(actors=2)
    scene.after(2).hear(version=6, actors=connected(*names(2)), **wants(5))
    decided = scene.step()
    assert applied(decided, "Deployment")["spec"]["replicas"] == 5
    status = decided.status
    assert (status.actors.desired, status.scaling.events) == (5, 1)
    assert "asks for 5" in status.scaling.last_reason
    assert decided.notes[0].reason == "ScaledUp"
    assert decided.notes[0].message.startswith("Actors 2 -> 5: demand")
    assert reasons(scene.look()) == []


def test_case_16_without_signals_or_with_old_ones_the_count_holds():
    scene = Scene(autoscaling=QUICK).running(actors=3)
    for seconds in (10, 100, 1000):
        scene.after(seconds)
        assert replicas(scene) == 3
        scene.step()
    scene.hear(version=6, actors=connected(*names(3)), **wants(8, age_seconds=31))
    status = scene.step().status
    assert status.actors.desired == 3
    assert "held" in status.scaling.last_reason


def test_case_16_an_answer_ages_where_the_signals_say_nothing_of_it():
    scene = Scene(autoscaling={**QUICK, "signalTimeoutSeconds": 10}).running(actors=3)
    scene.hear(version=6, actors=connected(*names(3)), **wants(8, age_seconds=1))
    assert "held" in scene.after(9.5).step().status.scaling.last_reason
    assert replicas(scene) == 3


def test_case_16_a_learner_that_is_done_changes_no_count():
    scene = Scene(autoscaling=QUICK).running(actors=3)
    scene.after(2).hear(version=6, phase=pb.LEARNER_PHASE_COMPLETE, **wants(1))
    assert replicas(scene) == 3


@pytest.mark.parametrize(
    ("asked", "gets", "limit"), [(99, 8, "MaxReplicas"), (0, 1, "MinReplicas")]
)
@pytest.mark.parametrize("mode", ["auto", "external", "fixed"])
def test_case_06_a_request_beyond_the_bounds_is_held_to_them_and_told(mode, asked, gets, limit):
    scaling = {**QUICK, "mode": mode, "scaleDown": {"stabilizationWindowSeconds": 30}}
    scene = Scene(autoscaling=scaling).running(actors=3)
    scene.change(actors={"replicas": asked})
    scene.step()
    status = scene.after(6).step().status
    assert (status.actors.desired, status.scaling.requested) == (gets, asked)
    assert truth(status, "ScalingLimited") == ("True", limit)
    assert f"asked for {asked}, limited to {gets}" in status.scaling.last_reason
    assert replicas(scene) == gets


def test_case_06_a_new_job_that_asks_for_too_many_is_told_likewise():
    scene = Scene(actors={"replicas": 9, "minReplicas": 1, "maxReplicas": 4})
    status = scene.step().status
    assert status.actors.desired == 4
    assert truth(status, "ScalingLimited") == ("True", "MaxReplicas")
    assert "asked for 9, limited to 4" in status.scaling.last_reason


def test_case_05_bounds_that_move_move_the_count():
    scene = Scene(autoscaling=QUICK).running(actors=5)
    scene.change(actors={"maxReplicas": 3}).after(0.1).step()
    assert scene.status.actors.desired == 3
    scene.actor_pods(*names(3))
    scene.remove("Pod", "pole-actors-3")
    scene.remove("Pod", "pole-actors-4")
    deployment = scene.document("Deployment", "pole-actors")
    deployment["spec"]["replicas"] = 3
    scene.put(deployment)
    scene.change(actors={"minReplicas": 6, "maxReplicas": 8}).after(0.1)
    decided = scene.step()
    assert applied(decided, "Deployment")["spec"]["replicas"] == 6
    assert decided.notes[0].reason == "ScaledUp"


def test_in_auto_mode_a_change_of_replicas_is_a_request_that_holds_for_a_while():
    scaling = {**QUICK, "scaleDown": {"stabilizationWindowSeconds": 30}}
    scene = Scene(autoscaling=scaling).running(actors=2)
    scene.change(actors={"replicas": 6})
    decided = scene.step()
    assert applied(decided, "Deployment")["spec"]["replicas"] == 6
    assert "asked for 6; autoscaling goes on in 30 s" in decided.status.scaling.last_reason
    scene.actor_pods(*names(6))
    scene.after(20).hear(version=6, actors=connected(*names(6)), **wants(8))
    assert replicas(scene) == 6
    scene.after(11).hear(version=7, actors=connected(*names(6)), **wants(8))
    assert replicas(scene) == 8


def test_case_19_the_same_replicas_again_are_no_request():
    scene = Scene(autoscaling=QUICK).running(actors=2)
    scene.after(2).hear(version=6, actors=connected(*names(2)), **wants(5))
    scene.step()
    scene.job["metadata"]["generation"] += 1
    assert replicas(scene) == 5
    assert reasons(scene.look()) == []


def test_case_19_in_external_mode_the_count_is_what_spec_says_and_signals_change_nothing():
    scene = Scene(autoscaling={**QUICK, "mode": "external"}).running(actors=2)
    scene.after(5).hear(version=6, actors=connected(*names(2)), **wants(8))
    assert replicas(scene) == 2
    scene.change(actors={"replicas": 4})
    assert applied(scene.step(), "Deployment")["spec"]["replicas"] == 4
    assert replicas(scene) == 4


def test_in_external_mode_a_request_that_was_limited_is_granted_when_the_bound_moves():
    scene = Scene(autoscaling={"mode": "external"}).running(actors=8)
    scene.change(actors={"replicas": 12}).step()
    assert truth(scene.status, "ScalingLimited") == ("True", "MaxReplicas")
    scene.change(actors={"maxReplicas": 16}).step()
    assert scene.status.actors.desired == 12
    assert truth(scene.status, "ScalingLimited")[0] == "False"


def test_the_next_operator_goes_on_with_the_count_and_its_reason():
    scene = Scene(autoscaling=QUICK).running(actors=2)
    scene.after(2).hear(version=6, actors=connected(*names(2)), **wants(5))
    before = scene.step().status
    scene.memory, scene.answer = Memory(), None
    decided = scene.step()
    assert applied(decided, "Deployment")["spec"]["replicas"] == 5
    after = decided.status
    assert (after.actors.desired, after.scaling.events) == (5, before.scaling.events)
    assert decided.notes == ()


def test_a_suspended_job_keeps_its_count_and_takes_requests():
    scene = Scene(autoscaling={"mode": "external"}).running(actors=3)
    scene.change(suspend=True).step()
    assert (replicas(scene), scene.status.actors.desired) == (0, 3)
    scene.change(actors={"replicas": 5}).step()
    assert (replicas(scene), scene.status.actors.desired) == (0, 5)


# Who goes.


def fewer(scene: Scene, to: int, **said: Any) -> dict[str, int]:
    """Have the job be scaled down; returns the costs that are written on pods first."""
    scene.change(actors={"replicas": to}).after(1)
    scene.hear(**{"version": 9, "actors": connected(*names(5))} | said)
    decided = scene.step()
    live = scene.document("Deployment", "pole-actors")["spec"]["replicas"]
    assert live == 5, "the Deployment is not told before the costs are on the pods"
    return {
        patch.name: int(patch.change["metadata"]["annotations"][DELETION_COST])
        for patch in decided.patches
    }


def test_case_18_the_victims_are_marked_first_and_then_the_deployment_is_told():
    scene = Scene(autoscaling={"mode": "external"}).running(actors=5)
    accounts = connected(*names(5))
    for i, lag in enumerate([1, 9, 3, 7, 2]):
        accounts[i].lag_p95 = lag
    costs = fewer(scene, to=3, actors=accounts)
    assert costs == {"pole-actors-1": -2, "pole-actors-3": -1}
    decided = scene.after(LATER).step()
    assert decided.patches == ()
    assert decided.requeue_after == pytest.approx(SEEN_SECONDS)
    assert applied(scene.after(LATER).step(), "Deployment")["spec"]["replicas"] == 3


def test_case_18_an_answer_right_after_the_costs_were_written_does_not_hurry_a_scale_down():
    scene = Scene(autoscaling={"mode": "external"}).running(actors=5)
    fewer(scene, to=3)
    for version in (10, 11, 12):
        scene.after(SEEN_SECONDS / 4).hear(version=version, actors=connected(*names(5)))
        scene.step()
        assert scene.document("Deployment", "pole-actors")["spec"]["replicas"] == 5
    scene.after(LATER).step()
    assert scene.document("Deployment", "pole-actors")["spec"]["replicas"] == 3


def test_case_18_pending_then_unready_then_unconnected_then_lagging_actors_go():
    scene = Scene(autoscaling={"mode": "external"}).running(actors=5)
    scene.actor_pods("pole-actors-3", phase="Pending", ready=False)
    scene.actor_pods("pole-actors-1", ready=False)
    accounts = connected(*names(5))
    accounts[4].connected = False
    accounts[2].lag_p95 = 50
    costs = fewer(scene, to=1, actors=accounts)
    assert sorted(costs, key=lambda name: costs[name]) == [
        *("pole-actors-3", "pole-actors-1", "pole-actors-4", "pole-actors-2")
    ]


def test_case_18_a_choice_stands_until_it_is_carried_out_though_lags_change():
    scene = Scene(autoscaling={"mode": "external"}).running(actors=5)
    accounts = connected(*names(5))
    accounts[1].lag_p95 = 9
    fewer(scene, to=4, actors=accounts)
    accounts[1].lag_p95, accounts[2].lag_p95 = 0, 99
    scene.hear(version=10, actors=accounts)
    scene.step()
    decided = scene.after(LATER).step()
    assert (decided.patches, applied(decided, "Deployment")["spec"]["replicas"]) == ((), 4)


def test_case_18_costs_of_an_earlier_scale_down_are_taken_back():
    scene = Scene(autoscaling={"mode": "external"}).running(actors=5)
    scene.actor_pods("pole-actors-0", annotations={DELETION_COST: "-4"})
    accounts = connected(*names(5))
    accounts[2].lag_p95 = 99
    assert fewer(scene, to=4, actors=accounts) == {"pole-actors-0": 0, "pole-actors-2": -1}


def test_case_18_costs_that_cannot_be_written_hold_a_scale_down_up_for_seconds_only():
    scene = Scene(autoscaling={"mode": "external"}).running(actors=5)
    fewer(scene, to=4)
    scene.actor_pods(*names(5))
    assert applied(scene.after(4.9).step(), "Deployment")["spec"]["replicas"] == 5
    scene.actor_pods(*names(5))
    assert applied(scene.after(0.2).step(), "Deployment")["spec"]["replicas"] == 4


def test_case_17_oscillating_load_changes_the_count_no_more_often_than_the_window_allows():
    scaling = {
        "intervalSeconds": 5,
        "headroom": 1,
        "scaleUp": {"maxChange": 4, "periodSeconds": 15},
        "scaleDown": {"stabilizationWindowSeconds": 60, "maxChange": 1, "periodSeconds": 15},
    }
    scene = Scene(autoscaling=scaling).running(actors=2)
    for step in range(120):
        scene.after(5)
        there = scene.document("Deployment", "pole-actors")["spec"]["replicas"]
        scene.actor_pods(*names(there))
        load = wants(6 if step % 2 else 2)
        scene.hear(version=10 + step, actors=connected(*names(there)), **load)
        scene.step()
    # Up once within the first quarter of a minute, and then the window holds the highest wish.
    assert scene.status.actors.desired == 6
    assert scene.status.scaling.events <= 2
