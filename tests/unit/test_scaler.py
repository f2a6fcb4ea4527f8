"""The number of actors of a running job: decided or asked for, and what is said of it."""

import pytest
from vaco.job import VACOJob, parse_job
from vaco_operator.scaler import Change, Scaler
from vaco_operator.scaling import Signals

BUSY = Signals(demand=3000, supply_per_actor=1000, lag_versions=0, tv=0, age_seconds=0)


def job(**autoscaling: object) -> VACOJob:
    return parse_job(
        {
            "apiVersion": "training.vaco.dev/v1alpha1",
            "kind": "VACOJob",
            "metadata": {"name": "pole"},
            "spec": {
                "task": {"environment": "CartPole-v1"},
                "actors": {"minReplicas": 1, "maxReplicas": 4},
                "autoscaling": {"intervalSeconds": 5, "headroom": 1, **autoscaling},
                "stop": {"envSteps": 1},
            },
        }
    )


def test_it_begins_within_the_bounds_and_counts_on():
    scaler = Scaler.begin(job().spec, 9, events=3)
    assert (scaler.desired, scaler.limit, scaler.events) == (4, "MaxReplicas", 3)


def test_decisions_are_as_far_apart_as_the_job_says():
    scaler, change = Scaler.begin(job().spec, 1, events=0).review(1, None, now=0)
    assert change is None
    assert scaler.review(1, BUSY, now=4.9) == (scaler, None)
    scaler, change = scaler.review(1, BUSY, now=5.0)
    assert change == Change(1, 3, scaler.reason)
    assert scaler.events == 1


@pytest.mark.parametrize("mode", ["auto", "external", "fixed"])
def test_what_was_asked_for_and_limited_stays_in_the_status(mode):
    scaler, change = Scaler.begin(job(mode=mode).spec, 1, events=0).ask(9, now=0)
    assert change == Change(1, 4, scaler.reason)
    for now in (5, 10, 15):
        scaler, change = scaler.review(4, BUSY, now)
        assert change is None
        assert scaler.limit == "MaxReplicas"
        assert "asked for 9, limited to 4" in scaler.reason
    scaler, change = scaler.ask(4, now=20)
    assert (change, scaler.limit, scaler.events) == (None, "", 1)


def test_after_a_while_autoscaling_goes_on():
    spec = job(scaleDown={"stabilizationWindowSeconds": 30}).spec
    scaler, change = Scaler.begin(spec, 1, events=0).ask(1, now=0)
    assert change is None
    assert "goes on in 30 s" in scaler.reason
    scaler, change = scaler.review(1, BUSY, now=29)
    assert change is None
    scaler, change = scaler.review(1, BUSY, now=34)
    assert change == Change(1, 3, scaler.reason)


def test_new_rules_count_at_once_and_what_was_decided_is_remembered():
    scaler, _ = Scaler.begin(job().spec, 4, events=2).review(4, None, now=0)
    assert scaler.governed_by(job().spec) is scaler
    fewer = job().spec.model_copy(
        update={"actors": job().spec.actors.model_copy(update={"max_replicas": 2})}
    )
    scaler, change = scaler.governed_by(fewer).review(4, None, now=1)
    assert change == Change(4, 2, "4 is outside of 1 to 2")
    assert (scaler.events, scaler.limit) == (3, "MaxReplicas")
