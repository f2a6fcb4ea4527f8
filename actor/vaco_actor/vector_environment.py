"""Many environments behind one step, whatever steps them and however they start anew.

gymnasium knows two ways in which a vector environment goes on after an episode ended at step t:

- next step: obs[t+1] is the episode's final observation; step t+1 ignores its action, gives no
  reward and leads to the next episode's first observation. It is no sample (`valid` is False).
- same step: obs[t+1] is the next episode's first observation already; the final one comes aside.

`Transition` says what either amounts to, so that a rollout need not know which one it was.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt
from gymnasium.vector import AutoresetMode, VectorEnv
from vaco.errors import UserError
from vaco_policy.spaces import Box, Discrete, MultiBinary, Spaces

from vaco_actor.frame_stack import FrameStack, stacked_spaces
from vaco_actor.gymnasium_spaces import action_writer, from_gymnasium, observation_reader

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
AnyVectorEnv = VectorEnv[Any, Any, Any]


@dataclass(frozen=True, slots=True)
class FinalObservations:
    """Last observations of episodes truncated in a step that already shows the next episodes.

    Attributes:
        environments: int64 [N], ascending.
        observations: by name, [N, ...].

    """

    environments: npt.NDArray[np.int64]
    observations: Mapping[str, Array]


class Transition(NamedTuple):
    """What one step of B environments gave, besides the observations.

    Attributes:
        rewards: [B], 0 where not valid.
        terminated: bool [B].
        truncated: bool [B].
        valid: bool [B]; False: the step only led to the next episode's first observation.
        starts: bool [B]; the new observation is the first of an episode.
        finals: None when no truncated episode's last observation came aside.

    """

    rewards: Array
    terminated: Mask
    truncated: Mask
    valid: Mask
    starts: Mask
    finals: FinalObservations | None


class VectorEnvironment:
    """B environments of a task.

    Args:
        env: What steps them.
        name: The environment's id, for messages.
        frame_stack: Observations stacked into one.
        seed: Seed of the first reset; None: `env` is seeded already.

    Attributes:
        name: The environment's id.
        spaces: What a policy sees of one environment, frames stacked.
        num_envs: B.

    Raises:
        UserError: The spaces are of a kind no policy handles, or `env` does not say how it starts
            its episodes anew.

    """

    def __init__(self, env: AnyVectorEnv, name: str, frame_stack: int, seed: int | None) -> None:
        self.name = name
        self.num_envs = env.num_envs
        self._env = env
        self._seed = seed
        self._same_step = _is_same_step(env, name)
        single = from_gymnasium(env.single_observation_space, env.single_action_space)
        self._read = observation_reader(env.single_observation_space)
        self._write_action = action_writer(env.single_action_space)
        self._frames: FrameStack | None = None
        self.spaces = single
        if frame_stack > 1:
            stacked = stacked_spaces(single.observation, frame_stack)
            self.spaces = Spaces(stacked, single.action)
            self._frames = FrameStack(single.observation, frame_stack, self.num_envs)
        self._everywhere = np.ones(self.num_envs, dtype=np.bool_)
        self._nowhere = np.zeros(self.num_envs, dtype=np.bool_)
        self._pending = self._nowhere

    def observation_buffers(self, *leading: int) -> dict[str, Array]:
        """Return uninitialised arrays [*leading, B, ...] by name that observations fit into."""
        return {
            name: np.empty((*leading, self.num_envs, *shape), dtype=dtype)
            for name, (shape, dtype) in observation_layout(self.spaces).items()
        }

    def reset(self, out: Mapping[str, Array]) -> None:
        """Start all episodes; write the first observations into `out`, [B, ...] by name.

        The first call seeds; later ones go on with the environments' own random numbers.
        """
        seed, self._seed = self._seed, None
        observations, _ = self._env.reset(seed=seed)
        self._pending = self._nowhere
        self._show(self._read(observations), self._everywhere, out)

    def step(self, actions: Array, out: Mapping[str, Array]) -> Transition:
        """Act in every environment; write the observations that follow into `out`.

        Args:
            actions: [B] or [B, A] as the policy gave them; moved into the action space here.
            out: [B, ...] by name.

        """
        observations, rewards, terminated, truncated, infos = self._env.step(
            self._write_action(actions)
        )
        if self._same_step:
            starts = terminated | truncated
            finals = self._finals(infos, truncated & ~terminated) if starts.any() else None
            self._show(self._read(observations), starts, out)
            return Transition(rewards, terminated, truncated, self._everywhere, starts, finals)
        starts = self._pending
        if starts.any():
            # Some environments report on a reset step; nothing that happens there is a sample.
            rewards = np.where(starts, 0, rewards)
            terminated, truncated = terminated & ~starts, truncated & ~starts
        self._pending = terminated | truncated
        self._show(self._read(observations), starts, out)
        return Transition(rewards, terminated, truncated, ~starts, starts, None)

    def render(self) -> Array:
        """Return the first environment's picture, uint8 [H, W, 3].

        Raises:
            UserError: It has none.

        """
        frames = self._env.render()
        frame = frames[0] if isinstance(frames, Sequence) and len(frames) > 0 else frames
        if not isinstance(frame, np.ndarray) or frame.ndim != 3:
            raise UserError("--video", f"{self.name} draws no pictures", "Leave it out.")
        return frame

    def close(self) -> None:
        """End worker processes and threads; a second call does nothing."""
        self._env.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _show(
        self, observations: Mapping[str, Array], starts: Mask, out: Mapping[str, Array]
    ) -> None:
        if self._frames is None:
            for name, values in observations.items():
                out[name][...] = values
            return
        self._frames.push(observations)
        if starts.any():
            self._frames.restart(observations, starts)
        self._frames.write(out)

    def _finals(self, infos: Mapping[str, Any], truncated: Mask) -> FinalObservations | None:
        environments = np.flatnonzero(truncated)
        if environments.size == 0:
            return None
        gathered = {
            name: np.empty((environments.size, *shape), dtype=dtype)
            for name, (shape, dtype) in observation_layout(self.spaces).items()
        }
        final_obs = infos["final_obs"]
        for row, environment in enumerate(environments):
            observation = self._read(final_obs[environment])
            if self._frames is not None:
                observation = self._frames.with_last(int(environment), observation)
            for name, values in gathered.items():
                values[row] = observation[name].reshape(values.shape[1:])
        return FinalObservations(environments, gathered)


def observation_layout(spaces: Spaces) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return shape and dtype of every observation, by name, without leading dimensions."""
    return {name: _layout(space) for name, space in spaces.observation.items()}


def _layout(space: Box | Discrete | MultiBinary) -> tuple[tuple[int, ...], str]:
    match space:
        case Box():
            return space.shape, space.dtype
        case Discrete():
            return (), "int64"
        case MultiBinary():
            return (space.n,), "int8"


def _is_same_step(env: AnyVectorEnv, name: str) -> bool:
    mode = env.metadata.get("autoreset_mode")
    if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        raise UserError(
            "spec.task.vectorisation",
            f"the vectorised form of {name} declares autoreset mode {mode}, and episodes must "
            "start anew by themselves",
            "Use sync.",
        )
    return bool(mode == AutoresetMode.SAME_STEP)
