"""What is to be learned: an environment, and how an actor builds many of it; or problems."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, JsonValue

from vaco.schema.base import Broken, Cel, Part, Rule
from vaco.schema.imports import Import
from vaco.schema.language_task import LanguageModelTask

Vectorisation = Literal["auto", "vectorEntryPoint", "sync", "async", "envpool"]


class Wrapper(Part):
    """A gymnasium wrapper around every single environment."""

    name: str = Field(
        min_length=1,
        max_length=256,
        pattern=r"^[A-Za-z_][A-Za-z0-9_.]*(:[A-Za-z_][A-Za-z0-9_]*)?$",
        description="A class of `gymnasium.wrappers` (`AtariPreprocessing`) or any importable "
        "class as `module:Class`.",
    )
    kwargs: dict[str, JsonValue] = Field(
        default={}, description="Keyword arguments of the wrapper."
    )


def _wrappable(task: "GymnasiumTask") -> Broken | None:
    if task.wrappers and task.vectorisation in ("vectorEntryPoint", "envpool"):
        return Broken(
            f"{task.vectorisation} has no single environments that `wrappers` could go around",
            "Leave out `wrappers`, or choose auto, sync or async.",
        )
    return None


class GymnasiumTask(Part):
    """A task given by a gymnasium environment."""

    type: Literal["gymnasium"] = Field(default="gymnasium", description="Kind of task.")
    environment: str = Field(
        min_length=1,
        max_length=256,
        description="Id of the environment as gymnasium registers it, for example `CartPole-v1`, "
        "`ALE/Pong-v5` or `HalfCheetah-v5`.",
    )
    imports: list[Import] = Field(
        default=[],
        max_length=32,
        description="What is imported before the environment is made, because it registers it: the "
        "name of an installed module (`ale_py`), or a Python file (`memory.py`). A file's path is "
        "relative to the manifest; on a cluster, give its absolute path in the actors' image.",
    )
    kwargs: dict[str, JsonValue] = Field(
        default={},
        description="Keyword arguments of the environment, as `gymnasium.make` takes them, or its "
        "vectorised form. Points of ALE's games are only clipped with `reward_clipping: true`.",
    )
    wrappers: list[Wrapper] = Field(
        default=[],
        max_length=32,
        description="Wrappers around every single environment, the innermost first.",
    )
    vectorisation: Vectorisation = Field(
        default="auto",
        description="How an actor steps many environments at once. `vectorEntryPoint`: the "
        "environment's own vectorised form; `sync`: one after the other; `async`: in worker "
        "processes; `envpool`: envpool's C++ threads; `auto`: the fastest that this environment, "
        "its kwargs and its wrappers allow. ALE's games scale and grey their screens in their "
        "vectorised form only, which is what `auto` takes unless there are wrappers.",
    )
    frame_stack: int = Field(
        default=1,
        ge=1,
        le=16,
        description="Consecutive observations that are stacked into one; 1: none are stacked.",
    )
    max_episode_steps: int | None = Field(
        default=None,
        ge=1,
        le=2**63 - 1,
        description="Steps after which an episode is truncated, in place of the environment's own "
        "limit; null: the environment's own.",
    )
    reward_bound: float = Field(
        default=1e6,
        gt=0,
        description="Largest credible absolute reward of one step. A reward beyond it, or one that "
        "is not a number, stops the run before it spoils the weights.",
    )

    rules = (
        Rule(
            ("wrappers", "vectorisation"),
            ("vectorisation",),
            _wrappable,
            Cel(
                "!has(self.wrappers) || size(self.wrappers) == 0 || !has(self.vectorisation) || "
                "!(self.vectorisation in ['vectorEntryPoint', 'envpool'])",
                "{self.vectorisation} has no single environments that `wrappers` could go around. "
                "Leave out `wrappers`, or choose auto, sync or async.",
            ),
        ),
    )


def _gymnasium_unless_said(value: object) -> object:
    return {"type": "gymnasium", **value} if isinstance(value, dict) else value


TaskSpec = Annotated[
    GymnasiumTask | LanguageModelTask,
    Field(discriminator="type"),
    BeforeValidator(_gymnasium_unless_said),
]
