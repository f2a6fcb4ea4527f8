"""Tiny environments whose observations say where they belong; imported by path (`task.imports`)."""

from collections.abc import Callable
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv


def episode_length(index: int, episode: int) -> int:
    """Return how many steps episode number `episode` of environment `index` has."""
    return 2 + (episode + index) % 3


def is_truncated(index: int, episode: int) -> bool:
    """Return whether that episode is cut off rather than terminated."""
    return (episode * 5 + index) % 4 < 2


def reward(index: int, episode: int, step: int) -> float:
    """Return what step number `step`, from 1, of that episode earns."""
    return 100.0 * index + 10.0 * episode + step


class Counting(gymnasium.Env[Any, Any]):
    """Its observation is (index, episode, step), whatever it is told to do."""

    observation_space = spaces.Box(-1e6, 1e6, (3,), np.float64)
    action_space = spaces.Discrete(3)

    def __init__(self) -> None:
        self._index = 0
        self._episode = -1
        self._step = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        if seed is not None:
            self._index, self._episode = seed % 1000, -1
        self._episode, self._step = self._episode + 1, 0
        return self._observe(), {}

    def step(self, _action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._step += 1
        ends = self._step == episode_length(self._index, self._episode)
        cut = ends and is_truncated(self._index, self._episode)
        earned = reward(self._index, self._episode, self._step)
        return self._observe(), earned, ends and not cut, cut, {}

    def _observe(self) -> Any:
        return np.array([self._index, self._episode, self._step], np.float64)


class Poisonous(Counting):
    """Gives one reward that nobody can believe, in step number `after`."""

    def __init__(self, dose: str, after: int = 5) -> None:
        super().__init__()
        # Text, because a manifest holds no NaN.
        self._dose = float(dose)
        self._remaining = after

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, earned, terminated, truncated, info = super().step(action)
        self._remaining -= 1
        earned = self._dose if self._remaining == 0 else earned
        return observation, earned, terminated, truncated, info


class Breaking(Counting):
    """Raises in its tenth step."""

    _taken = 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._taken += 1
        if self._taken == 10:
            raise RuntimeError("a joint broke")
        return super().step(action)


class Undefined(Counting):
    """Its observations become NaN at step 2 of every episode, or only at each episode's end."""

    def __init__(self, at_the_end: bool = False) -> None:
        super().__init__()
        self._at_the_end = at_the_end

    def _observe(self) -> Any:
        at = episode_length(self._index, self._episode) if self._at_the_end else 2
        return super()._observe() * (np.nan if self._step == at else 1.0)


class Spying(gymnasium.Env[Any, Any]):
    """Its spaces are of the kind named; its observation is drawn, its info is the last action."""

    KINDS: ClassVar[dict[str, tuple[Callable[[], Any], Callable[[], Any]]]] = {
        "edges": (
            lambda: spaces.Box(-1, 1, (2,)),
            lambda: spaces.Box(np.array([[-0.1, 0.0]]), np.array([[0.1, 2.0]]), dtype=np.float64),
        ),
        "starts": (lambda: spaces.Discrete(4, start=7), lambda: spaces.Discrete(3, start=-1)),
        "grids": (
            lambda: spaces.MultiBinary([2, 3]),
            lambda: spaces.MultiDiscrete([[2, 3], [4, 5]]),
        ),
        "parts": (
            lambda: spaces.Dict(
                {"where": spaces.Box(0, 9, (2,)), "what": spaces.Discrete(5), "screen": _SCREEN}
            ),
            lambda: spaces.Discrete(2),
        ),
        "texts": (lambda: spaces.Text(5), lambda: spaces.Discrete(2)),
        "counts": (lambda: spaces.Box(0, 9, (2,)), lambda: spaces.Box(0, 9, (2,), np.int32)),
    }

    def __init__(self, kind: str) -> None:
        observation, action = self.KINDS[kind]
        self.observation_space = observation()
        self.action_space = action()
        self.actions: list[Any] = []

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        if seed is not None:
            self.observation_space.seed(seed)
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.actions.append(action)
        return self.observation_space.sample(), 0.0, False, False, {}


class Doubling(gymnasium.RewardWrapper[Any, Any]):
    """Multiplies rewards."""

    def __init__(self, env: gymnasium.Env[Any, Any], times: float = 2) -> None:
        super().__init__(env)
        self._times = times

    def reward(self, reward: Any) -> Any:
        return reward * self._times


_SCREEN = spaces.Box(0, 255, (4, 4, 1), np.uint8)


def _next_step(num_envs: int) -> SyncVectorEnv:
    return SyncVectorEnv([Counting] * num_envs, autoreset_mode=AutoresetMode.NEXT_STEP)


def _by_hand(num_envs: int) -> SyncVectorEnv:
    return SyncVectorEnv([Counting] * num_envs, autoreset_mode=AutoresetMode.DISABLED)


gymnasium.register("test/Counting-v0", entry_point=Counting)
gymnasium.register("test/Poisonous-v0", entry_point=Poisonous)
gymnasium.register("test/Breaking-v0", entry_point=Breaking)
gymnasium.register("test/Undefined-v0", entry_point=Undefined)
gymnasium.register("test/Spying-v0", entry_point=Spying)
gymnasium.register("test/NextStep-v0", entry_point=Counting, vector_entry_point=_next_step)
gymnasium.register("test/ByHand-v0", entry_point=Counting, vector_entry_point=_by_hand)
