r"""The policy and its critic: what actors act with and the learner trains.

    observations -> features -> actor network -> [core] -> policy head -> distribution
                           \-> critic network            -> value head  -> value

With `sharedTrunk`, and always with a recurrent core, the critic's head stands on the actor's
features: an actor must be able to carry the whole recurrent state without running a critic of its
own. An actor calls `act`, which leaves the critic alone; the learner calls the rest.

Everything that training changes is in the `state_dict`, the normalisers' statistics included.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from vaco.job import ActorCriticPolicy

from vaco_policy.core import Core, State
from vaco_policy.distributions import (
    Categorical,
    DiagonalGaussian,
    Distribution,
    MultiCategorical,
    choice_layout,
)
from vaco_policy.features import Features, Inputs
from vaco_policy.networks import linear, make_network
from vaco_policy.normaliser import ReturnNormaliser, RunningNormaliser
from vaco_policy.seeding import derive
from vaco_policy.spaces import Box, Discrete, MultiDiscrete, Spaces

_POLICY_GAIN = 0.01
_VALUE_GAIN = 1.0

Observations = Mapping[str, Tensor]


class Act(NamedTuple):
    """One step of B environments.

    Attributes:
        action: int64 [B] or [B, A], or float32 [B, A]; not clipped.
        logp: float32 [B], summed over action dimensions.
        state: The core's state after the step, [B, H] by name; {} without a core.

    """

    action: Tensor
    logp: Tensor
    state: State


class Evaluation(NamedTuple):
    """What the current policy and critic say about actions that were taken.

    Attributes:
        distribution: Over the actions, with the leading dimensions of `logp`.
        logp: float32 [T, B] or [N].
        entropy: float32 like `logp`.
        value: float32 like `logp`, or [T+1, B] if a bootstrap observation was given.
        states: The core's state after each step, [T or T+1, B, H] by name, before any reset by the
            next step; {} without a core.

    """

    distribution: Distribution
    logp: Tensor
    entropy: Tensor
    value: Tensor
    states: dict[str, Tensor]


class _Hidden(NamedTuple):
    """Features that the two heads stand on, and the core's state after each step."""

    actor: Tensor
    critic: Tensor
    states: dict[str, Tensor]


class Policy(nn.Module):
    """The actor-critic of one job.

    Args:
        config: `spec.policy`.
        spaces: Of the job's environment.
        seed: Of the initial weights; the global generator is neither used nor changed.

    Raises:
        UserError: The network does not fit the observations.

    """

    _choice_index: Tensor
    _choice_mask: Tensor

    def __init__(self, config: ActorCriticPolicy, spaces: Spaces, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.spaces = spaces
        self.features = Features(spaces.observation)
        size = self.features.continuous_size
        normalise = config.normalise_observations and size > 0
        self.observation_normaliser = RunningNormaliser(size) if normalise else None
        self.return_normaliser = ReturnNormaliser() if config.normalise_returns else None
        # torch's layers draw weights of their own, which ours replace.
        with torch.random.fork_rng(devices=[]):
            self._init_networks(torch.Generator().manual_seed(derive(seed, "policy")))
        self._init_action_space(spaces.action)
        # In an actor's step, what `nn.Module` adds to a call and to the look-up of a part would
        # cost as much as the arithmetic.
        self._actor_forward = self.actor.forward
        normaliser = self.observation_normaliser
        self._normalise = None if normaliser is None else normaliser.forward
        self._policy_weights = (self.policy_head.weight, self.policy_head.bias)

    def _init_networks(self, generator: torch.Generator) -> None:
        config = self.config
        self.actor = make_network(config.network, self.features, generator)
        size = self.actor.output_size
        self.core: Core | None = None
        if config.core is not None:
            self.core = Core(config.core, size, generator)
            size = config.core.hidden_size
        shared = config.shared_trunk or self.core is not None
        self.critic = None if shared else make_network(config.network, self.features, generator)
        self.policy_head = linear(size, _head_size(self.spaces.action), _POLICY_GAIN, generator)
        self.value_head = linear(size, 1, _VALUE_GAIN, generator)

    def _init_action_space(self, space: Discrete | MultiDiscrete | Box) -> None:
        if isinstance(space, Box):
            self.log_std = nn.Parameter(torch.full((space.size,), self.config.initial_log_std))
        elif isinstance(space, MultiDiscrete):
            index, mask = choice_layout(space.nvec)
            self.register_buffer("_choice_index", index, persistent=False)
            self.register_buffer("_choice_mask", mask, persistent=False)

    @property
    def core_names(self) -> tuple[str, ...]:
        """Names of the core's state; () without a core."""
        return () if self.core is None else self.core.names

    def initial_state(self, batch: int) -> dict[str, Tensor]:
        """Return the core's state at an episode's start, zeros [batch, H] by name."""
        return {} if self.core is None else self.core.initial_state(batch)

    def act(
        self,
        observations: Observations,
        state: State,
        generator: torch.Generator | None,
        deterministic: bool = False,
        episode_start: Tensor | None = None,
    ) -> Act:
        """Choose an action for each of B environments; call it under `torch.inference_mode`.

        Args:
            observations: [B, ...] by name.
            state: The core's state, [B, H] by name; {} without a core.
            generator: What is random comes from it.
            deterministic: Take the most probable action instead of a sample.
            episode_start: bool [B]; where True, the state is zeroed first. None: nowhere.

        """
        distribution, state = self.distribution_at(observations, state, episode_start)
        if deterministic:
            action = distribution.mode()
            return Act(action, distribution.logp(action), state)
        action, logp = distribution.draw(generator)
        return Act(action, logp, state)

    def distribution_at(
        self, observations: Observations, state: State, episode_start: Tensor | None = None
    ) -> tuple[Distribution, State]:
        """Return the distribution that `act` draws from, and the core's next state."""
        hidden = self._actor_forward(self._inputs(observations))
        if self.core is not None:
            state = self.core.step(hidden, state, episode_start)
            hidden = state["hidden"]
        return self._distribution(hidden), state

    def evaluate(
        self,
        observations: Observations,
        actions: Tensor,
        state: State | None = None,
        episode_start: Tensor | None = None,
    ) -> Evaluation:
        """Evaluate actions and observations, with gradient where gradient is enabled.

        Args:
            observations: [T, B, ...] by name, or [N, ...] without a core. They may hold one step
                more than the actions, the bootstrap observation: only its value is computed.
            actions: [T, B] or [T, B, A] ([N] or [N, A]).
            state: The core's state before step 0, [B, H] by name; None: zeros.
            episode_start: bool [T, B] (or [T+1, B], as the observations); where True, the core's
                state is zeroed before that step. None: nowhere.

        """
        hidden = self._hidden(observations, state, episode_start)
        with _full_precision(hidden.actor):
            distribution = self._distribution(hidden.actor[: actions.shape[0]].float())
            logp, entropy = distribution.logp(actions), distribution.entropy()
        return Evaluation(distribution, logp, entropy, self._value(hidden.critic), hidden.states)

    def value(
        self,
        observations: Observations,
        state: State | None = None,
        episode_start: Tensor | None = None,
    ) -> Tensor:
        """Return the critic's value of observations; arguments and shapes as in `evaluate`."""
        if self.critic is not None:
            return self._value(self.critic(self._inputs(observations)))
        return self._value(self._hidden(observations, state, episode_start).critic)

    def value_at(self, observations: Observations, state: State) -> Tensor:
        """Return the value [N] of single observations [N, ...], each with its own core state.

        Args:
            observations: Such as the last ones of truncated episodes.
            state: The core's state after the step before each, [N, H] by name (from
                `Evaluation.states`); {} without a core.

        """
        if self.core is None:
            return self.value(observations)
        hidden = self.core.step(self.actor(self._inputs(observations)), state, None)
        return self._value(hidden["hidden"])

    def update_observation_statistics(
        self, observations: Observations, valid: Tensor | None = None
    ) -> None:
        """Take observations into the normaliser; nothing happens when there is none.

        Args:
            observations: [..., *shape] by name.
            valid: bool [...]: those that count; None: all.

        """
        if self.observation_normaliser is None:
            return
        continuous = self.features.continuous(observations)
        self.observation_normaliser.update(continuous if valid is None else continuous[valid])

    def _inputs(self, observations: Observations) -> Inputs:
        return self.features.read(observations, self._normalise)

    def _hidden(
        self, observations: Observations, state: State | None, episode_start: Tensor | None
    ) -> _Hidden:
        inputs = self._inputs(observations)
        actor = self.actor(inputs)
        if self.core is None:
            return _Hidden(actor, actor if self.critic is None else self.critic(inputs), {})
        start = self.initial_state(actor.shape[1]) if state is None else state
        unrolled = self.core.unroll(actor, start, episode_start)
        return _Hidden(unrolled.output, unrolled.output, unrolled.states)

    def _value(self, hidden: Tensor) -> Tensor:
        with _full_precision(hidden):
            value: Tensor = self.value_head(hidden.float())
        return value.squeeze(-1)

    def _distribution(self, hidden: Tensor) -> Distribution:
        output = F.linear(hidden, *self._policy_weights)
        action = self.spaces.action
        if isinstance(action, Discrete):
            return Categorical(output)
        if isinstance(action, Box):
            return DiagonalGaussian(output, self.log_std)
        choices = output.index_select(-1, self._choice_index)
        shape = (*output.shape[:-1], *self._choice_mask.shape)
        return MultiCategorical(choices.reshape(shape) + self._choice_mask)


def _full_precision(hidden: Tensor) -> torch.autocast:
    """Return what keeps the heads in float32 where the networks compute in bfloat16.

    A ratio of densities is exp of the difference of two logits; rounded to 8 bits, it would differ
    from 1 where nothing has changed.
    """
    return torch.autocast(hidden.device.type, enabled=False)


def _head_size(space: Discrete | MultiDiscrete | Box) -> int:
    if isinstance(space, Discrete):
        return space.n
    return sum(space.nvec) if isinstance(space, MultiDiscrete) else space.size
