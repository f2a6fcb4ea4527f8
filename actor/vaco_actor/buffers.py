"""The arrays one fragment is written into, step by step.

They are allocated once per fragment, before its first step, and then belong to the fragment:
nothing is copied at its end, and nothing that was handed over is written again.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from vaco_policy.spaces import Box, Discrete, action_size

from vaco_actor.vector_environment import Transition, VectorEnvironment

Array = npt.NDArray[Any]


class FragmentBuffers:
    """Room for T steps of B environments.

    Attributes:
        observations: by name, [T+1, B, ...].
        actions: [T, B] or [T, B, A].
        rewards: float32 [T, B].
        terminated: bool [T, B].
        truncated: bool [T, B].
        valid: bool [T, B].
        behaviour_logp: float32 [T, B].
        versions: int64 [T].
        episode_start: bool [T+1, B].

    """

    def __init__(self, environment: VectorEnvironment, length: int) -> None:
        steps = (length, environment.num_envs)
        action = environment.spaces.action
        shape = steps if isinstance(action, Discrete) else (*steps, action_size(action))
        self.observations = environment.observation_buffers(length + 1)
        self.actions = np.empty(shape, np.float32 if isinstance(action, Box) else np.int64)
        self.rewards = np.empty(steps, np.float32)
        self.terminated = np.empty(steps, np.bool_)
        self.truncated = np.empty(steps, np.bool_)
        self.valid = np.empty(steps, np.bool_)
        self.behaviour_logp = np.empty(steps, np.float32)
        self.versions = np.empty(length, np.int64)
        self.episode_start = np.empty((length + 1, steps[1]), np.bool_)
        # Views for every step, made at once: making one costs as much as a small network's layer.
        tensors = {name: torch.from_numpy(a).unbind() for name, a in self.observations.items()}
        self._seen = [
            {name: views[t] for name, views in tensors.items()} for t in range(length + 1)
        ]
        self._starts = torch.from_numpy(self.episode_start).unbind()
        self._final_steps: list[Array] = []
        self._final_observations: list[Mapping[str, Array]] = []

    def begin(self, observations: Mapping[str, Array], episode_start_B: Array) -> None:
        """Write what is seen before step 0."""
        for name, values in observations.items():
            self.observations[name][0] = values
        self.episode_start[0] = episode_start_B

    def seen(self, t: int) -> tuple[Mapping[str, Tensor], Tensor]:
        """Return the observations before step t, and where they are the first of an episode."""
        return self._seen[t], self._starts[t]

    def next_observations(self, t: int) -> dict[str, Array]:
        """Return the views into which the observations after step t belong."""
        return {name: values[t + 1] for name, values in self.observations.items()}

    def write(self, t: int, transition: Transition) -> None:
        """Write what step t gave."""
        self.rewards[t] = transition.rewards
        self.terminated[t] = transition.terminated
        self.truncated[t] = transition.truncated
        self.valid[t] = transition.valid
        self.episode_start[t + 1] = transition.starts
        finals = transition.finals
        if finals is not None:
            self._final_steps.append(t * self.valid.shape[1] + finals.environments)
            self._final_observations.append(finals.observations)

    def cut(self, length: int) -> None:
        """Keep the first `length` steps, with the observations after the last of them."""
        for name in ("actions", "rewards", "terminated", "truncated", "valid", "versions"):
            setattr(self, name, getattr(self, name)[:length])
        self.behaviour_logp = self.behaviour_logp[:length]
        self.episode_start = self.episode_start[: length + 1]
        self.observations = {name: a[: length + 1] for name, a in self.observations.items()}

    def finals(self) -> tuple[dict[str, Array], Array]:
        """Return final observations by name, [N, ...], and their flat steps, int32 [N].

        No names are there when N is 0.
        """
        if not self._final_steps:
            return {}, np.empty(0, np.int32)
        gathered = {
            name: np.concatenate([finals[name] for finals in self._final_observations])
            for name in self.observations
        }
        return gathered, np.concatenate(self._final_steps).astype(np.int32)
