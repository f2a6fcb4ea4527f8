"""From gymnasium's spaces and values to ours, and back.

What is float64 becomes float32, every discrete choice counts from zero, and nested shapes of
actions become flat: this is where the differences between environments end.
"""

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
from gymnasium import spaces as gym_spaces
from vaco.errors import UserError
from vaco_policy.spaces import (
    SINGLE_OBSERVATION,
    Box,
    Discrete,
    MultiBinary,
    MultiDiscrete,
    Spaces,
)

Array = npt.NDArray[Any]
Space = gymnasium.Space[Any]

_PATH = "spec.task.environment"


def from_gymnasium(observation: Space, action: Space) -> Spaces:
    """Describe a single environment's spaces.

    Raises:
        UserError: A space is of a kind that no policy here handles.

    """
    members = observation.spaces if isinstance(observation, gym_spaces.Dict) else None
    named = {SINGLE_OBSERVATION: observation} if members is None else dict(members)
    return Spaces(
        {name: _observation_space(name, space) for name, space in named.items()},
        _action_space(action),
    )


def _observation_space(name: str, space: Space) -> Box | Discrete | MultiBinary:
    match space:
        case gym_spaces.Box():
            return Box.of(space.shape, space.dtype, space.low, space.high)
        case gym_spaces.Discrete():
            return Discrete(int(space.n))
        case gym_spaces.MultiBinary():
            return MultiBinary(int(np.prod(space.shape)))
    raise UserError(
        _PATH,
        f"its observation '{name}' is {type(space).__name__}, which policies cannot take in",
        "Wrap it (`spec.task.wrappers`) so that it is Box, Discrete, MultiBinary or a flat Dict of "
        "these; `FlattenObservation` makes a Box of most spaces.",
    )


def _action_space(space: Space) -> Discrete | MultiDiscrete | Box:
    match space:
        case gym_spaces.Discrete():
            return Discrete(int(space.n))
        case gym_spaces.MultiDiscrete():
            return MultiDiscrete(tuple(int(n) for n in space.nvec.ravel()))
        case gym_spaces.Box() if np.issubdtype(space.dtype, np.floating):
            return Box.of(space.shape, np.float32, space.low, space.high)
    raise UserError(
        _PATH,
        f"its actions are {space}, which policies cannot give",
        "Wrap it (`spec.task.wrappers`) so that they are Discrete, MultiDiscrete or a Box of "
        "floating-point numbers.",
    )


def observation_reader(space: Space) -> Callable[[Any], Mapping[str, Array]]:
    """Return a function from an environment's observations [B, ...] to arrays by name.

    The dtype is left to whoever copies them into a buffer of the right one.
    """
    if isinstance(space, gym_spaces.Dict):
        readers = {name: _array_reader(member) for name, member in space.spaces.items()}
        return lambda values: {name: read(values[name]) for name, read in readers.items()}
    read_single = _array_reader(space)
    return lambda values: {SINGLE_OBSERVATION: read_single(values)}


def _array_reader(space: Space) -> Callable[[Any], Array]:
    if isinstance(space, gym_spaces.Discrete) and space.start != 0:
        start = int(space.start)
        return lambda values: np.asarray(values) - start
    if isinstance(space, gym_spaces.MultiBinary) and len(space.shape) > 1:
        rank = len(space.shape)
        return lambda values: _merge_last(np.asarray(values), rank)
    return np.asarray


def _merge_last(values: Array, rank: int) -> Array:
    return values.reshape(*values.shape[: values.ndim - rank], -1)


def action_writer(space: Space) -> Callable[[Array], Array]:
    """Return a function from a policy's actions, [B] or [B, A], to what the environment takes.

    Numbers outside a Box are moved to its edge; the density the policy reported stays that of the
    action as it was drawn.
    """
    match space:
        case gym_spaces.Discrete():
            return _discrete_writer(int(space.start), space.dtype)
        case gym_spaces.MultiDiscrete():
            start, shape, dtype = space.start, space.shape, space.dtype
            return lambda actions: (actions.reshape(-1, *shape) + start).astype(dtype)
        case gym_spaces.Box():
            return _box_writer(space)
    raise TypeError(f"{space} was let through by from_gymnasium")


def _discrete_writer(start: int, dtype: npt.DTypeLike) -> Callable[[Array], Array]:
    if start == 0:
        return lambda actions: actions.astype(dtype, copy=False)
    return lambda actions: actions.astype(dtype) + start


def _box_writer(space: gym_spaces.Box) -> Callable[[Array], Array]:
    # In the environment's dtype: a float64 edge rounded to float32 may lie outside of it.
    low, high, shape, dtype = space.low, space.high, space.shape, space.dtype
    return lambda actions: np.clip(actions.reshape(-1, *shape).astype(dtype), low, high)
