"""A run with imposed lag: what it is judged by, and that judging it does not change it."""

import statistics
import threading

import pytest
from vaco.errors import UserError
from vaco.job import parse_job
from vaco_actor.environments import make_vector_env
from vaco_actor.play import play
from vaco_actor.rollout import Rollout
from vaco_lab import imposed
from vaco_lab.cell import Cell
from vaco_lab.evaluation import EvaluationPlan
from vaco_lab.imposed import run_imposed
from vaco_learner.update import NonFiniteUpdate, Updater
from vaco_policy.policy import Policy
from vaco_policy.seeding import derive


def cell(seed=0, points=4, episodes=5):
    job = parse_job(
        {
            "apiVersion": "training.vaco.dev/v1alpha1",
            "kind": "VACOJob",
            "metadata": {"name": "small"},
            "spec": {
                "seed": seed,
                "task": {"environment": "CartPole-v1"},
                "policy": {"network": {"type": "mlp", "hiddenSizes": [16]}},
                "algorithm": {"epochs": 2, "minibatches": 2, "learningRate": 3e-3},
                "rollout": {"environmentsPerActor": 8, "fragmentLength": 16},
                "learner": {"batchSize": 120},
                "stop": {"envSteps": 1000},
            },
        },
        "small",
    )
    plan = EvaluationPlan(points=points, episodes=episodes)
    return Cell("CartPole", "vaco", 4, "-", seed, job, plan)


@pytest.fixture
def updaters(monkeypatch):
    """The learners of the runs of a test."""
    made = []

    class Kept(Updater):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(imposed, "Updater", Kept)
    return made


def test_a_run_is_judged_by_the_learners_last_policy(updaters):
    of = cell(seed=3)
    record = run_imposed(of, 4)
    due = [0, 250, 500, 750, 1000]
    assert [steps >= at for (steps, _), at in zip(record.evaluations, due, strict=True)]
    assert record.evaluations[-1][0] == record.points[-1].env_steps
    (updater,) = updaters
    seed = derive(3, "lab", "evaluation")

    def mean(policy):
        with make_vector_env(of.job.spec.task, 5, seed) as environment:
            return statistics.fmean(play(environment, policy, 5, threading.Event()).returns)

    assert record.evaluations[-1][1] == mean(updater.policy)
    untrained = Policy(of.job.spec.policy, updater.policy.spaces, 3)
    assert record.evaluations[0] == (0, mean(untrained))
    assert mean(untrained) != mean(updater.policy)


def test_an_evaluation_comes_with_the_first_update_at_or_after_its_step():
    record = run_imposed(cell(points=3), 1)
    updates = [point.env_steps for point in record.points]
    expected = [min(n for n in updates if n >= due) for due in (334, 667, 1000)]
    assert [steps for steps, _ in record.evaluations] == [0, *expected]


@pytest.mark.parametrize("versions", [1, 4])
def test_evaluating_changes_nothing_in_the_training(versions):
    rarely, often = (run_imposed(cell(points=n, episodes=m), versions) for n, m in ((1, 1), (9, 7)))
    assert len(often.evaluations) == 1 + 9 > len(rarely.evaluations)
    assert often.points == rarely.points
    assert often.lags == rarely.lags


def test_a_run_that_diverges_has_the_evaluations_until_then(monkeypatch):
    updates = []

    def update(self, batch):
        if len(updates) == 5:
            raise NonFiniteUpdate("loss nan, gradient norm nan")
        updates.append(batch.samples)
        return real(self, batch)

    real = Updater.update
    monkeypatch.setattr(Updater, "update", update)
    record = run_imposed(cell(), 1)
    assert record.outcome == "diverged"
    assert len(record.points) == 5
    assert 1 < len(record.evaluations) < 5
    assert record.evaluations[-1][0] <= sum(updates) < 1000


def test_fragments_without_a_sample_are_not_collected_for_ever(monkeypatch):
    monkeypatch.setattr(Rollout, "collect", lambda _self, _stop: None)
    with pytest.raises(UserError, match=r"environment`?: 1000 fragments .*had no sample"):
        run_imposed(cell(), 1)
