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
    scaler = Scaler(job(), 9, events=3)
    assert (scaler.desired, scaler.limit, scaler.events) == (4, "MaxReplicas", 3)


def test_decisions_are_as_far_apart_as_the_job_says():
    scaler = Scaler(job(), 1, events=0)
    assert scaler.review(1, None, now=0) is None
    assert scaler.review(1, BUSY, now=4.9) is None
    change = scaler.review(1, BUSY, now=5.0)
    assert change is not None
    assert (change.before, change.after, change.reason) == (1, 3, scaler.reason)
    assert scaler.events == 1


@pytest.mark.parametrize("mode", ["auto", "external", "fixed"])
def test_what_was_asked_for_and_limited_stays_in_the_status(mode):
    scaler = Scaler(job(mode=mode), 1, events=0)
    change = scaler.ask(9, now=0)
    assert change == Change(1, 4, scaler.reason)
    for now in (5, 10, 15):
        assert scaler.review(4, BUSY, now) is None
        assert scaler.limit == "MaxReplicas"
        assert "asked for 9, limited to 4" in scaler.reason
    assert scaler.ask(4, now=20) is None
    assert (scaler.limit, scaler.events) == ("", 1)


def test_after_a_while_autoscaling_goes_on():
    scaler = Scaler(job(scaleDown={"stabilizationWindowSeconds": 30}), 1, events=0)
    assert scaler.ask(1, now=0) is None
    assert "goes on in 30 s" in scaler.reason
    assert scaler.review(1, BUSY, now=29) is None
    assert scaler.review(1, BUSY, now=34) == Change(1, 3, scaler.reason)
