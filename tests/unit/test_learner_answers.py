"""What the operator keeps of what a learner says, whatever that is."""

from vaco.v1 import learner_pb2 as pb
from vaco_operator.cluster.answers import cut_down
from vaco_operator.status import MAX_MESSAGE


def test_what_a_plan_looks_at_is_kept_as_it_was_said() -> None:
    told = pb.GetStatusResponse(
        job_uid="4ac1b2b2-0d5c-4c27-9c1e-6f1d3f0c8a11",
        phase=pb.LEARNER_PHASE_TRAINING,
        message="trains",
        incarnation=3,
        version=9,
        return_mean=1.5,
        lag=pb.Lag(p95=2),
        ledger=pb.Ledger(trained=7),
        scaling=pb.ScalingSignals(demand=100),
        evaluation=pb.Evaluation(version=8, episodes=5),
        actors=[pb.ActorAccount(actor_id="pole-actors-a", connected=True, lag_p95=2)],
    )
    before = pb.GetStatusResponse.FromString(told.SerializeToString())
    assert cut_down(told, {"pole-actors-a"}.__contains__) == before


def test_accounts_are_kept_of_actors_that_are_there_once_and_without_what_nobody_reads() -> None:
    accounts = [
        pb.ActorAccount(actor_id=name, connected=connected, samples=1 << 60)
        for name in ("here", "gone")
        for connected in (False, True)
    ]
    kept = cut_down(pb.GetStatusResponse(actors=accounts), {"here"}.__contains__)
    assert list(kept.actors) == [pb.ActorAccount(actor_id="here", connected=True)]


def test_an_answer_that_is_full_of_nothing_takes_little_room() -> None:
    text = "x" * 100_000
    told = pb.GetStatusResponse(
        job_uid=text,
        message=text,
        metrics_address=text,
        stuck=text,
        actors=[pb.ActorAccount(actor_id=text)],
    )
    unknown = b"\xa2\x06\x00" * 100_000
    told.MergeFromString(unknown)
    kept = cut_down(told, lambda _: False)
    assert kept.ByteSize() < MAX_MESSAGE + 100
    assert kept.message == text[:MAX_MESSAGE]
