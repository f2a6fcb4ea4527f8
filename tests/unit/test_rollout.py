"""Fragments against a slow truth of what belongs where, for both ways of starting anew."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from vaco.job import ActorCriticPolicy, GymnasiumTask
from vaco.trajectory import Fragment, IncomingFragment
from vaco.weights import Weights
from vaco_actor.environments import make_vector_env
from vaco_actor.imports import import_all
from vaco_actor.mailbox import Mailbox
from vaco_actor.rollout import EnvironmentFaultError, Rollout, RolloutSettings
from vaco_policy.normaliser import discounted_sums
from vaco_policy.parameters import to_payload
from vaco_policy.policy import Policy

COUNTING = str(Path(__file__).parents[1] / "environments" / "counting.py")
SAME_STEP, NEXT_STEP = "test/Counting-v0", "test/NextStep-v0"
BOTH = pytest.mark.parametrize("environment", [SAME_STEP, NEXT_STEP])
B, T, GAMMA = 4, 6, 0.9
NEVER = threading.Event()


class Truth(NamedTuple):
    """One environment's life, written down step by step."""

    observations: list[tuple[int, int, int]]
    rewards: list[float]
    terminated: list[bool]
    truncated: list[bool]
    valid: list[bool]
    starts: list[bool]
    finals: dict[int, tuple[int, int, int]]
    ended: list[tuple[int, float, int]]


def live(index: int, steps: int, same_step: bool) -> Truth:
    """What happens to environment `index` in `steps` steps, with a Python `if` for every case."""
    import counting

    truth = Truth([(index, 0, 0)], [], [], [], [], [True], {}, [])
    episode = step = 0
    earned = 0.0
    over = False
    for t in range(steps):
        if over:
            episode, step, earned, over = episode + 1, 0, 0.0, False
            truth.observations.append((index, episode, 0))
            truth.rewards.append(0.0)
            truth.terminated.append(False)
            truth.truncated.append(False)
            truth.valid.append(False)
            truth.starts.append(True)
            continue
        step += 1
        reward = counting.reward(index, episode, step)
        earned += reward
        ends = step == counting.episode_length(index, episode)
        cut = ends and counting.is_truncated(index, episode)
        truth.rewards.append(reward)
        truth.terminated.append(ends and not cut)
        truth.truncated.append(cut)
        truth.valid.append(True)
        if ends:
            truth.ended.append((t, earned, step))
        if ends and same_step:
            if cut:
                truth.finals[t] = (index, episode, step)
            episode, step, earned = episode + 1, 0, 0.0
            truth.observations.append((index, episode, 0))
            truth.starts.append(True)
        else:
            over = ends
            truth.observations.append((index, episode, step))
            truth.starts.append(False)
    return truth


def settings(**changed: Any) -> RolloutSettings:
    values: dict[str, Any] = {
        "job_uid": "job",
        "actor_id": "actor-0",
        "actor_incarnation": 3,
        "fragment_length": T,
        "gamma": GAMMA,
        "reward_bound": 1e6,
        "seed": 7,
    }
    return RolloutSettings(**(values | changed))


def make(
    environment: str,
    spec: ActorCriticPolicy | None = None,
    environments: int = B,
    task: dict[str, Any] | None = None,
    **changed: Any,
) -> tuple[Rollout, Mailbox, Policy]:
    """A rollout of `environment` whose seeds make the environments' indices 0, 1, ..."""
    described = GymnasiumTask(environment=environment, imports=[COUNTING], **(task or {}))
    env = make_vector_env(described, environments, 0)
    policy = Policy(spec or ActorCriticPolicy(), env.spaces, seed=1)
    mailbox = Mailbox()
    mailbox.offer(Weights(1, 5, to_payload(policy), env.spaces.to_json()))
    return Rollout(env, policy, mailbox, settings(**changed)), mailbox, policy


def collect(rollout: Rollout, stop: threading.Event = NEVER) -> Fragment:
    fragment = rollout.collect(stop)
    assert fragment is not None
    return fragment


class Countdown(threading.Event):
    """Calls `then` when it is asked for the `after`-th time, which is before step `after`."""

    def __init__(self, after: int, then: Callable[[], None]) -> None:
        super().__init__()
        self._remaining = after
        self._then = then

    def is_set(self) -> bool:
        if self._remaining == 0:
            self._then()
        self._remaining -= 1
        return super().is_set()


def check(fragment: Fragment, lives: list[Truth], first: int) -> None:
    """Compare a fragment with steps `first`... of all environments' lives."""
    length = fragment.length
    steps = slice(first, first + length)
    more = slice(first, first + length + 1)

    def column(name: str, part: slice) -> Any:
        return np.array([getattr(life, name)[part] for life in lives]).swapaxes(0, 1)

    seen = fragment.observations["observation"]
    assert seen.dtype == np.float32
    np.testing.assert_array_equal(seen, column("observations", more))
    for name in ("rewards", "terminated", "truncated", "valid"):
        np.testing.assert_array_equal(getattr(fragment, name), column(name, steps), name)
    np.testing.assert_array_equal(fragment.episode_start, column("starts", more))
    finals = {
        (t - first) * len(lives) + b: observation
        for b, life in enumerate(lives)
        for t, observation in life.finals.items()
        if first <= t < first + length
    }
    assert fragment.final_steps.tolist() == sorted(finals)
    if finals:
        expected = [finals[flat] for flat in sorted(finals)]
        np.testing.assert_array_equal(fragment.final_observations["observation"], expected)
    else:
        assert fragment.final_observations == {}
    ended = [e[1:] for life in lives for e in life.ended if first <= e[0] < first + length]
    assert fragment.episode_returns.tolist() == pytest.approx([r for r, _ in ended])
    assert fragment.episode_lengths.tolist() == [n for _, n in ended]


@BOTH
@pytest.mark.parametrize("length", [1, 2, 5, 6, 7])
def test_everything_is_where_it_belongs(environment: str, length: int) -> None:
    rollout, _, _ = make(environment, fragment_length=length)
    lives = [live(index, 60, environment == SAME_STEP) for index in range(B)]
    first = 0
    while first + length <= 60:
        fragment = rollout.collect(NEVER)
        if fragment is None:
            assert not any(any(life.valid[first : first + length]) for life in lives)
        else:
            check(fragment, lives, first)
        first += length


@BOTH
def test_lives_hold_every_case_at_a_fragments_end(environment: str) -> None:
    lives = [live(index, 60, environment == SAME_STEP) for index in range(B)]
    last = [t for t in range(60) if t % T == T - 1]
    assert any(life.truncated[t] for life in lives for t in last)
    assert any(life.terminated[t] for life in lives for t in last)
    if environment == NEXT_STEP:
        assert any(not life.valid[t + 1] for life in lives for t in last[:-1])
    else:
        assert any(t in life.finals for life in lives for t in last)


@BOTH
def test_a_cut_fragment_ends_with_its_bootstrap_and_the_next_goes_on(environment: str) -> None:
    rollout, _, _ = make(environment)
    lives = [live(index, 30, environment == SAME_STEP) for index in range(B)]
    stop = Countdown(4, lambda: stop.set())
    cut = collect(rollout, stop)
    assert cut.length == 4
    check(cut, lives, 0)
    whole = collect(rollout)
    check(whole, lives, 4)
    assert (cut.id.sequence, whole.id.sequence) == (1, 2)


def test_nothing_is_made_when_stopped_before_the_first_step() -> None:
    rollout, _, _ = make(SAME_STEP)
    stop = threading.Event()
    stop.set()
    assert rollout.collect(stop) is None
    assert collect(rollout).id.sequence == 1


def test_a_fragment_without_a_sample_is_not_sent() -> None:
    rollout, _, _ = make(NEXT_STEP, environments=1, fragment_length=1)
    life = live(0, 12, same_step=False)
    made = [rollout.collect(NEVER) for _ in range(12)]
    assert [fragment is not None for fragment in made] == life.valid
    sequences = [fragment.id.sequence for fragment in made if fragment is not None]
    assert sequences == list(range(1, len(sequences) + 1))
    returns = [r for f in made if f is not None for r in f.episode_returns.tolist()]
    assert returns == [earned for _, earned, _ in life.ended]


@BOTH
def test_stacked_frames_never_cross_an_episode(environment: str) -> None:
    rollout, _, _ = make(environment, task={"frame_stack": 3})
    lives = [live(index, 24, environment == SAME_STEP) for index in range(B)]
    finals = 0
    for first in range(0, 24, T):
        fragment = collect(rollout)
        frames = fragment.observations["observation"].reshape(T + 1, B, 3, 3)
        for b, life in enumerate(lives):
            for t in range(T + 1):
                index, episode, step = life.observations[first + t]
                expected = [(index, episode, max(0, step - age)) for age in (2, 1, 0)]
                np.testing.assert_array_equal(frames[t, b], expected)
        for row, flat in enumerate(fragment.final_steps):
            t, b = divmod(int(flat), B)
            index, episode, step = lives[b].finals[first + t]
            expected = [(index, episode, max(0, step - age)) for age in (2, 1, 0)]
            stacked = fragment.final_observations["observation"][row].reshape(3, 3)
            np.testing.assert_array_equal(stacked, expected)
            finals += 1
    assert finals == (sum(len(life.finals) for life in lives) if environment == SAME_STEP else 0)


@BOTH
def test_the_carried_return_is_the_learners(environment: str) -> None:
    rollout, _, _ = make(environment)
    fragments = [collect(rollout) for _ in range(5)]
    carry = torch.zeros(B)
    for fragment in fragments:
        np.testing.assert_allclose(fragment.return_carry, carry, rtol=1e-5)
        done = torch.from_numpy(fragment.terminated | fragment.truncated)
        valid = torch.from_numpy(fragment.valid)
        rewards = torch.from_numpy(fragment.rewards)
        sums = discounted_sums(rewards, done, valid, carry, GAMMA)
        carry = torch.where(done[-1], 0.0, sums[-1]).float()
    assert any(fragment.return_carry.any() for fragment in fragments)


def test_newer_weights_act_from_the_next_step_on() -> None:
    rollout, mailbox, policy = make(SAME_STEP)
    other = Policy(ActorCriticPolicy(), policy.spaces, seed=2)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter))
    newer = Weights(1, 9, to_payload(other), "")
    stop = Countdown(2, lambda: mailbox.offer(newer) and None)
    fragment = collect(rollout, stop)
    # Offered while step 2 is about to begin, that is before its weights are looked for.
    assert fragment.versions.tolist() == [5, 5, 9, 9, 9, 9]
    assert (fragment.min_version, fragment.max_version) == (5, 9)
    acted_by_newer = torch.from_numpy(fragment.versions == 9)
    seen = {"observation": torch.from_numpy(fragment.observations["observation"][:-1])}
    logp = other.evaluate(seen, torch.from_numpy(fragment.actions)).logp
    agrees = np.isclose(logp.detach(), fragment.behaviour_logp, atol=1e-5).all(axis=1)
    np.testing.assert_array_equal(agrees, acted_by_newer)


def test_weights_of_another_incarnation_wait_for_the_next_fragment() -> None:
    rollout, mailbox, policy = make(SAME_STEP)
    reborn = Weights(2, 4, to_payload(policy), "")
    stop = Countdown(2, lambda: mailbox.offer(reborn) and None)
    first, second = collect(rollout, stop), collect(rollout)
    assert first.weights_incarnation == 1
    assert set(first.versions.tolist()) == {5}
    assert second.weights_incarnation == 2
    assert set(second.versions.tolist()) == {4}


@BOTH
@pytest.mark.parametrize("core", [None, "gru", "lstm"])
def test_logged_densities_are_the_policys_own(environment: str, core: str | None) -> None:
    spec = ActorCriticPolicy.model_validate(
        {"core": {"type": core, "hidden_size": 8} if core else None}
    )
    rollout, _, policy = make(environment, spec)
    for _ in range(4):
        fragment = collect(rollout)
        assert set(fragment.core_state) == set(policy.core_names)
        observations = torch.from_numpy(fragment.observations["observation"][:-1])
        state = {name: torch.from_numpy(values) for name, values in fragment.core_state.items()}
        evaluation = policy.evaluate(
            {"observation": observations},
            torch.from_numpy(fragment.actions),
            state or None,
            torch.from_numpy(fragment.episode_start[:-1]),
        )
        logp = evaluation.logp.detach().numpy()
        np.testing.assert_allclose(fragment.behaviour_logp, logp, atol=1e-5)
    if core:
        assert all(values.any() for values in fragment.core_state.values())


def test_the_seed_decides_what_is_drawn() -> None:
    first, again, other = (
        collect(make(SAME_STEP, environments=64, seed=seed)[0]) for seed in (7, 7, 8)
    )
    np.testing.assert_array_equal(first.actions, again.actions)
    assert (first.actions != other.actions).any()
    assert set(np.unique(first.actions)) == {0, 1, 2}


@pytest.mark.parametrize("dose", ["nan", "inf", "-1e+30", "1e+300"])
def test_an_incredible_reward_is_a_fault_that_names_the_environment(dose: str) -> None:
    rollout, _, _ = make("test/Poisonous-v0", task={"kwargs": {"dose": dose}})
    with pytest.raises(EnvironmentFaultError, match=r"spec\.task\.environment.*Poisonous") as told:
        rollout.collect(NEVER)
    assert f"a reward of {dose}, " in str(told.value)
    assert "rewardBound" in str(told.value)


def test_a_reward_at_the_bound_passes() -> None:
    rollout, _, _ = make("test/Poisonous-v0", task={"kwargs": {"dose": "1e6"}})
    assert collect(rollout).rewards.max() == 1e6


@pytest.mark.parametrize("at_the_end", [False, True])
def test_an_undefined_observation_is_a_fault(at_the_end: bool) -> None:
    # At the end of an episode it is a final observation, which comes aside.
    rollout, _, _ = make("test/Undefined-v0", task={"kwargs": {"at_the_end": at_the_end}})
    with pytest.raises(EnvironmentFaultError, match="'observation' that is not a finite number"):
        rollout.collect(NEVER)


def test_fragments_share_no_memory() -> None:
    rollout, _, _ = make(SAME_STEP)
    first = collect(rollout)
    before = {name: values.copy() for name, values in first.observations.items()}
    rewards = first.rewards.copy()
    collect(rollout)
    np.testing.assert_array_equal(first.observations["observation"], before["observation"])
    np.testing.assert_array_equal(first.rewards, rewards)


def test_a_fragment_survives_the_wire() -> None:
    rollout, _, _ = make(SAME_STEP, ActorCriticPolicy.model_validate({"core": {"type": "lstm"}}))
    sent = collect(rollout)
    came = Fragment.decode(IncomingFragment.parse(b"".join(sent.to_parts()[0])))
    assert came.id == sent.id
    assert came.final_steps.size > 0
    np.testing.assert_array_equal(came.core_state["cell"], sent.core_state["cell"])
    for name in ("actions", "final_steps", "versions", "episode_start", "behaviour_logp"):
        np.testing.assert_array_equal(getattr(came, name), getattr(sent, name))
    assert came.rollout_seconds == sent.rollout_seconds > 0


@pytest.fixture(autouse=True)
def _counting_is_importable() -> None:
    import_all([COUNTING])
    torch.set_num_threads(1)
