"""The laboratory's statistics against values worked out by hand."""

import numpy as np
import pytest
from vaco_lab.statistics import (
    Estimate,
    band,
    estimate,
    interquartile_curve,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
)


def scores(*tasks):
    return [np.asarray(task, np.float64) for task in tasks]


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        ([[1, 2, 3, 4, 5, 6, 7, 8]], 4.5),
        ([[8, 1, 1000, 3, -1000, 4, 5, 6]], 4.5),
        # All runs of all tasks are one heap: 0 0 | 1 2 4 5 | 9 9.
        ([[0, 9, 1, 5], [9, 0, 2, 4]], 3.0),
        # floor(5/4) = 1 is left out at either end.
        ([[0, 1, 2, 6, 100]], 3.0),
        ([[7, 8, 9]], 8.0),
    ],
)
def test_the_interquartile_mean_is_that_of_the_middle_half(tasks, expected):
    assert interquartile_mean(scores(*tasks)) == expected


def test_without_scores_there_is_no_mean():
    with pytest.raises(ValueError, match="no scores"):
        interquartile_mean(scores([]))


def test_the_probability_of_improvement_counts_ties_by_half():
    # Pairs: 1<2 1<2, 2=2 2=2, 3>2 3>2, so (0 + 1 + 2) / 6.
    assert probability_of_improvement(scores([1, 2, 3]), scores([2, 2])) == 0.5
    assert probability_of_improvement(scores([3, 4]), scores([1, 2, 2])) == 1.0


def test_the_probability_of_improvement_weighs_tasks_alike():
    # 1 in the first task, 1/4 in the second one, however many runs there are.
    better = probability_of_improvement(scores([9] * 8, [1, 3]), scores([1], [2, 4]))
    assert better == (1 + 0.25) / 2


def test_a_performance_profile_is_a_share_of_runs_strictly_over_each_threshold():
    profile = performance_profile(
        scores([0.0, 0.5, 1.0, 1.0], [0.2, 0.2]), np.array([0.0, 0.2, 0.9])
    )
    assert profile.tolist() == [(0.75 + 1) / 2, (0.75 + 0) / 2, (0.5 + 0) / 2]


def mean_of_first(groups):
    return float(np.mean(np.concatenate(groups[0])))


def test_the_bootstrap_is_stratified_by_task():
    # Within a task all runs are alike: if runs moved between tasks, the mean would vary.
    found = estimate(mean_of_first, [scores([0, 0], [1, 1])], np.random.default_rng(0), 200)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


def test_the_interval_is_that_of_the_percentiles_of_resampled_runs():
    # Of two runs, both are drawn alike in one case of four: far more than 2.5 % at either end.
    found = estimate(mean_of_first, [scores([0, 1])], np.random.default_rng(0), 400)
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)


def test_the_interval_of_a_mean_is_as_wide_as_theory_says():
    # The standard error of the mean of n runs is their deviation over sqrt(n).
    runs = np.random.default_rng(1).normal(size=400)
    found = estimate(mean_of_first, [[runs]], np.random.default_rng(0), 2000)
    error = runs.std() / 20
    assert found.high - found.value == pytest.approx(1.96 * error, rel=0.1)
    assert found.value - found.low == pytest.approx(1.96 * error, rel=0.1)


def test_the_same_generator_gives_the_same_interval():
    groups = [scores([1, 2, 5, 9])]
    one, two = (estimate(mean_of_first, groups, np.random.default_rng(3), 50) for _ in range(2))
    assert one == two


def test_an_interval_leaves_out_what_is_behind_its_ends():
    found = Estimate(0.3, 0.1, 0.5)
    assert [found.leaves_out(x) for x in (0.09, 0.1, 0.5, 0.51)] == [True, False, False, True]
    assert not found.is_point
    assert Estimate(1.0, 1.0, 1.0).is_point


def test_a_curve_has_the_interquartile_mean_of_its_runs_at_each_point():
    # The runs that are left out at one point are others at the next.
    curves = [np.array([[1.0, 9.0], [2.0, 2.0], [3.0, 4.0], [99.0, 0.0]])]
    assert interquartile_curve(curves).tolist() == [2.5, 3.0]


def test_a_band_is_the_interval_of_each_point_over_whole_runs():
    # Runs that are twice as high at the second point, and alike at the third.
    runs = np.random.default_rng(1).normal(size=(20, 1)) * np.array([1.0, 2.0, 0.0])
    found = band(interquartile_curve, [runs], np.random.default_rng(0), 300)

    def middle(groups):
        return interquartile_mean(groups[0])

    alone = estimate(middle, [[runs[:, 0]]], np.random.default_rng(0), 300)
    assert found.value.tolist() == pytest.approx([alone.value, 2 * alone.value, 0])
    assert found.low.tolist() == pytest.approx([alone.low, 2 * alone.low, 0])
    assert found.high.tolist() == pytest.approx([alone.high, 2 * alone.high, 0])
