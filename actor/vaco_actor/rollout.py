"""Rollouts: a policy acting in many environments, cut into fragments.

Every step costs one call of the policy and one of the environments, whatever their number; what
else there is to know about a step is worked out for the whole fragment at once. Newer weights are
taken over between two steps, so a fragment can be the work of several versions; `versions` says
which acted when. All are of one incarnation of the learner: another's wait for the next fragment.

Nothing here knows where weights come from or where fragments go.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from vaco.errors import UserError
from vaco.trajectory import Fragment, FragmentId
from vaco.weights import Weights
from vaco_policy.core import State
from vaco_policy.parameters import load_payload, payload_bound
from vaco_policy.policy import Policy

from vaco_actor.buffers import FragmentBuffers
from vaco_actor.episodes import EpisodeAccount
from vaco_actor.mailbox import Mailbox
from vaco_actor.vector_environment import Transition, VectorEnvironment


class EnvironmentFaultError(UserError):
    """An environment gave what would spoil the weights; it would do so again."""

    def __init__(self, environment: str, problem: str, cure: str) -> None:
        super().__init__("spec.task.environment", f"{environment} gave {problem}", cure)


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """How to roll out.

    Attributes:
        job_uid: Of the job.
        actor_id: Of this actor.
        actor_incarnation: Of this actor's process.
        fragment_length: T.
        gamma: Discount of the return that is carried from fragment to fragment.
        reward_bound: Largest credible magnitude of a reward.
        seed: Of the actions.

    """

    job_uid: str
    actor_id: str
    actor_incarnation: int
    fragment_length: int
    gamma: float
    reward_bound: float
    seed: int

    def fragment_id(self, sequence: int) -> FragmentId:
        """Return the identity of this actor's fragment number `sequence`, from 1."""
        return FragmentId(self.job_uid, self.actor_id, self.actor_incarnation, sequence)


def _ignore() -> None:
    """Nobody counts the steps."""


class Rollout:
    """An endless sequence of fragments.

    The caller waits until there are weights in `mailbox` before it collects the first one.

    Args:
        environment: Where to act; reset here.
        policy: What acts; its weights are replaced by those in `mailbox`.
        mailbox: Where newer weights appear.
        settings: How.
        stepped: Called after every step.

    """

    def __init__(
        self,
        environment: VectorEnvironment,
        policy: Policy,
        mailbox: Mailbox,
        settings: RolloutSettings,
        stepped: Callable[[], None] = _ignore,
    ) -> None:
        self._stepped = stepped
        self._loaded: Weights | None = None
        self._environment = environment
        self._policy = policy
        self._mailbox = mailbox
        mailbox.max_bytes = payload_bound(policy)
        self._settings = settings
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._sequence = 0
        self._episodes = EpisodeAccount(environment.num_envs)
        self._carry_B = np.zeros(environment.num_envs)
        self._state: State = policy.initial_state(environment.num_envs)
        self._starts = np.ones(environment.num_envs, np.bool_)
        self._observations = environment.observation_buffers()
        environment.reset(self._observations)

    @torch.inference_mode()
    def collect(self, stop: threading.Event) -> Fragment | None:
        """Roll out the next fragment: T steps, or fewer when `stop` is set meanwhile.

        Returns:
            None when there is no sample in it: `stop` came before the first step, or all steps
            only led to the next episode.

        Raises:
            EnvironmentFaultError: A reward or an observation that must not reach the learner.
            LookupError: There are no weights yet.

        """
        began = time.perf_counter()
        acting = self.adopt_weights()
        buffers = FragmentBuffers(self._environment, self._settings.fragment_length)
        buffers.begin(self._observations, self._starts)
        core_state = {name: values.numpy().copy() for name, values in self._state.items()}
        length = 0
        while length < self._settings.fragment_length and not stop.is_set():
            newest = self._mailbox.newest
            if newest is not acting and newest and newest.incarnation == acting.incarnation:
                acting = self._load(newest)
            buffers.versions[length] = acting.version
            self._step(buffers, length)
            self._stepped()
            length += 1
        if length == 0:
            return None
        buffers.cut(length)
        self._check_observations(buffers.observations)
        self._observations = {name: a[length] for name, a in buffers.observations.items()}
        self._starts = buffers.episode_start[length]
        return self._fragment(buffers, acting.incarnation, core_state, began)

    @property
    def acting(self) -> Weights | None:
        """The weights that acted last; None before the first fragment."""
        return self._loaded

    def adopt_weights(self) -> Weights:
        """Take over the newest weights and return them.

        Raises:
            LookupError: There are none yet.
            UserError: They are not this policy's.

        """
        newest = self._mailbox.newest
        if newest is None:
            raise LookupError("there are no weights to act with yet")
        return self._load(newest)

    def _load(self, weights: Weights) -> Weights:
        if weights is not self._loaded:
            load_payload(self._policy, weights.payload)
            self._loaded = weights
            self._mailbox.loaded(weights)
        return weights

    def _step(self, buffers: FragmentBuffers, t: int) -> None:
        observations, starts = buffers.seen(t)
        action, logp, self._state = self._policy.act(
            observations, self._state, self._generator, episode_start=starts
        )
        buffers.actions[t] = action.numpy()
        buffers.behaviour_logp[t] = logp.numpy()
        transition = self._environment.step(buffers.actions[t], buffers.next_observations(t))
        self._check_rewards(transition)
        if transition.finals is not None:
            self._check_observations(transition.finals.observations)
        buffers.write(t, transition)

    def _check_rewards(self, transition: Transition) -> None:
        bound = self._settings.reward_bound
        magnitudes = np.abs(transition.rewards)
        # NaN is not less than anything.
        if magnitudes.max() <= bound:
            return
        reward = transition.rewards[~(magnitudes <= bound)][0]
        raise EnvironmentFaultError(
            self._environment.name,
            f"a reward of {reward:g}, and its magnitude may be at most {bound:g}",
            "Mend the environment, or raise `spec.task.rewardBound` if such rewards are right.",
        )

    def _check_observations(self, observations: Mapping[str, npt.NDArray[Any]]) -> None:
        for name, values in observations.items():
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise EnvironmentFaultError(
                    self._environment.name,
                    f"an observation '{name}' that is not a finite number",
                    "Mend the environment.",
                )

    def _fragment(
        self,
        buffers: FragmentBuffers,
        weights_incarnation: int,
        core_state: dict[str, npt.NDArray[np.float32]],
        began: float,
    ) -> Fragment | None:
        done = buffers.terminated | buffers.truncated
        ended = self._episodes.add(buffers.rewards, done, buffers.valid)
        return_carry = self._carry_B.astype(np.float32)
        self._carry_return(buffers.rewards, done)
        if not buffers.valid.any():
            return None
        self._sequence += 1
        final_observations, final_steps = buffers.finals()
        return Fragment(
            id=self._settings.fragment_id(self._sequence),
            weights_incarnation=weights_incarnation,
            observations=buffers.observations,
            actions=buffers.actions,
            rewards=buffers.rewards,
            terminated=buffers.terminated,
            truncated=buffers.truncated,
            valid=buffers.valid,
            behaviour_logp=buffers.behaviour_logp,
            versions=buffers.versions,
            episode_start=buffers.episode_start,
            final_observations=final_observations,
            final_steps=final_steps,
            core_state=core_state,
            return_carry=return_carry,
            episode_returns=ended.returns,
            episode_lengths=ended.lengths,
            rollout_seconds=time.perf_counter() - began,
        )

    def _carry_return(
        self,
        rewards_TB: npt.NDArray[np.float32],
        done_TB: npt.NDArray[np.bool_],
    ) -> None:
        """Go on with R_t = r_t + gamma * R_{t-1}, zero where an episode ended.

        Steps that are no samples change nothing: there, reward and R are zero.
        """
        for reward_B, done_B in zip(rewards_TB, done_TB, strict=True):
            self._carry_B *= self._settings.gamma
            self._carry_B += reward_B
            self._carry_B[done_B] = 0.0
