"""What is a right answer: the same for the learner, for `vaco evaluate` and in the status."""

import asyncio

import pytest
from vaco.completions import RIGHT_REWARD
from vaco.schema.status import VACOJobStatus
from vaco.v1 import trajectory_pb2 as pb
from vaco_actor.language.evaluate import summary
from vaco_actor.language.held_out import Answers
from vaco_learner.deliveries import DeliveryLog
from vaco_learner.evaluation_desk import EvaluationDesk, EvaluationOutcome
from vaco_learner.roster import Actor
from vaco_learner.session import Session

JUST_LESS = RIGHT_REWARD - 2.0**-20


async def learners_accuracy(rewards: list[float]) -> float:
    """The accuracy that a learner finds, in an event loop as it has one."""
    outcomes: list[EvaluationOutcome] = []
    session = Session(Actor("a", 1, DeliveryLog()), 1)
    desk = EvaluationDesk(outcomes.append, lambda: [session])
    desk.request(len(rewards), 7, 500)
    lengths = [1] * len(rewards)
    desk.result(session, pb.EvaluationResult(request_id=1, returns=rewards, lengths=lengths))
    return outcomes[0].accuracy


@pytest.mark.parametrize(
    ("rewards", "accuracy"),
    [
        ([RIGHT_REWARD], 1.0),
        ([JUST_LESS], 0.0),
        ([RIGHT_REWARD, JUST_LESS, RIGHT_REWARD + 2.0, -RIGHT_REWARD], 0.5),
    ],
)
def test_learner_and_evaluate_count_the_same_answers(rewards: list[float], accuracy: float) -> None:
    answers = Answers(rewards, [1] * len(rewards), [True] * len(rewards))
    assert asyncio.run(learners_accuracy(rewards)) == accuracy
    assert summary("tiny", 1, answers)["accuracy"] == accuracy


def test_the_status_says_what_is_right() -> None:
    said = VACOJobStatus.model_fields["accuracy"].description
    assert said is not None
    assert f"a reward of at least {RIGHT_REWARD:g};" in said
