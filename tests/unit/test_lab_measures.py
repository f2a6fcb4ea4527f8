"""What the laboratory keeps of a run, and the ring that imposes its lag."""

from collections import Counter

import numpy as np
import pytest
from vaco.weights import Weights
from vaco_lab.measures import MAX_POINTS, Point, Record, TvByStep, thinned
from vaco_lab.ring import VersionRing


def point(env_steps, return_mean, tv=0.0, tv_max=0.0):
    return Point(env_steps, return_mean, tv, tv_max, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0)


def test_a_row_has_means_over_updates_and_percentiles_over_samples():
    record = Record(points=[point(10, 1.0, 0.1, 0.2), point(20, 3.0, 0.3, 0.9)])
    record.count_lags(np.array([0, 0, 5]), np.array([40, 50, 10]))
    row = record.row()
    assert (row["env_steps"], row["updates"]) == (20, 2)
    assert (row["tv_mean"], row["tv_max"]) == (pytest.approx(0.2), 0.9)
    assert (row["lag_p50"], row["lag_p95"], row["lag_max"]) == (0.0, 5.0, 5.0)


def test_a_run_that_diverged_at_once_has_all_columns_of_a_row():
    row = Record(outcome="diverged").row()
    assert row.keys() == Record(points=[point(10, 1.0)]).row().keys()
    assert (row["outcome"], row["tv_mean"], row["lag_max"]) == ("diverged", None, 0.0)


def test_tv_by_step_is_mean_and_maximum_over_phases():
    steps = TvByStep()
    steps.add([0.1, 0.2])
    steps.add([0.0, 0.4])
    assert steps.rows() == [[0.05, 0.1], [pytest.approx(0.3), 0.4]]


def test_a_thinned_curve_keeps_its_end():
    points = [point(n, None) for n in range(2 * MAX_POINTS + 1)]
    kept = thinned(points)
    assert len(kept) <= MAX_POINTS
    assert kept[-1] is points[-1]
    assert thinned(points[:5]) == points[:5]


def offer(ring, versions):
    for version in versions:
        ring.offer(Weights(1, version, b"", ""))


def test_a_ring_gives_the_last_versions_alike():
    ring = VersionRing(4, seed=0)
    offer(ring, range(10))
    drawn = Counter(ring.draw() for _ in range(4000))
    assert set(drawn) == {6, 7, 8, 9}
    assert min(drawn.values()) > 850  # of 1000, with a deviation of 27
    assert ring.newest is not None


def test_a_ring_of_one_gives_the_newest():
    ring = VersionRing(1, seed=0)
    for version in range(5):
        offer(ring, [version])
        assert ring.draw() == version


def test_draws_depend_on_the_seed_alone():
    rings = [VersionRing(8, seed) for seed in (1, 1, 2)]
    for ring in rings:
        offer(ring, range(8))
    drawn = [[ring.draw() for _ in range(20)] for ring in rings]
    assert drawn[0] == drawn[1] != drawn[2]


def test_an_empty_ring_gives_nothing():
    with pytest.raises(LookupError):
        VersionRing(2, 0).draw()
