"""CartPole behind a simulator that is slow at first, as one is that compiles itself.

It is imported by path (`task.imports`).
"""

import time
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.classic_control.cartpole import CartPoleEnv


class WarmingCartPole(CartPoleEnv):
    """Takes `seconds` longer for each step, until there is a file `warm`."""

    def __init__(self, warm: str, seconds: float, **rest: Any) -> None:
        super().__init__(**rest)
        self._warm = Path(warm)
        self._seconds = seconds

    def step(self, action: Any) -> Any:
        if not self._warm.exists():
            time.sleep(self._seconds)
        return super().step(action)


gymnasium.register("test/WarmingCartPole-v0", WarmingCartPole, max_episode_steps=500)
