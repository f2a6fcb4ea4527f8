"""CartPole behind a simulator that is slow at first, as one is that compiles itself.

It is imported by path (`task.imports`).
"""

import time
from typing import Any

import gymnasium
from gymnasium.envs.classic_control.cartpole import CartPoleEnv


class WarmingCartPole(CartPoleEnv):
    """Takes `seconds` longer for each of its first `steps` steps."""

    def __init__(self, steps: int, seconds: float, **rest: Any) -> None:
        super().__init__(**rest)
        self._cold_steps = steps
        self._seconds = seconds

    def step(self, action: Any) -> Any:
        if self._cold_steps > 0:
            self._cold_steps -= 1
            time.sleep(self._seconds)
        return super().step(action)


gymnasium.register("test/WarmingCartPole-v0", WarmingCartPole, max_episode_steps=500)
