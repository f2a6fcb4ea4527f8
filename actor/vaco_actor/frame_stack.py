"""The last k observations as one: for tasks whose single observation hides velocity.

Stacking happens here, on whole batches, so that it is the same for every kind of vectorisation.
A vector [n] becomes [k*n], anything else gets a new first axis ([H, W, C] becomes [k, H, W, C]);
the oldest frame comes first. At the start of an episode all k frames are its first observation.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from vaco.errors import UserError
from vaco_policy.spaces import Box, Discrete, MultiBinary

Array = npt.NDArray[Any]


def stacked_spaces(
    spaces: Mapping[str, Box | Discrete | MultiBinary], frames: int
) -> dict[str, Box | Discrete | MultiBinary]:
    """Return the observation space of `frames` stacked observations.

    Raises:
        UserError: An observation is no Box, or has over three dimensions.

    """
    return {name: _stacked(name, space, frames) for name, space in spaces.items()}


def _stacked(name: str, space: Box | Discrete | MultiBinary, frames: int) -> Box:
    if not isinstance(space, Box) or len(space.shape) > 3:
        raise UserError(
            "spec.task.frameStack",
            f"{frames}, but only Box observations of up to three dimensions can be stacked, and "
            f"'{name}' is {space}",
            "Set it to 1; a recurrent core (`spec.policy.core`) remembers any observation.",
        )
    if len(space.shape) == 1:
        shape: tuple[int, ...] = (frames * space.shape[0],)
    else:
        shape = (frames, *space.shape)
    low = space.low if len(space.low) == 1 else space.low * frames
    high = space.high if len(space.high) == 1 else space.high * frames
    return Box(shape, space.dtype, low, high)


class FrameStack:
    """The frames of B environments: [B, k, ...] by name, the newest one last.

    Args:
        spaces: Observation space of a single frame.
        frames: k.
        environments: B.

    """

    def __init__(
        self,
        spaces: Mapping[str, Box | Discrete | MultiBinary],
        frames: int,
        environments: int,
    ) -> None:
        self._frames = {
            name: np.zeros((environments, frames, *space.shape), dtype=space.dtype)
            for name, space in spaces.items()
            if isinstance(space, Box)
        }

    def push(self, observations: Mapping[str, Array]) -> None:
        """Append the newest observation [B, ...] of every environment."""
        for name, frames in self._frames.items():
            frames[:, :-1] = frames[:, 1:]
            frames[:, -1] = observations[name]

    def restart(self, observations: Mapping[str, Array], starts_B: npt.NDArray[np.bool_]) -> None:
        """Fill the stacks of the environments in `starts_B` with their observation in [B, ...]."""
        for name, frames in self._frames.items():
            frames[starts_B] = observations[name][starts_B, None]

    def write(self, out: Mapping[str, Array]) -> None:
        """Copy the stacks into `out`, [B, *stacked shape] by name."""
        for name, frames in self._frames.items():
            out[name][...] = frames.reshape(out[name].shape)

    def with_last(self, index: int, observation: Mapping[str, Array]) -> dict[str, Array]:
        """Return what environment `index` would show after `observation`, without pushing it."""
        return {
            name: np.concatenate([frames[index, 1:], observation[name][None]])
            for name, frames in self._frames.items()
        }
