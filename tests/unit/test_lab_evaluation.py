"""What a run is judged by: the evaluations of its policies, and those that it did not live to."""

import pytest
from vaco_lab.evaluation import EvaluationPlan, area, completed

PLAN = EvaluationPlan(points=4)


def test_evaluations_are_evenly_spaced_and_the_last_is_due_at_the_end():
    assert PLAN.steps(1000) == [250, 500, 750, 1000]
    assert EvaluationPlan(points=3).steps(10) == [4, 7, 10]
    assert EvaluationPlan(points=1).steps(7) == [7]


def test_the_area_is_the_mean_over_the_whole_budget():
    # Trapezoids of 250 and 750 steps, by hand.
    assert area([(0, 0.0), (250, 8.0), (1000, 4.0)], 1000) == (4.0 * 250 + 6.0 * 750) / 1000


def test_the_area_ends_at_the_budget_although_a_run_ends_with_a_whole_update():
    # At 100 the line from 0 to 10 (over 125 steps) has come to 8.
    assert area([(0, 0.0), (125, 10.0)], 100) == pytest.approx(4.0)


def test_an_early_high_return_does_not_count_for_the_whole_run():
    low = area([(0, 0.0), (900, 0.0), (1000, 10.0)], 1000)
    assert low == pytest.approx(0.5)


def test_a_run_that_diverged_ends_at_the_low_score():
    seen = [(0, 20.0), (260, 300.0)]
    assert completed(seen, PLAN, 1000, -5.0) == [*seen, (500, -5.0), (750, -5.0), (1000, -5.0)]


def test_without_a_low_score_it_ends_where_it_began():
    assert completed([(0, 20.0), (260, 300.0)], PLAN, 1000, None)[-1] == (1000, 20.0)
    assert completed([(0, 20.0)], PLAN, 1000, None)[1:] == [(n, 20.0) for n in PLAN.steps(1000)]
