"""Who is compared with whom in the laboratory, over which runs, and when two are told apart."""

import re

import numpy as np
import pytest
from vaco_lab.comparison import AREA, FINAL, settings_of
from vaco_lab.matrix import Matrix
from vaco_lab.verdict import verdict

LABELS = {"vaco": [], "ppo": ["algorithm.name=ppo"]}


def matrix(environments=("CartPole",), lag=(1,), seed=4):
    return Matrix.model_validate(
        {
            "name": "lag",
            "title": "Lag",
            "base": {},
            "axes": {
                "environment": {name: [] for name in environments},
                "algorithm": LABELS,
                "lag": list(lag),
                "seed": seed,
            },
            "reference": "vaco",
            "scores": {name: [100, 200] for name in environments},
        }
    )


def rows(of, value, keep=lambda _: True):
    """Return the rows of a matrix that are kept, with the return that `value` gives."""
    made = [
        {
            "environment": environment,
            "algorithm": algorithm,
            "switch": "-",
            "lag": lag,
            "seed": seed,
            "outcome": "complete",
        }
        for environment in of.axes.environment
        for algorithm in of.axes.algorithm
        for lag in of.axes.lag
        for seed in range(of.axes.seed)
    ]
    kept = [row for row in made if keep(row)]
    return [{**row, FINAL: float(value(row)), AREA: float(value(row))} for row in kept]


def compared(of, value, keep=lambda _: True):
    return list(settings_of(of, rows(of, value, keep)))


def test_entries_are_compared_over_the_seeds_that_all_of_them_have():
    # ppo has no run of seed 1, and none at all at K = 4.
    def keep(row):
        return row["algorithm"] != "ppo" or (row["seed"] != 1 and row["lag"] == 1)

    (setting,) = compared(matrix(lag=(1, 4)), lambda row: 100 + 10 * row["seed"], keep)
    assert (setting.label, setting.seeds, setting.unused) == ("K = 1", 3, 1)
    for entry in setting.entries:
        assert [x.tolist() for x in entry.measures[FINAL].scores] == [pytest.approx([0, 0.2, 0.3])]


@pytest.mark.parametrize(
    ("acrobot", "environments", "seeds", "missing", "unused"),
    [
        # One seed of ten: with it, two runs of an entry would be left of eleven.
        (1, ["CartPole"], 10, ["Acrobot"], 2),
        (5, ["CartPole", "Acrobot"], 5, [], 10),
        (9, ["CartPole", "Acrobot"], 9, [], 2),
        (10, ["CartPole", "Acrobot"], 10, [], 0),
    ],
)
def test_environments_are_pooled_with_the_same_number_of_seeds(
    acrobot, environments, seeds, missing, unused
):
    of = matrix(("CartPole", "Acrobot"), seed=10)
    (setting,) = compared(
        of, lambda _: 150, lambda row: row["environment"] == "CartPole" or row["seed"] < acrobot
    )
    assert (setting.environments, setting.seeds) == (environments, seeds)
    assert (setting.missing, setting.unused) == (missing, unused)
    for entry in setting.entries:
        assert [x.size for x in entry.measures[FINAL].scores] == [seeds] * len(environments)


def test_a_run_that_diverged_stays_with_its_score_and_drops_nobody_else():
    of = matrix()
    made = rows(of, lambda _: 200)
    (lost,) = [row for row in made if row["algorithm"] == "vaco" and row["seed"] == 2]
    lost |= {"outcome": "diverged", FINAL: 100.0, AREA: 120.0}
    (setting,) = settings_of(of, made)
    vaco, ppo = setting.entries
    assert [entry.diverged for entry in setting.entries] == [1, 0]
    assert vaco.measures[FINAL].scores[0].tolist() == [1, 1, 0, 1]
    assert ppo.measures[FINAL].scores[0].tolist() == [1, 1, 1, 1]
    # Of its four pairs with ppo's runs that one loses all, and the other three tie.
    better = ppo.measures[FINAL].reference_better
    assert better is not None
    assert better.value == (0 + 3 * 0.5) / 4


def test_entries_are_told_apart_when_the_interval_of_the_probability_leaves_out_a_half():
    # Half of the pairs goes each way.
    def value(row):
        return {"vaco": [100, 100, 180, 180], "ppo": [140] * 4}[row["algorithm"]][row["seed"]]

    (setting,) = compared(matrix(), value)
    measure = setting.entries[1].measures[FINAL]
    assert (measure.told_apart, measure.better, measure.worse) == (False, False, False)

    for higher, wanted in (("ppo", (True, True, False)), ("vaco", (True, False, True))):
        (setting,) = compared(
            matrix(seed=10), lambda row, h=higher: 150 + 10 * (row["algorithm"] == h)
        )
        measure = setting.entries[1].measures[FINAL]
        assert (measure.told_apart, measure.better, measure.worse) == wanted
        assert not setting.entries[0].measures[FINAL].told_apart


@pytest.mark.parametrize(
    ("seeds", "environments", "told"),
    [(1, 1, False), (2, 1, False), (2, 8, False), (9, 1, False), (10, 1, True)],
)
def test_where_all_pairs_went_one_way_a_few_seeds_tell_nothing_apart(seeds, environments, told):
    names = tuple(f"E{n}" for n in range(environments))
    (setting,) = compared(
        matrix(names, seed=seeds), lambda row: 150 + 10 * (row["algorithm"] == "ppo")
    )
    measure = setting.entries[1].measures[FINAL]
    assert (measure.reference_better.value, measure.reference_better.is_point) == (0, True)
    assert measure.told_apart == told


def test_two_seeds_tell_nothing_apart_although_the_interval_is_none_of_a_point():
    # In each of many environments 3 of 4 pairs go to ppo.
    names = tuple(f"E{n}" for n in range(20))
    returns = {"vaco": [100, 140], "ppo": [120, 160]}
    told = []
    for seeds in (2, 4):
        (setting,) = compared(
            matrix(names, seed=seeds), lambda row: returns[row["algorithm"]][row["seed"] % 2]
        )
        measure = setting.entries[1].measures[FINAL]
        assert measure.reference_better.leaves_out(0.5)
        assert not measure.reference_better.is_point
        told.append(measure.told_apart)
    assert told == [False, True]


def test_real_runs_have_no_area():
    of = matrix(lag=("async", 1))
    made = rows(of, lambda _: 150)
    for row in made:
        if row["lag"] == "async":
            row[AREA] = None
    real, imposed = settings_of(of, made)
    assert (real.label, list(real.entries[0].measures)) == ("real lag", [FINAL])
    assert list(imposed.entries[0].measures) == [FINAL, AREA]


def begun(of, value):
    return "\n".join(verdict(of, compared(of, value)))


def test_a_page_begins_with_who_is_better_in_bold_where_that_is_told_apart():
    noise = np.random.default_rng(0).normal(0, 10, 10)

    def value(row):
        # Clearly ahead at K = 4, and by next to nothing at K = 1.
        ahead = (30 if row["lag"] == 4 else 2) * (row["algorithm"] == "ppo")
        return 150 + ahead + noise[row["seed"]]

    lines = begun(matrix(lag=(1, 4), seed=10), value).splitlines()
    assert lines[0].startswith("**Where vaco is not the best.**")
    (one,) = [line for line in lines if line.startswith("- K = 1, final score")]
    (four,) = [line for line in lines if line.startswith("- K = 4, final score")]
    assert "; higher: ppo 0." in one
    assert "; higher: **ppo 0." in four
    assert "is told apart as the better one: nowhere." in "\n".join(lines)


def test_what_is_equal_as_it_is_printed_is_not_called_higher():
    def close(row):
        return 149 + 0.04 * row["seed"] + 0.02 * (row["algorithm"] == "ppo")

    text = begun(matrix(seed=10), close)
    assert "No entry has a higher interquartile mean than vaco in any setting, to two" in text


def test_who_is_told_apart_without_a_higher_figure_has_the_probability_beside_it():
    text = begun(matrix(seed=10), lambda row: 149 + 0.2 * (row["algorithm"] == "ppo"))
    assert "higher:" not in text
    assert "; better by P alone: **ppo 0.49 (0.49 to 0.49)†, P(vaco better) 0.00 (0.00 to" in text


def test_a_rival_that_is_higher_has_its_interval_beside_it():
    def value(row):
        return 150 + 5 * row["seed"] + 5 * (row["algorithm"] == "ppo")

    (line,) = [x for x in begun(matrix(), value).splitlines() if "final score" in x and x[0] == "-"]
    assert re.search(r"; higher: ppo 0\.\d\d \(0\.\d\d to 0\.\d\d\)\.$", line)


def test_a_page_tells_how_many_comparisons_there_are_and_that_they_are_not_corrected():
    text = begun(matrix(lag=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10), seed=10), lambda _: 150)
    assert "20 comparisons, not corrected" in text
    assert "about 1 or more" in text
    assert "4 comparisons, not corrected for their number." in begun(
        matrix(lag=(1, 4)), lambda _: 150
    )


def test_few_seeds_and_intervals_that_are_points_are_flagged():
    few = begun(matrix(lag=(1, 4), seed=9), lambda row: row["seed"] + 150)
    assert "**Under 10 seeds (K = 1: 9, K = 4: 9)" in few
    assert "†" not in few
    alike = begun(matrix(seed=10), lambda row: 150 + 10 * (row["algorithm"] == "vaco"))
    assert "Under 10" not in alike
    assert "† The interval is a point" in alike
    assert "told apart as the better one: K = 1: ppo." in alike
