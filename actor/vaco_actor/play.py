"""How good a policy is: whole episodes, played with its most probable actions."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from vaco.errors import UserError
from vaco_policy.core import State
from vaco_policy.policy import Policy

from vaco_actor.vector_environment import VectorEnvironment

# An episode that has not ended by then never will.
MAX_EPISODE_STEPS: Final = 1_000_000
MAX_ENVIRONMENTS: Final = 16

Observations = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Episodes:
    """Episodes that were played to their end.

    Attributes:
        returns: Undiscounted, one per episode.
        lengths: Steps, one per episode.

    """

    returns: tuple[float, ...]
    lengths: tuple[int, ...]


def _ignore(_observations: Observations) -> None:
    """Watch nothing."""


@torch.inference_mode()
def play(
    environment: VectorEnvironment,
    policy: Policy,
    episodes: int,
    stop: threading.Event,
    watch: Callable[[Observations], None] = _ignore,
) -> Episodes | None:
    """Play `episodes` episodes in environments that were not reset yet.

    Each environment plays its share, however long it takes: to count those that end first would
    favour short episodes.

    Args:
        environment: Where; not more environments than episodes.
        policy: What plays.
        episodes: How many, over all environments.
        stop: Set by whoever cannot wait for the end.
        watch: Called with the observations [B, ...] before every step.

    Returns:
        None when it was stopped.

    Raises:
        UserError: An episode does not end.

    """
    count = environment.num_envs
    share_B = np.full(count, episodes // count)
    share_B[: episodes % count] += 1
    observations = environment.observation_buffers()
    environment.reset(observations)
    seen = {name: torch.from_numpy(values) for name, values in observations.items()}
    state: State = policy.initial_state(count)
    starts = np.ones(count, np.bool_)
    return_B, length_B = np.zeros(count), np.zeros(count, np.int64)
    ended: list[list[tuple[float, int]]] = [[] for _ in range(count)]
    played_B = np.zeros(count, np.int64)
    while (played_B < share_B).any():
        if stop.is_set():
            return None
        watch(observations)
        action, _, state = policy.act(
            seen, state, None, deterministic=True, episode_start=torch.from_numpy(starts)
        )
        transition = environment.step(action.numpy(), observations)
        starts = transition.starts
        return_B += transition.rewards
        length_B += transition.valid
        if length_B.max() > MAX_EPISODE_STEPS:
            raise UserError(
                "spec.task.maxEpisodeSteps",
                f"an episode of {environment.name} takes over {MAX_EPISODE_STEPS} steps",
                "Set it, so that episodes end.",
            )
        for index in np.flatnonzero(transition.terminated | transition.truncated):
            if played_B[index] < share_B[index]:
                ended[index].append((float(return_B[index]), int(length_B[index])))
            played_B[index] += 1
            return_B[index], length_B[index] = 0.0, 0
    results = [episode for of_one in ended for episode in of_one]
    return Episodes(tuple(r for r, _ in results), tuple(n for _, n in results))
