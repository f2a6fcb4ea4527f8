"""The scaling decision: what it must hold for any load, and the cases a person would ask about."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vaco_operator.scaling import (
    Decision,
    Rules,
    ScalingPolicy,
    ScalingState,
    Signals,
    decide,
    room_beside_learner,
)

STEADY = ScalingPolicy(
    mode="auto",
    minimum=1,
    maximum=8,
    headroom=1.0,
    signal_timeout=30,
    up=Rules(stabilization_window=0, max_change=4, period=15),
    down=Rules(stabilization_window=60, max_change=1, period=15),
)
AT_ONCE = replace(STEADY, up=Rules(0, 100, 15), down=Rules(0, 100, 15))

rates = st.floats(0, 1e9) | st.sampled_from([0.0, math.nan, math.inf, -1.0])
signals_of_any_kind = st.none() | st.builds(
    Signals,
    demand=rates,
    supply_per_actor=rates,
    lag_versions=rates,
    tv=rates,
    age_seconds=st.floats(0, 100),
)
rules = st.builds(
    Rules,
    stabilization_window=st.floats(0, 120),
    max_change=st.integers(1, 5),
    period=st.floats(1, 60),
)
bounds = st.tuples(st.integers(1, 12), st.integers(0, 12)).map(lambda b: (b[0], b[0] + b[1]))
policies = st.builds(
    lambda bounds, **rest: ScalingPolicy(minimum=bounds[0], maximum=bounds[1], **rest),
    bounds=bounds,
    mode=st.sampled_from(["auto", "external", "fixed"]),
    headroom=st.floats(1, 4),
    signal_timeout=st.just(30.0),
    up=rules,
    down=rules,
    target_lag_versions=st.none() | st.floats(0.1, 50),
    target_lag_tv=st.none() | st.floats(0.01, 1),
    room=st.none() | st.integers(1, 24),
)


def load(wish: float, **rest: float) -> Signals:
    """Signals that ask for `wish` actors at a headroom of one."""
    return Signals(
        **{
            "demand": 1000 * wish,
            "supply_per_actor": 1000,
            "lag_versions": 0,
            "tv": 0,
            "age_seconds": 0,
        }
        | rest
    )


def follow(
    policy: ScalingPolicy, current: int, loads: list[Signals | None], interval: float = 5
) -> list[Decision]:
    """Apply one decision after the other; every actor becomes ready at once."""
    state, decisions = ScalingState(), []
    for step, signals in enumerate(loads):
        decision = decide(policy, current, current, signals, state, step * interval)
        current, state = decision.desired, decision.state
        decisions.append(decision)
    return decisions


def counts(decisions: list[Decision]) -> list[int]:
    return [decision.desired for decision in decisions]


@given(policies, st.integers(0, 30), st.lists(signals_of_any_kind, max_size=40))
def test_the_count_stays_within_its_bounds_and_never_reaches_zero(policy, current, loads):
    for decision in follow(policy, current, loads):
        assert 1 <= policy.minimum <= decision.desired <= policy.maximum
        assert decision.reason or policy.mode != "auto"


BLIND = [
    None,
    load(7, age_seconds=30.1),
    load(0),
    load(7, supply_per_actor=0),
    load(7, demand=math.nan),
    load(7, lag_versions=math.inf),
]


@given(policies, st.integers(0, 12), st.lists(signals_of_any_kind, max_size=60), st.data())
def test_missing_or_stale_signals_hold_the_count(policy, ready, loads, data):
    earlier = follow(policy, policy.minimum, loads)
    current = earlier[-1].desired if earlier else policy.minimum
    state = earlier[-1].state if earlier else ScalingState()
    blind = data.draw(st.sampled_from(BLIND))
    decision = decide(policy, current, ready, blind, state, 5.0 * len(loads))
    assert decision.desired == current


@pytest.mark.parametrize("blind", BLIND)
def test_what_would_scale_at_once_holds_when_the_signals_cannot_be_believed(blind):
    assert follow(AT_ONCE, 3, [load(7, age_seconds=29.9)])[0].desired == 7
    held = follow(AT_ONCE, 3, [blind])[0]
    assert (held.desired, held.reason[:5]) == (3, "held:")


@given(policies, st.lists(st.floats(0.1, 30), min_size=1, max_size=60), st.floats(0.5, 20))
def test_any_period_sees_at_most_max_change(policy, wishes, interval):
    decisions = follow(policy, policy.minimum, [load(wish) for wish in wishes], interval)
    path = [policy.minimum, *counts(decisions)]
    steps = [(i * interval, b - a) for i, (a, b) in enumerate(pairwise(path))]
    for now, _ in steps:
        up = sum(d for t, d in steps if d > 0 and now - policy.up.period < t <= now)
        down = sum(-d for t, d in steps if d < 0 and now - policy.down.period < t <= now)
        assert up <= policy.up.max_change
        assert down <= policy.down.max_change


@given(
    st.integers(1, 30), st.integers(1, 30), st.integers(1, 24), st.floats(0, 120), st.floats(0, 60)
)
def test_an_oscillating_load_turns_at_most_as_often_as_the_windows_allow(
    high, low, half_period, window_down, window_up
):
    policy = replace(
        STEADY, up=Rules(window_up, 100, 1), down=Rules(window_down, 100, 1), maximum=30
    )
    wishes = [high if step // half_period % 2 == 0 else low for step in range(240)]
    path = counts(follow(policy, 1, [load(wish) for wish in wishes]))
    ups = [5 * i for i in range(1, 240) if path[i] > path[i - 1]]
    downs = [5 * i for i in range(1, 240) if path[i] < path[i - 1]]
    for down in downs:
        assert not [up for up in ups if down - window_down < up < down]
    for up in ups:
        assert not [down for down in downs if up - window_up < down < up]


@given(policies, st.integers(1, 24), st.floats(1.01, 100), st.booleans(), st.floats(0.1, 30))
def test_lag_over_its_target_never_adds_an_actor_and_ends_at_the_minimum(
    policy, current, excess, in_tv, wish
):
    policy = replace(policy, mode="auto", target_lag_versions=4.0, target_lag_tv=0.1)
    lag = {"tv": 0.1 * excess} if in_tv else {"lag_versions": 4.0 * excess}
    path = counts(follow(policy, current, [load(wish, **lag)] * 400))
    assert path == sorted(path, reverse=True)
    assert path[-1] == policy.minimum


@given(
    st.integers(0, 30),
    st.lists(st.floats(0.1, 30).map(load), max_size=20),
    st.sampled_from(["external", "fixed"]),
)
def test_a_count_that_another_drives_is_untouched_within_its_bounds(current, loads, mode):
    policy = replace(AT_ONCE, mode=mode)
    assert set(counts(follow(policy, current, loads))) <= {policy.clamp(current)[0]}
    assert follow(policy, 3, [load(8)])[0].desired == 3


@given(policies, st.lists(signals_of_any_kind, min_size=1, max_size=60))
def test_the_state_is_bounded_by_the_counts_and_changes_there_can_be(policy, loads):
    for decision in follow(policy, policy.minimum, loads, interval=0.01):
        span = policy.maximum - policy.minimum + 1
        assert len(decision.state.lows) <= span
        assert len(decision.state.highs) <= span
        assert len(decision.state.changes) <= policy.up.max_change + policy.down.max_change + 1


@pytest.mark.parametrize(
    ("demand", "supply", "headroom", "desired"),
    [
        (60_000, 20_000, 1.0, 3),
        (60_001, 20_000, 1.0, 4),
        (60_000, 20_000, 1.1, 4),
        (100, 20_000, 1.1, 1),
        (1e300, 1e-300, 1.0, 8),
    ],
)
def test_supply_and_demand_give_the_count(demand, supply, headroom, desired):
    policy = replace(AT_ONCE, headroom=headroom)
    signals = Signals(demand, supply, 0, 0, 0)
    assert counts(follow(policy, 1, [signals, signals]))[-1] == desired


def test_scaling_up_is_at_once_and_scaling_down_waits_its_window():
    decisions = follow(STEADY, 2, [load(5)] * 3 + [load(2)] * 16)
    path = counts(decisions)
    assert path[:3] == [5, 5, 5]
    # The last wish for 5 is of second 10: it holds until second 70, then one actor goes every 15 s.
    assert path[3:14] == [5] * 11
    assert path[14:] == [4, 4, 4, 3, 3]
    assert "60 s" in decisions[5].reason


def test_a_single_quiet_moment_does_not_scale_down():
    assert set(counts(follow(STEADY, 4, [load(4)] * 5 + [load(1)] + [load(4)] * 30))) == {4}


def test_an_outage_of_the_signals_counts_as_a_wish_for_what_is():
    blind = [load(1)] * 11 + [None] * 3 + [load(1)] * 11
    assert set(counts(follow(STEADY, 4, blind))) == {4}


def test_bounds_that_moved_are_obeyed_without_any_signals():
    narrowed = replace(STEADY, minimum=2, maximum=3)
    assert follow(narrowed, 6, [None])[0].desired == 3
    assert follow(narrowed, 6, [None])[0].limit == "MaxReplicas"
    assert follow(narrowed, 1, [None])[0].desired == 2
    assert follow(narrowed, 1, [None])[0].limit == "MinReplicas"


def test_what_limits_is_named():
    assert follow(AT_ONCE, 3, [load(20)])[0].limit == "MaxReplicas"
    assert follow(replace(AT_ONCE, minimum=3), 4, [load(1)] * 2)[-1].limit == "MinReplicas"
    rated = follow(STEADY, 1, [load(8)])[0]
    assert (rated.desired, rated.limit) == (5, "RateLimit")
    assert follow(STEADY, 3, [load(3)])[0].limit == ""


def test_actors_that_are_not_ready_are_waited_for_before_more_are_added():
    waiting = decide(AT_ONCE, 3, 2, load(6), ScalingState(), 0)
    assert waiting.desired == 3
    assert "2 of 3" in waiting.reason
    assert decide(AT_ONCE, 3, 3, load(6), ScalingState(), 0).desired == 6
    assert decide(AT_ONCE, 3, 0, load(1), ScalingState(), 0).desired == 1


def test_lag_lowers_in_proportion_and_near_its_target_forbids_growth():
    policy = replace(AT_ONCE, target_lag_versions=10.0)
    assert counts(follow(policy, 6, [load(8, lag_versions=20)]))[-1] == 3
    assert counts(follow(policy, 6, [load(8, lag_versions=10.1)]))[-1] == 5
    assert counts(follow(policy, 6, [load(8, lag_versions=9.5)]))[-1] == 6
    assert counts(follow(policy, 6, [load(8, lag_versions=8.5)]))[-1] == 8


def test_what_a_person_asks_for_is_held_for_the_window_of_scaling_down():
    state = ScalingState().asked(2, 100, STEADY)
    for now in (100, 130, 159.9):
        held = decide(STEADY, 2, 2, load(6), state, now)
        assert held.desired == 2
        assert held.reason == ""
        state = held.state
    assert decide(STEADY, 2, 2, load(6), state, 160).desired == 6
    assert decide(replace(STEADY, maximum=1), 2, 2, load(6), state, 120).desired == 1


def test_a_policy_of_impossible_bounds_is_refused():
    with pytest.raises(ValueError, match="bounded"):
        replace(STEADY, minimum=0)
    with pytest.raises(ValueError, match="bounded"):
        replace(STEADY, minimum=5, maximum=4)


def test_no_more_are_added_than_the_machine_has_room_for():
    small = replace(AT_ONCE, room=2)
    busy = Signals(demand=6000, supply_per_actor=1000, lag_versions=0, tv=0, age_seconds=0)
    grown = decide(small, 1, 1, busy, ScalingState(), 0)
    assert (grown.desired, grown.limit) == (2, "Cores")
    assert grown.reason.endswith("asks for 6, but the cores of this machine have room for 2"), (
        grown.reason
    )
    # More of them than there is room for, by hand or by minReplicas, are not taken away for that.
    for policy in (small, replace(small, minimum=5)):
        kept = decide(policy, 5, 5, busy, ScalingState(), 0)
        assert (kept.desired, kept.limit) == (5, "Cores")
    least = decide(replace(small, minimum=3), 3, 3, busy, ScalingState(), 0)
    assert least.desired == 3
    fitting = replace(busy, demand=2000)
    assert decide(small, 1, 1, fitting, ScalingState(), 0).limit == ""


@pytest.mark.parametrize(
    ("cores", "learner", "actor", "room"),
    [(1, 1, 1, 2), (2, 1, 1, 2), (4, 1, 1, 3), (16, 4, 1, 12), (16, 4, 3, 4), (2, 8, 4, 2)],
)
def test_the_room_of_a_machine_is_what_its_learner_leaves(cluster_job, cores, learner, actor, room):
    spec = cluster_job(learner={"threads": learner}, actors={"threads": actor}).spec
    assert room_beside_learner(spec, cores) == room
