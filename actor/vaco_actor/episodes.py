"""What each episode earned, across the fragments it is spread over."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Ended(NamedTuple):
    """Episodes that ended in a fragment.

    Attributes:
        returns: float32 [N], undiscounted.
        lengths: int32 [N], steps.

    """

    returns: npt.NDArray[np.float32]
    lengths: npt.NDArray[np.int32]


class EpisodeAccount:
    """Sums rewards and steps of the episodes that B environments are in.

    Args:
        environments: B.

    """

    def __init__(self, environments: int) -> None:
        self._return_B = np.zeros(environments)
        self._length_B = np.zeros(environments, np.int64)

    def add(self, rewards_TB: Array, done_TB: Array, valid_TB: Array) -> Ended:
        """Add T steps; return the episodes that ended in them, by environment, then by time.

        Args:
            rewards_TB: [T, B], 0 where not valid.
            done_TB: bool [T, B], True only where valid.
            valid_TB: bool [T, B].

        """
        # An episode's sum is the difference between what has accumulated in its environment by its
        # last step and by the last step of the episode before it.
        return_TB = self._return_B + np.cumsum(rewards_TB, axis=0, dtype=np.float64)
        length_TB = self._length_B + np.cumsum(valid_TB, axis=0, dtype=np.int64)
        environment_N, step_N = np.nonzero(done_TB.T)
        return_N = return_TB[step_N, environment_N]
        length_N = length_TB[step_N, environment_N]
        again_N = np.diff(environment_N, prepend=-1) == 0
        returns = return_N - np.where(again_N, np.roll(return_N, 1), 0.0)
        lengths = length_N - np.where(again_N, np.roll(length_N, 1), 0)
        # What follows an environment's last episode is all that its account goes on with.
        last_N = np.append(~again_N[1:], True)[: again_N.size]
        self._return_B, self._length_B = return_TB[-1].copy(), length_TB[-1].copy()
        self._return_B[environment_N[last_N]] -= return_N[last_N]
        self._length_B[environment_N[last_N]] -= length_N[last_N]
        return Ended(returns.astype(np.float32), lengths.astype(np.int32))
