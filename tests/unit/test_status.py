"""What is observed becomes the status: numbers, phase, conditions and their times."""

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from vaco.job import VACOJob, VACOJobStatus, parse_job
from vaco.v1 import learner_pb2 as pb
from vaco_operator.status import Observation, Outcome, job_status, rested

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)

TRAINING = pb.GetStatusResponse(
    job_uid="u",
    phase=pb.LEARNER_PHASE_TRAINING,
    incarnation=2,
    version=12,
    env_steps=34_000,
    return_mean=101.5,
    train_seconds=8.25,
    steps_per_second=4000.5,
    lag=pb.Lag(p50=1, p95=3, p99=4, max=5),
    tv=0.04,
    tv_threshold=0.1,
    filtered_share=0.02,
    ledger=pb.Ledger(
        received=34_700, queued=400, trained=34_000, stale=200, duplicate=90, rejected=10
    ),
    checkpoint_version=10,
)

SEEN = Observation(
    learner=TRAINING,
    unavailable="",
    desired=2,
    ready=2,
    scaling_events=1,
    scaling_reason="demand",
    limit="",
    learner_restarts=0,
)


@pytest.fixture
def job() -> VACOJob:
    return parse_job(
        {
            "apiVersion": "training.vaco.dev/v1alpha1",
            "kind": "VACOJob",
            "metadata": {"name": "pole", "uid": "u", "generation": 3},
            "spec": {
                "task": {"environment": "CartPole-v1"},
                "actors": {"minReplicas": 1, "maxReplicas": 4},
                "stop": {"envSteps": 100_000},
            },
        }
    )


def condition(status: VACOJobStatus, kind: str) -> tuple[str, str]:
    (found,) = [c for c in status.conditions if c.type == kind]
    return found.status, found.reason


def test_the_learners_numbers_arrive_and_the_ledger_balances(job):
    status = job_status(job, SEEN, None, NOON)
    assert status.phase == "Running"
    assert (status.env_steps, status.version, status.incarnation) == (34_000, 12, 2)
    assert (status.return_mean, status.train_seconds) == (101.5, 8.25)
    assert (status.lag.p50, status.lag.p95, status.lag.max) == (1, 3, 5)
    assert (status.tv, status.tv_threshold, status.filtered_share) == (0.04, 0.1, 0.02)
    assert status.ledger.balanced
    assert status.ledger.stale == 200
    actors = status.actors
    assert (actors.desired, actors.ready, actors.min, actors.max) == (2, 2, 1, 4)
    assert (status.scaling.events, status.scaling.last_reason) == (1, "demand")
    assert status.observed_generation == 3
    assert status.start_time == NOON
    assert status.completion_time is None


def test_it_survives_its_own_json(job):
    status = job_status(job, SEEN, None, NOON + timedelta(microseconds=1500))
    read = VACOJobStatus.model_validate_json(status.model_dump_json(by_alias=True))
    assert read == status


def test_numbers_nobody_knows_or_that_are_none_are_null(job):
    unknown = pb.GetStatusResponse(phase=pb.LEARNER_PHASE_TRAINING, return_mean=math.nan)
    status = job_status(job, replace(SEEN, learner=unknown), None, NOON)
    assert status.return_mean is None
    assert status.tv is None
    assert status.filtered_share is None
    assert status.evaluation is None


def test_a_learner_that_says_nothing_leaves_its_numbers_as_they_were(job):
    before = job_status(job, SEEN, None, NOON)
    silent = replace(SEEN, learner=None, unavailable="Restarting", ready=0)
    status = job_status(job, silent, before, NOON)
    assert (status.env_steps, status.return_mean) == (34_000, 101.5)
    assert status.phase == "Running"
    assert condition(status, "LearnerAvailable") == ("False", "Restarting")
    assert condition(status, "Ready") == ("False", "Restarting")
    assert condition(status, "Progressing") == ("Unknown", "Restarting")


def test_a_new_run_starts_and_then_runs(job):
    waiting = pb.GetStatusResponse(phase=pb.LEARNER_PHASE_STARTING, message="waiting for an actor")
    nothing = replace(SEEN, learner=None, unavailable="Starting", ready=0)
    first = job_status(job, nothing, None, NOON)
    assert (first.phase, condition(first, "Progressing")) == ("Starting", ("True", "Starting"))
    second = job_status(job, replace(SEEN, learner=waiting, ready=0), first, NOON)
    assert (second.phase, second.message) == ("Starting", "waiting for an actor")
    assert condition(second, "LearnerAvailable") == ("True", "Answering")
    assert condition(second, "Ready") == ("False", "ActorsMissing")
    third = job_status(job, SEEN, second, NOON)
    assert (third.phase, condition(third, "Ready")) == ("Running", ("True", "ActorsConnected"))


def test_a_condition_keeps_its_time_until_it_flips(job):
    def times(status: VACOJobStatus) -> dict[str, datetime | None]:
        return {c.type: c.last_transition_time for c in status.conditions}

    first = job_status(job, replace(SEEN, ready=0), None, NOON)
    later = job_status(job, replace(SEEN, ready=1), first, NOON + timedelta(seconds=60))
    latest = job_status(job, SEEN, later, NOON + timedelta(seconds=120))
    assert times(later)["Ready"] == NOON + timedelta(seconds=60)
    assert times(latest)["Ready"] == NOON + timedelta(seconds=60)
    assert times(latest)["LearnerAvailable"] == NOON
    assert {c.observed_generation for c in latest.conditions} == {3}


@pytest.mark.parametrize("phase", ["Complete", "Failed", "Suspended"])
def test_an_outcome_is_the_phase_and_one_true_condition(job, phase):
    before = job_status(job, SEEN, None, NOON)
    outcome = Outcome(phase, "BecauseItIsSo", "It is so.")
    status = job_status(job, replace(SEEN, ready=0, outcome=outcome), before, NOON)
    assert (status.phase, status.message) == (phase, "It is so.")
    ends = {kind: condition(status, kind)[0] for kind in ("Complete", "Failed", "Suspended")}
    assert ends == {kind: str(kind == phase) for kind in ends}
    for kind in ("LearnerAvailable", "Ready", "Progressing", "ScalingLimited"):
        assert condition(status, kind) == ("False", "BecauseItIsSo")
    assert (status.completion_time == NOON) == (phase != "Suspended")


def test_completion_is_timed_once(job):
    outcome = Outcome("Complete", "StopConditionReached", "done")
    first = job_status(job, replace(SEEN, outcome=outcome), None, NOON)
    again = job_status(job, replace(SEEN, outcome=outcome), first, NOON + timedelta(seconds=9))
    assert again.completion_time == NOON


def test_what_limits_scaling_is_a_condition(job):
    limited = replace(SEEN, limit="MaxReplicas", scaling_reason="asked for 9, held to 4")
    status = job_status(job, limited, None, NOON)
    assert condition(status, "ScalingLimited") == ("True", "MaxReplicas")
    (found,) = [c for c in status.conditions if c.type == "ScalingLimited"]
    assert "held to 4" in found.message
    assert condition(job_status(job, SEEN, None, NOON), "ScalingLimited")[0] == "False"


def test_a_job_whose_runner_is_gone_is_not_said_to_run(job):
    running = job_status(job, SEEN, None, NOON)
    status = rested(running, Outcome("Suspended", "RunnerGone", "resume it"), NOON)
    assert (status.phase, status.message) == ("Suspended", "resume it")
    assert (status.actors.ready, status.steps_per_second) == (0, 0)
    assert status.env_steps == running.env_steps
    assert [c.type for c in status.conditions] == [c.type for c in running.conditions]
    assert condition(status, "Suspended") == ("True", "RunnerGone")
    assert condition(status, "LearnerAvailable") == ("False", "RunnerGone")
