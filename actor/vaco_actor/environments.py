"""From a task to many environments of it: what they are made of, and what steps them.

`vectorisation: auto` takes the first of these that the task allows:

1. the environment's own vector entry point (CartPole, every Atari game): steps all environments in
   one call. Allowed when there are no wrappers and it takes the task's `kwargs`; a game that has no
   wrappers must have such `kwargs`, because single ones would be another task.
2. envpool, for gymnasium's MuJoCo tasks: C++ threads. Allowed when there are no wrappers and no
   `kwargs`. It costs seconds to import, so nothing is taken from it that gymnasium steps well.
3. sync: one environment after the other.

Worker processes (async) are never chosen by themselves: several actors use several cores better,
because they need not wait for the slowest environment at every step.
"""

import importlib
import importlib.util
import re
from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode
from vaco.errors import UserError, did_you_mean
from vaco.job import GymnasiumTask, Wrapper
from vaco_policy.spaces import Spaces

from vaco_actor import vector_entry_point
from vaco_actor.imports import import_all
from vaco_actor.vector_environment import AnyVectorEnv, VectorEnvironment

_AnyEnv = gymnasium.Env[Any, Any]
_AnyWrapper = gymnasium.Wrapper[Any, Any, Any, Any]

_ENVPOOL_MUJOCO = re.compile(
    r"(Ant|HalfCheetah|Hopper|Humanoid|HumanoidStandup|InvertedDoublePendulum|InvertedPendulum"
    r"|Pusher|Reacher|Swimmer|Walker2d)-v[45]"
)

# A seed for each environment is counted up from one, and C++ environments keep it in 31 bits.
_SEEDS = 2**31 - 2**12


def make_vector_env(
    task: GymnasiumTask,
    num_envs: int,
    seed: int,
    *,
    threads: int = 1,
    render: bool = False,
) -> VectorEnvironment:
    """Make `num_envs` environments of `task`.

    Args:
        task: What to make.
        num_envs: B.
        seed: Any integer; all environments derive theirs from it.
        threads: CPU threads of what steps environments in threads of its own.
        render: Make environments that draw pictures (`VectorEnvironment.render`), one by one.

    Raises:
        UserError: Unknown environment, import, wrapper or keyword argument, or an environment that
            no policy here handles. Its path is the field of the manifest to mend.

    """
    import_all(task.imports)
    seed %= _SEEDS
    if task.vectorisation == "envpool" and not render:
        return _envpool(task, num_envs, seed, threads)
    spec = _find(task.environment)
    match _choose(task, spec, render):
        case "envpool":
            return _envpool(task, num_envs, seed, threads)
        case "vectorEntryPoint":
            return _entry_point(task, spec, num_envs, seed, threads)
        case chosen:
            return _single_environments(task, num_envs, seed, chosen, render)


def probe_spaces(task: GymnasiumTask) -> Spaces:
    """Return the spaces a policy for `task` is built for.

    Raises:
        UserError: As `make_vector_env` does.

    """
    with make_vector_env(task, 1, 0) as environment:
        return environment.spaces


def draws(task: GymnasiumTask) -> bool:
    """Return whether single environments of `task` can draw pictures of themselves.

    Raises:
        UserError: Unknown environment or import.

    """
    import_all(task.imports)
    creator = vector_entry_point.loaded(_find(task.environment).entry_point)
    metadata = getattr(creator, "metadata", None) or {}
    return "rgb_array" in metadata.get("render_modes", ())


def _find(environment: str) -> EnvSpec:
    if environment.startswith("ALE/"):
        import_all(["ale_py"])
    spec = gymnasium.registry.get(environment)
    if spec is None:
        raise UserError(
            "spec.task.environment",
            f"'{environment}' is not the id of an environment",
            did_you_mean(environment, gymnasium.registry)
            + "An environment of your own is registered by a module named in `spec.task.imports`.",
        )
    return spec


def _choose(task: GymnasiumTask, spec: EnvSpec, render: bool) -> str:
    if render or task.wrappers:
        return "async" if task.vectorisation == "async" and not render else "sync"
    if task.vectorisation != "auto":
        return task.vectorisation
    if vector_entry_point.is_chosen(task, spec):
        return "vectorEntryPoint"
    if _ENVPOOL_MUJOCO.fullmatch(spec.id) and not task.kwargs and _is_installed("envpool"):
        return "envpool"
    return "sync"


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _entry_point(
    task: GymnasiumTask, spec: EnvSpec, num_envs: int, seed: int, threads: int
) -> VectorEnvironment:
    refusal = vector_entry_point.refusal(task, spec)
    if refusal:
        raise UserError("spec.task.vectorisation", f"vectorEntryPoint, but {refusal}", "Use sync.")
    env = _made(task, lambda: vector_entry_point.made(task, spec, num_envs, threads))
    return VectorEnvironment(env, spec.id, vector_entry_point.frames_left(task, spec), seed)


def _single_environments(
    task: GymnasiumTask, num_envs: int, seed: int, mode: str, render: bool
) -> VectorEnvironment:
    kwargs: dict[str, Any] = {"disable_env_checker": True, **task.kwargs}
    if task.max_episode_steps is not None:
        kwargs["max_episode_steps"] = task.max_episode_steps
    if render:
        kwargs["render_mode"] = "rgb_array"
    wrappers = [_wrapper(index, wrapper) for index, wrapper in enumerate(task.wrappers)]
    env = _made(
        task,
        lambda: gymnasium.make_vec(
            task.environment,
            num_envs,
            vectorization_mode=mode,
            vector_kwargs={"autoreset_mode": AutoresetMode.SAME_STEP},
            wrappers=wrappers,
            **kwargs,
        ),
    )
    return VectorEnvironment(env, task.environment, task.frame_stack, seed)


def _wrapper(index: int, wrapper: Wrapper) -> Callable[[_AnyEnv], _AnyWrapper]:
    path = f"spec.task.wrappers.{index}"
    module_name, _, class_name = wrapper.name.rpartition(":")
    module = gymnasium.wrappers
    if module_name:
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise UserError(path, f"cannot import {module_name}: {error}") from error
    cls = getattr(module, class_name, None)
    if cls is None:
        raise UserError(
            path,
            f"{module.__name__} has no wrapper '{class_name}'",
            did_you_mean(class_name, dir(module)) + "Name one of your own as `module:Class`.",
        )

    def wrap(env: _AnyEnv) -> _AnyWrapper:
        try:
            wrapped: _AnyWrapper = cls(env, **wrapper.kwargs)
        except (TypeError, ValueError, AssertionError) as error:
            raise UserError(path, f"{class_name} does not go around {env}: {error}") from error
        return wrapped

    return wrap


def _envpool(task: GymnasiumTask, num_envs: int, seed: int, threads: int) -> VectorEnvironment:
    if not _is_installed("envpool"):
        raise UserError("spec.task.vectorisation", "envpool, which is not installed", "Use sync.")
    import envpool

    if task.environment not in envpool.list_all_envs():
        raise UserError(
            "spec.task.environment",
            f"envpool has no '{task.environment}'",
            did_you_mean(task.environment, envpool.list_all_envs())
            + "`vectorisation: sync` makes it by gymnasium.",
        )
    kwargs: dict[str, Any] = {"num_threads": min(threads, num_envs), **task.kwargs}
    if task.max_episode_steps is not None:
        kwargs["max_episode_steps"] = task.max_episode_steps
    make: Any = envpool.make_gymnasium
    env = _made(task, lambda: make(task.environment, num_envs=num_envs, seed=seed, **kwargs))
    return VectorEnvironment(env, task.environment, task.frame_stack, None)


def _made(task: GymnasiumTask, make: Callable[[], AnyVectorEnv]) -> AnyVectorEnv:
    """Call `make`; whatever an environment's constructor raises is about the manifest."""
    try:
        return make()
    except UserError:
        raise
    except gymnasium.error.DependencyNotInstalled as error:
        raise UserError("spec.task.environment", f"{task.environment}: {error}") from error
    except Exception as error:
        at = "spec.task.kwargs" if task.kwargs else "spec.task.environment"
        kind = type(error).__name__
        raise UserError(at, f"{task.environment} could not be made: {kind}: {error}") from error
