"""What a job's fragments must look like, and the check that every one of them passes.

`Fragment.decode` proves that a fragment is well-formed; the spec, which the learner
derives from the policy's spaces, proves that it can be trained on. A single NaN would
otherwise reach every weight within one update.
"""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from vaco.fragment import Fragment
from vaco.incoming import IncomingFragment
from vaco.tensors import Array, MalformedFragment

# A density cannot be this small or large in float32 without a fault in the policy.
MAX_LOGP: Final = 1e6

_STEP_BYTES: Final = 5 * 4 + 4  # reward, log-density, final step, return, length; and four flags
_ENVIRONMENT_BYTES: Final = 1 + 4  # the last episode_start, return_carry
_VERSION_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One array, without the dimensions that all of a fragment's arrays share.

    Attributes:
        shape: e.g. (84, 84, 4) of an image, () of a discrete action.
        dtype: NumPy's name for it, e.g. `float32`.
        counts: of integers that choose among so many: each is in [0, count). One count, or
            one for each entry of the last dimension; empty: any value.

    """

    shape: tuple[int, ...]
    dtype: str
    counts: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of one entry."""
        return math.prod(self.shape) * _dtype(self.dtype).itemsize

    def check(self, field: str, array: Array, leading: tuple[int, ...]) -> None:
        """Check an array of shape `leading` + `shape`.

        Raises:
            MalformedFragment: wrong shape or dtype, NaN or infinity, or out of range.

        """
        shape = leading + self.shape
        if array.shape != shape:
            raise MalformedFragment(field, f"shape {array.shape}, expected {shape}")
        if array.dtype != _dtype(self.dtype):
            raise MalformedFragment(field, f"dtype {array.dtype}, expected {self.dtype}")
        if self.counts:
            self._check_counts(field, array)
        else:
            check_finite(field, array)

    def _check_counts(self, field: str, array: Array) -> None:
        if array.size == 0:
            return
        # Seen as unsigned, what is negative is larger than any count.
        unsigned = array.view(_dtype(f"u{array.dtype.itemsize}"))
        leading = None if len(self.counts) == 1 else tuple(range(array.ndim - 1))
        largest = np.maximum.reduce(unsigned, leading)
        if np.logical_and.reduce(largest < np.asarray(self.counts), None):
            return
        value = array[(array < 0) | (array >= np.asarray(self.counts))][0]
        raise MalformedFragment(field, f"{value} is not below {self.counts} or is negative")


@functools.cache
def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(name)


@dataclass(frozen=True, slots=True)
class FragmentSpec:
    """What the fragments of one job must look like.

    Attributes:
        observations: by name, without [T+1, B].
        action: without [T, B]; `counts` of a discrete one.
        core_state: by name, without [B]; empty without a recurrent core.
        max_length: bound of T.
        max_environments: bound of B.
        reward_bound: largest magnitude of a reward.

    """

    observations: Mapping[str, ArraySpec]
    action: ArraySpec
    core_state: Mapping[str, ArraySpec]
    max_length: int
    max_environments: int
    reward_bound: float

    def check(self, fragment: Fragment) -> None:
        """Check everything that training on `fragment` relies on.

        Raises:
            MalformedFragment: naming the field and what is wrong with it.

        """
        steps = (fragment.length, fragment.environments)
        if steps[0] > self.max_length:
            raise MalformedFragment("length", f"{steps[0]} is over {self.max_length}")
        if steps[1] > self.max_environments:
            raise MalformedFragment("environments", f"{steps[1]} is over {self.max_environments}")
        self._check_spaces(fragment)
        check_magnitude("rewards", fragment.rewards, self.reward_bound)
        check_magnitude("behaviour_logp", fragment.behaviour_logp, MAX_LOGP)
        check_finite("return_carry", fragment.return_carry)
        check_finite("episode_returns", fragment.episode_returns)
        if fragment.episode_lengths.size > 0 and int(fragment.episode_lengths.min()) < 1:
            raise MalformedFragment("episode_lengths", "an episode without a step")
        if not (math.isfinite(fragment.rollout_seconds) and fragment.rollout_seconds >= 0):
            raise MalformedFragment("rollout_seconds", f"{fragment.rollout_seconds} is no duration")
        _check_final_steps(fragment)
        if fragment.samples == 0:
            raise MalformedFragment("valid", "none of its steps is a sample")

    def decode(self, incoming: IncomingFragment) -> Fragment:
        """Return the fragment, checked: it can be trained on.

        Raises:
            MalformedFragment: naming the field and what is wrong with it.

        """
        fragment = Fragment.decode(incoming)
        self.check(fragment)
        return fragment

    @property
    def max_samples(self) -> int:
        """Bound of one fragment's samples."""
        return self.max_length * self.max_environments

    @property
    def max_bytes(self) -> int:
        """Bytes of the arrays of the largest fragment that passes."""
        steps = self.max_length * self.max_environments
        observation = sum(spec.nbytes for spec in self.observations.values())
        state = sum(spec.nbytes for spec in self.core_state.values())
        # Every step may be the last of an episode, and then bring its final observation.
        each_step = 2 * observation + self.action.nbytes + _STEP_BYTES
        each_environment = observation + state + _ENVIRONMENT_BYTES
        return (
            steps * each_step
            + self.max_environments * each_environment
            + self.max_length * _VERSION_BYTES
        )

    def _check_spaces(self, fragment: Fragment) -> None:
        steps = (fragment.length, fragment.environments)
        next_steps = (fragment.length + 1, fragment.environments)
        _check_named("observations", self.observations, fragment.observations, next_steps)
        self.action.check("actions", fragment.actions, steps)
        _check_named("core_state", self.core_state, fragment.core_state, (fragment.environments,))
        if fragment.final_steps.size > 0 or fragment.final_observations:
            _check_named(
                "final_observations",
                self.observations,
                fragment.final_observations,
                fragment.final_steps.shape,
            )


def check_finite(field: str, array: Array) -> None:
    """Refuses NaN and infinity in a floating-point array.

    Raises:
        MalformedFragment: with the flat index of the first one.

    """
    if array.dtype.kind != "f":
        return
    finite = np.isfinite(array).reshape(-1)  # a reduction of one dimension is the quickest
    if not np.logical_and.reduce(finite):
        index = int(np.argmin(finite))
        value = array.reshape(-1)[index]
        raise MalformedFragment(field, f"{value} at flat index {index}")


def check_magnitude(field: str, array: Array, bound: float) -> None:
    """Refuse magnitudes over `bound`, NaN and infinity.

    Raises:
        MalformedFragment: naming the worst.

    """
    largest = float(np.maximum.reduce(np.abs(array).reshape(-1)))
    if not largest <= bound:  # NaN is neither over nor under it
        raise MalformedFragment(field, f"a magnitude of {largest:g} is over {bound:g}")


def _check_named(
    field: str,
    specs: Mapping[str, ArraySpec],
    arrays: Mapping[str, Array],
    leading: tuple[int, ...],
) -> None:
    if specs.keys() != arrays.keys():
        raise MalformedFragment(field, f"names {sorted(arrays)}, expected {sorted(specs)}")
    for name, spec in specs.items():
        spec.check(f"{field}[{name}]", arrays[name], leading)


def _check_final_steps(fragment: Fragment) -> None:
    """Refuse final observations of steps that are not truncated, and missing ones."""
    final_steps = fragment.final_steps
    if final_steps.size == 0 and not np.logical_or.reduce(fragment.truncated, None):
        return
    truncated = (fragment.truncated & fragment.valid).reshape(-1)
    if final_steps.size > 0:
        if int(final_steps.min()) < 0 or int(final_steps.max()) >= truncated.size:
            raise MalformedFragment("final_steps", f"not all in 0..{truncated.size - 1}")
        if not (np.diff(final_steps) > 0).all():
            raise MalformedFragment("final_steps", "not strictly ascending")
        if not truncated[final_steps].all():
            raise MalformedFragment("final_steps", "a step that is not a truncated, valid one")
    needed = truncated & ~fragment.terminated.reshape(-1)
    needed &= fragment.episode_start[1:].reshape(-1)
    needed[final_steps] = False
    if needed.any():
        problem = f"step {int(np.argmax(needed))} is truncated, its final observation is missing"
        raise MalformedFragment("final_steps", problem)
