"""`--set`: fields given on the command line."""

from pathlib import Path
from typing import Any

import pytest
from vaco.errors import UserError
from vaco.job import JobError, apply_overrides, load_job


def document() -> dict[str, Any]:
    return {
        "kind": "VACOJob",
        "metadata": {"name": "a"},
        "spec": {"policy": {"core": None}, "task": {"wrappers": [{"name": "A"}]}},
    }


@pytest.mark.parametrize(
    ("override", "place", "value"),
    [
        ("seed=3", ("spec", "seed"), 3),
        ("spec.seed=3", ("spec", "seed"), 3),
        ("metadata.name=b", ("metadata", "name"), "b"),
        ("stop.envSteps=1.5e6", ("spec", "stop", "envSteps"), 1_500_000),
        ("policy.core.type=gru", ("spec", "policy", "core"), {"type": "gru"}),
        ("policy.core=", ("spec", "policy", "core"), None),
        ("policy.network.hiddenSizes=[8, 8]", ("spec", "policy", "network", "hiddenSizes"), [8, 8]),
        ("task.kwargs={a: b=c}", ("spec", "task", "kwargs"), {"a": "b=c"}),
        ("task.wrappers[0].name=B", ("spec", "task", "wrappers", 0, "name"), "B"),
        ("task.wrappers.0.name=B", ("spec", "task", "wrappers", 0, "name"), "B"),
        ("task.wrappers[0]={name: C}", ("spec", "task", "wrappers", 0), {"name": "C"}),
    ],
)
def test_a_field_is_set(override: str, place: tuple[str | int, ...], value: object) -> None:
    before = document()
    here: Any = apply_overrides(before, [override])
    for step in place:
        here = here[step]
    assert here == value
    assert before == document()


def test_the_last_one_counts() -> None:
    changed = apply_overrides(document(), ["seed=1", "stop.envSteps=2", "seed=3"])
    assert changed["spec"]["seed"] == 3
    assert changed["spec"]["stop"] == {"envSteps": 2}


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed", "`--set`: 'seed' is no assignment. Write `--set path=value`."),
        ("=3", "`--set`: '=3' is no assignment. "),
        ("metadata.name.x=1", "`--set metadata.name.x=1`: metadata.name has no field or entry x. "),
        ("task.wrappers[1].name=B", "`--set task.wrappers[1].name=B`: spec.task.wrappers has no "),
        ("task.wrappers.name=B", "`--set task.wrappers.name=B`: spec.task.wrappers has no field "),
        ("seed=[1", "`--set seed=[1`: while parsing a flow sequence, "),
        ("seed=.nan", "`--set seed=.nan`: .nan is no finite number. "),
    ],
)
def test_a_bad_override_is_refused(override: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        apply_overrides(document(), [override])
    assert str(caught.value).startswith(told)


def test_overrides_are_validated_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "apiVersion: training.vaco.dev/v1alpha1\nkind: VACOJob\nmetadata: {name: a}\n"
        "spec: {task: {environment: a}, stop: {envSteps: 5}, seed: -1}\n"
    )
    assert load_job(path, ["seed=7", "algorithm.name=ppo"]).spec.algorithm.name == "ppo"
    with pytest.raises(JobError) as caught:
        load_job(path, ["seed=1", "algorithm.epoch=2"])
    (problem,) = caught.value.problems
    assert str(problem).startswith("`spec.algorithm.epoch`: unknown field. Did you mean `epochs`?")
