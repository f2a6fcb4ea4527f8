"""An environment's own vectorised form: whether it can step a task, and what it is made with.

For CartPole it is the same task, only faster. For ALE's games it is another one: the single
environment shows a game as it is, the vectorised one scales, greys and stacks its screens and clips
its rewards unless told otherwise. What it is told is what the manifest says; and a game never turns
into the other kind without anybody having asked for that.
"""

import inspect
from collections.abc import Callable
from typing import Any, Final

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator
from vaco.errors import UserError
from vaco.job import GymnasiumTask

from vaco_actor.vector_environment import AnyVectorEnv

Creator = str | Callable[..., Any] | None

_ALE_FRAMES: Final = "max_num_frames_per_episode"
_ALE_FRAME_SKIP: Final = 4


def loaded(creator: Creator) -> Any:
    """Return what an environment's spec names."""
    return load_env_creator(creator) if isinstance(creator, str) else creator


def refusal(task: GymnasiumTask, spec: EnvSpec) -> str:
    """Say why the vector entry point cannot step this task; empty when it can."""
    if spec.vector_entry_point is None:
        return f"{spec.id} has no vector entry point"
    if spec.additional_wrappers:
        return f"{spec.id} is registered with wrappers, which its vector entry point leaves out"
    takes = _parameters(spec)
    if unknown := _unknown(task, takes):
        return f"the vector entry point of {spec.id} takes no {unknown}"
    if task.max_episode_steps is not None and not takes & {"max_episode_steps", _ALE_FRAMES}:
        return f"the vector entry point of {spec.id} takes no limit of steps"
    return ""


def is_chosen(task: GymnasiumTask, spec: EnvSpec) -> bool:
    """Return whether `vectorisation: auto` steps this task, without wrappers, by the entry point.

    Raises:
        UserError: It cannot, and single environments would be another task.

    """
    if spec.vector_entry_point is None:
        return False
    takes = _parameters(spec)
    if _stacks(takes) and (unknown := _unknown(task, takes)):
        raise UserError(
            "spec.task.kwargs",
            f"the vectorised form of {spec.id} takes no {unknown}, and single environments show "
            "its screens as they are",
            f"Leave out {unknown}, or say `vectorisation: sync`.",
        )
    return not refusal(task, spec)


def made(task: GymnasiumTask, spec: EnvSpec, num_envs: int, threads: int) -> AnyVectorEnv:
    """Make a task that `refusal` has nothing against.

    Raises:
        UserError: Two numbers of frames to stack.
        Exception: Whatever the entry point raises.

    """
    takes = _parameters(spec)
    if _stacks(takes) and task.kwargs.get("stack_num", task.frame_stack) != task.frame_stack:
        raise UserError(
            "spec.task.kwargs",
            f"stack_num {task.kwargs['stack_num']}, but frameStack is {task.frame_stack}",
            "Leave it out, and set `spec.task.frameStack`.",
        )
    kwargs: dict[str, Any] = dict(task.kwargs)
    if "num_threads" in takes:
        kwargs.setdefault("num_threads", threads)
    if _stacks(takes):
        kwargs["stack_num"] = task.frame_stack
    if "reward_clipping" in takes:
        kwargs.setdefault("reward_clipping", False)
    if task.max_episode_steps is not None and "max_episode_steps" in takes:
        kwargs["max_episode_steps"] = task.max_episode_steps
    elif task.max_episode_steps is not None:
        skip = int(kwargs.get("frameskip", spec.kwargs.get("frameskip", _ALE_FRAME_SKIP)))
        kwargs[_ALE_FRAMES] = task.max_episode_steps * skip
    return gymnasium.make_vec(spec.id, num_envs, vectorization_mode="vector_entry_point", **kwargs)


def frames_left(task: GymnasiumTask, spec: EnvSpec) -> int:
    """Return how many observations are still to be stacked: 1 if the entry point does it.

    It does it better: before it leaves out frames.
    """
    return 1 if _stacks(_parameters(spec)) else task.frame_stack


def _stacks(takes: set[str]) -> bool:
    return "stack_num" in takes


def _unknown(task: GymnasiumTask, takes: set[str]) -> str:
    return ", ".join(sorted(task.kwargs.keys() - takes))


def _parameters(spec: EnvSpec) -> set[str]:
    return set(inspect.signature(loaded(spec.vector_entry_point)).parameters)
