"""A task that needs memory: a cue, seen once, must be recalled after a delay.

Importing this module registers `vaco/Recall-v0`; examples/memory.yaml does so by
`task.imports: [memory.py]`.
"""

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces

Observation = npt.NDArray[np.float32]


class Recall(gymnasium.Env[Observation, np.int64]):
    """Recall the cue of the first step when the signal comes.

    The observation has one entry per cue, which is 1 in the first step for the cue that was drawn
    and 0 ever after, and a last entry that is 1 when the answer is due, `delay` steps later. The
    answer is the action of that step: the reward is 1 if it is the cue, else 0, and the episode
    ends. Actions before it have no effect. Without memory no policy can expect more than 1 / cues.

    Args:
        cues: Number of cues, and of actions.
        delay: Steps from the cue to the signal, at least 1.

    """

    def __init__(self, cues: int = 4, delay: int = 8) -> None:
        if cues < 2 or delay < 1:
            raise ValueError(f"cues={cues} must be at least 2 and delay={delay} at least 1")
        self.observation_space = spaces.Box(0.0, 1.0, (cues + 1,), np.float32)
        self.action_space = spaces.Discrete(cues)
        self._cues = cues
        self._delay = delay
        self._cue = 0
        self._step = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw a cue and show it."""
        super().reset(seed=seed, options=options)
        self._cue = int(self.np_random.integers(self._cues))
        self._step = 0
        return self._observe(self._cue), {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Take the action for the answer if the answer is due."""
        if self._step == self._delay:
            return self._observe(), float(action == self._cue), True, False, {}
        self._step += 1
        return (
            self._observe(self._cues if self._step == self._delay else None),
            0.0,
            False,
            False,
            {},
        )

    def _observe(self, lit: int | None = None) -> Observation:
        observation = np.zeros(self._cues + 1, np.float32)
        if lit is not None:
            observation[lit] = 1.0
        return observation


gymnasium.register("vaco/Recall-v0", entry_point=Recall)
