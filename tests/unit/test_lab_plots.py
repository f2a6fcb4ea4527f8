"""The pictures of a result page: a panel for each environment, and an own colour for each entry."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from vaco_lab import plots
from vaco_lab.comparison import AREA, FINAL, settings_of
from vaco_lab.matrix import Matrix
from vaco_lab.measures import TV_FLOOR
from vaco_lab.plots import draw

ALGORITHMS = ["vaco", "ppo", "ppo-kl", "spo", "impala", "impala 1 x 1"]
ENVIRONMENTS = ["CartPole", "Acrobot"]


def matrix(lag):
    axes = {
        "environment": {name: [] for name in ENVIRONMENTS},
        "algorithm": {name: [] for name in ALGORITHMS},
        "lag": lag,
        "seed": 3,
    }
    given = {"name": "lag", "title": "Lag", "base": {}, "axes": axes, "reference": "vaco"}
    return Matrix.model_validate(given | {"scores": {name: [0, 100] for name in ENVIRONMENTS}})


def documents(of, *, steps):
    """Return runs whose returns rise, by entry the one faster than the other."""
    generator = np.random.default_rng(0)
    for environment in ENVIRONMENTS:
        for number, algorithm in enumerate(ALGORITHMS):
            for lag in of.axes.lag:
                for seed in range(of.axes.seed):
                    rise = (number + 1) * generator.uniform(0.8, 1.2)
                    names = (environment, algorithm, "-", lag, seed)
                    labels = dict(
                        zip(
                            ("environment", "algorithm", "switch", "lag", "seed"),
                            names,
                            strict=True,
                        )
                    )
                    scores = {FINAL: 10 * rise, AREA: None if lag == "async" else 5 * rise}
                    yield {
                        "row": {**labels, **scores, "outcome": "complete"},
                        "evaluations": [(1000 * n, 2.0 * n * rise) for n in range(6)],
                        "tv_by_step": [[0.01 * n * rise, 0.02 * n * rise] for n in range(steps)],
                    }


def drawn(lag, out, *, steps=4):
    of = matrix(lag)
    made = list(documents(of, steps=steps))
    settings = list(settings_of(of, [document["row"] for document in made]))
    return draw(of, settings, made, out)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.int64)


def test_each_entry_has_its_own_colour_in_the_picture_that_is_kept(tmp_path):
    files = [file for file, _ in drawn([1, 4], tmp_path)]
    assert files == ["lag-curves.png", "lag-profiles.png", "lag-tv.png"]
    for file in files:
        assert (tmp_path / file).stat().st_size < 100_000
        there = np.unique(pixels(tmp_path / file).reshape(-1, 3), axis=0)
        for number in range(len(ALGORITHMS)):
            wanted = np.round(255 * np.asarray(to_rgb(f"C{number}")))
            assert np.abs(there - wanted).max(axis=1).min() <= 3, (file, number)


def test_there_is_a_panel_for_each_environment_and_setting(tmp_path):
    drawn([1, 4], tmp_path)
    curves, profiles = (pixels(tmp_path / f"lag-{name}.png") for name in ("curves", "profiles"))
    # Two columns: two settings by two environments, and the two settings.
    assert curves.shape[1] == profiles.shape[1]
    assert len(curves) - len(profiles) == 270


def painted(panels):
    """Return the axes of a panel of each setting."""
    figure = Figure()
    for _, paint in panels:
        axes = figure.add_subplot()
        paint(axes)
        yield axes


def test_profiles_are_steps_at_the_scores_of_the_runs():
    of = matrix([1])
    made = list(documents(of, steps=4))
    (setting,) = settings_of(of, [document["row"] for document in made])
    (axes,) = painted(plots._profiles([setting]))
    assert {line.get_drawstyle() for line in axes.lines} == {"steps-post"}
    for entry, line in zip(setting.entries, axes.lines, strict=True):
        x, shares = line.get_data()
        scores = np.concatenate(entry.measures[FINAL].scores)
        # From a score on, a share is without that run.
        for score in scores:
            assert shares[x == score].item() == pytest.approx(np.mean(scores > score))
        assert (shares[0], shares[-1]) == (1, 0)
    every = [x for e in setting.entries for task in e.measures[FINAL].scores for x in task]
    low, high = axes.get_xlim()
    assert min(every) - 0.05 < low < min(every) < max(every) < high < max(every) + 0.05


def test_very_many_scores_do_not_make_as_many_thresholds():
    found = plots.thresholds(np.linspace(0.0, 1.0, 3000))
    assert len(found) == plots.MOST_THRESHOLDS + 2
    assert np.all(np.diff(plots.thresholds(np.full(5, 0.5))) > 0)


def test_the_rounding_of_a_first_step_makes_no_decades():
    of = matrix([1])
    made = list(documents(of, steps=3))
    for document in made:
        document["tv_by_step"][0] = [1e-10, 0.0]
    (setting,) = settings_of(of, [document["row"] for document in made])
    (axes,) = painted(plots._steps([setting], {plots._key(d["row"]): d for d in made}))
    assert min(line.get_ydata().min() for line in axes.lines) == TV_FLOOR
    assert axes.get_ylim()[0] > TV_FLOOR / 10
    ticks = axes.get_xticks()
    assert np.array_equal(ticks, np.round(ticks))


def test_real_runs_have_no_curve_and_may_have_no_tv(tmp_path):
    assert [file for file, _ in drawn(["async"], tmp_path)] == ["lag-profiles.png", "lag-tv.png"]
    assert [file for file, _ in drawn(["async"], tmp_path, steps=0)] == ["lag-profiles.png"]
