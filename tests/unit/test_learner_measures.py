"""What the learner measures and decides aside from training: lag, rates, credits, stop, batches."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from vaco.job import ReturnGoal, StopSpec, VACOJobSpec
from vaco.trajectory import ArraySpec, Fragment, FragmentId, FragmentSpec, IncomingFragment
from vaco_learner.admission import Admission, Settlement
from vaco_learner.batch_source import BatchSource
from vaco_learner.buffer import FragmentBuffer
from vaco_learner.credits import Capacity
from vaco_learner.ledger import Fate, Ledger, LedgerCounts
from vaco_learner.lineage import Incarnation, Lineage
from vaco_learner.roster import Roster
from vaco_learner.stop import stop_reason
from vaco_learner.windows import LagSummary, LagWindow, RateWindow, ReturnWindow


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 9)), min_size=1, max_size=30))
def test_lag_percentiles_are_those_of_the_samples_written_out(pairs: list[tuple[int, int]]) -> None:
    lags, weights = np.array(pairs, np.int64).T
    window = LagWindow()
    for lag, weight in zip(lags, weights, strict=True):
        window.add(np.array([lag]), np.array([weight]))
    samples = np.repeat(lags, weights)
    if samples.size == 0:
        assert window.summary() == LagSummary()
        return
    p50, p95, p99 = np.percentile(samples, [50, 95, 99], method="inverted_cdf")
    assert window.summary() == LagSummary(p50, p95, p99, samples.max())


def test_lag_forgets_old_batches() -> None:
    window = LagWindow(batches=2)
    for lag in (100, 1, 3):
        window.add(np.array([lag]), np.array([10]))
    assert window.summary().max == 3


def test_a_rate_is_over_the_recent_past() -> None:
    window = RateWindow(seconds=10)
    assert window.rate() == 0.0
    window.add(1_000, 10)
    assert window.rate() == pytest.approx(100)
    for _ in range(5):
        window.add(20, 2)
    assert window.rate() == pytest.approx(10)


def test_a_rate_remembers_a_bounded_number_of_spans() -> None:
    window = RateWindow(seconds=1e9, spans=3)
    for amount in (1_000, 1, 2, 3):
        window.add(amount, 1)
    assert window.rate() == pytest.approx(2)


def returns(*values: float, episodes: int = 3) -> ReturnWindow:
    window = ReturnWindow(episodes)
    window.add(values)
    return window


def test_returns_are_those_of_the_last_episodes() -> None:
    window = ReturnWindow(3, returns=[1.0, 2.0], ended=40)
    assert (window.mean, window.full) == (1.5, False)
    window.add([3.0, 8.0])
    assert (window.mean, window.full, window.ended) == (pytest.approx(13 / 3), True, 42)
    assert window.returns() == [2.0, 3.0, 8.0]


GOAL = StopSpec(return_=ReturnGoal(mean=10.0, episodes=3))
BOUNDED = GOAL.model_copy(update={"env_steps": 100, "wall_clock_seconds": 5})


@pytest.mark.parametrize(
    ("stop", "env_steps", "window", "seconds", "told"),
    [
        (StopSpec(env_steps=100), 99, returns(), 1e9, None),
        (StopSpec(env_steps=100), 100, returns(), 0, "100 of 100 environment steps"),
        (StopSpec(wall_clock_seconds=5), 10**9, returns(), 4.9, None),
        (StopSpec(wall_clock_seconds=5), 0, returns(), 5.0, "5 seconds"),
        (GOAL, 10**9, returns(), 1e9, None),
        (GOAL, 0, returns(99.0, 99.0), 0, None),
        (GOAL, 0, returns(10.0, 9.0, 10.9), 0, None),
        (GOAL, 0, returns(10.0, 9.0, 11.0), 0, "mean return of 3 episodes is 10.0"),
        (BOUNDED, 99, returns(1.0, 2.0, 3.0), 4.9, None),
        (BOUNDED, 100, returns(9.0, 9.0, 12.0), 0, "the mean return of 3 episodes is 10.0"),
        (BOUNDED, 100, returns(), 0, "goal of 10 was missed, as no episode ended: 100 of 100 env"),
        (BOUNDED, 100, returns(1.0, 2.0, 3.0), 0, "goal of 10 was missed, at 2.0: 100 of 100 env"),
        (BOUNDED, 0, returns(80.0), 5, "missed, at 80.0 over 1 of 3 episodes: 5 seconds of"),
    ],
)
def test_any_stop_condition_ends_training(
    stop: StopSpec, env_steps: int, window: ReturnWindow, seconds: float, told: str | None
) -> None:
    reason = stop_reason(stop, env_steps, window, seconds)
    assert (reason is None) == (told is None)
    assert (told or "") in (reason or "")


def test_what_was_trained_is_called_by_its_name() -> None:
    told = stop_reason(StopSpec(env_steps=100), 128, returns(), 0, "completions")
    assert told == "128 of 100 completions are trained"


def job_spec(batch: int, batches: int, environments: int, length: int) -> VACOJobSpec:
    return VACOJobSpec.model_validate(
        {
            "task": {"environment": "CartPole-v1"},
            "rollout": {"environmentsPerActor": environments, "fragmentLength": length},
            "learner": {"batchSize": batch, "bufferBatches": batches},
            "stop": {"envSteps": 1},
        }
    )


@given(
    batch=st.integers(4, 10_000),
    batches=st.integers(1, 8),
    environments=st.integers(1, 32),
    length=st.integers(1, 64),
    actors=st.integers(1, 100),
)
def test_credits_always_let_a_batch_come_together(
    batch: int, batches: int, environments: int, length: int, actors: int
) -> None:
    """Also where every second step is an autoreset: training waits for no credit it withholds."""
    assume(environments * length <= batches * batch)  # the manifest's own rule
    capacity = Capacity.of(job_spec(batch, batches, environments, length))
    granted = capacity.share(actors)
    assert granted >= 1
    fragments, steps = actors * granted, environments * length
    assert fragments * steps // 2 >= batch
    if actors == 1:  # with fragments of one step, every second one holds no sample at all
        assert fragments // 2 * steps >= batch
    most_samples = granted * environments * length
    if actors == 1:
        assert most_samples <= (batches + 3) * batch + 3 * environments * length


BYTES = 1 << 30


def fragment(sequence: int, version: int, learner: int = 2) -> Fragment:
    zeros = np.zeros((4, 1), np.float32)
    return Fragment(
        id=FragmentId("job", "actor-0", 1, sequence),
        weights_incarnation=learner,
        observations={"observation": np.zeros((5, 1, 2), np.float32)},
        actions=np.zeros((4, 1), np.int64),
        rewards=zeros,
        terminated=zeros.astype(np.bool_),
        truncated=zeros.astype(np.bool_),
        valid=np.ones((4, 1), np.bool_),
        behaviour_logp=zeros,
        versions=np.full(4, version, np.int64),
        episode_start=np.zeros((5, 1), np.bool_),
        final_observations={},
        final_steps=np.zeros(0, np.int32),
        core_state={},
        return_carry=np.zeros(1, np.float32),
        episode_returns=np.zeros(0, np.float32),
        episode_lengths=np.zeros(0, np.int32),
        rollout_seconds=0.1,
    )


class Source:
    """A batch source over a real admission; version 40 was published again as 58."""

    def __init__(self, batch: int = 8, max_lag: int = 5) -> None:
        lineage = Lineage((Incarnation(1, 0, 0), Incarnation(2, 40, 58)))
        spec = FragmentSpec(
            {"observation": ArraySpec((2,), "float32")}, ArraySpec((), "int64"), {}, 8, 2, 100.0
        )
        self.ledger, self.told = Ledger(), list[Settlement]()
        buffer = FragmentBuffer(100, 100, BYTES)
        self.admission = Admission("job", spec, lineage, lambda: 100, self.ledger, Roster(), buffer)
        self.actor = self.admission.connect("actor-0", 1)
        self.batches = BatchSource(
            buffer, self.admission, lineage, batch, max_lag, self.told.extend
        )

    def put(self, *fragments: Fragment) -> None:
        for item in fragments:
            message = b"".join(item.to_parts()[0])
            assert self.admission.offer(self.actor, IncomingFragment.parse(message)) is None

    def next(self, version: int) -> list[int] | None:
        batch = self.batches.next(version)
        return None if batch is None else [item.id.sequence for item in batch]


def test_a_batch_is_as_few_fragments_as_hold_it() -> None:
    source = Source(batch=6)
    source.put(fragment(1, 60), fragment(2, 60), fragment(3, 60))
    assert source.next(60) == [1, 2]
    assert source.next(60) is None


def test_what_is_over_the_bound_is_stale_and_the_batch_waits_for_others() -> None:
    source = Source(batch=8, max_lag=5)
    source.put(fragment(1, 60), fragment(2, 61))
    assert source.next(66) is None
    assert [(told.sequence, told.fate) for told in source.told] == [(1, Fate.STALE)]
    assert source.ledger.counts() == LedgerCounts(received=8, queued=4, stale=4)
    source.put(fragment(3, 66))
    assert source.next(66) == [2, 3]


def test_a_restart_makes_nothing_stale() -> None:
    """Version 38 of the first incarnation is 3 updates behind version 59 of the second."""
    source = Source(batch=4, max_lag=3)
    source.put(fragment(1, 38, learner=1), fragment(2, 37, learner=1))
    assert source.next(59) == [1]
    assert source.next(59) is None
    assert [told.sequence for told in source.told] == [2]


def test_lag_is_known_for_every_step() -> None:
    source = Source()
    mixed = fragment(1, 60)
    mixed.versions[2:] = 62
    assert source.batches.step_lags(mixed, 63).tolist() == [3, 3, 1, 1]
    assert source.batches.lag(mixed, 63) == 3
