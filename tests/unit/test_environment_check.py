"""What `vaco validate` says of an environment that it cannot look at."""

import importlib.util

import pytest
from vaco_operator import environment_check
from vaco_operator.environment_check import check_environment


def test_without_the_actors_program_nothing_is_checked_and_that_is_said(cluster_job, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        environment_check.importlib.util,
        "find_spec",
        lambda name: None if name == "gymnasium" else found(name),
    )
    checked = check_environment(cluster_job(task={"environment": "Nonsense-v0"}))
    assert not checked.problem
    assert checked.told == "its environment was not checked, as gymnasium is not installed here"


def test_an_environment_that_takes_too_long_is_a_problem(cluster_job):
    assert "not made within 0.001 s" in check_environment(cluster_job(), patience=0.001).problem


@pytest.mark.parametrize("environment", ["CartPole-v1", "CartPol-v1"])
def test_it_is_a_problem_or_it_is_none(cluster_job, environment):
    checked = check_environment(cluster_job(task={"environment": environment}))
    assert bool(checked.problem) == (environment == "CartPol-v1")
    assert bool(checked.told) == (environment == "CartPole-v1")
