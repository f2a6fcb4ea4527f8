"""What a policy sees and does, described without gymnasium.

An actor describes its environment's spaces once, as JSON in its Hello; the learner builds the
policy from that, and every later actor must bring the same text. The text is therefore canonical
(one text for one meaning) and, because it comes from the wire, bounded and strict.

Actions are flat: [B] int64 for `Discrete`, [B, A] int64 for `MultiDiscrete`, [B, A] float32 for
`Box`, where A is the number of elements. Everything discrete counts from zero. An observation that
is not a mapping has the one name "observation".
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass
from vaco.errors import UserError
from vaco.job import ActorCriticPolicy, Core, RolloutSpec
from vaco.trajectory import ArraySpec, FragmentSpec

SINGLE_OBSERVATION = "observation"
"""Name of an observation that is not a mapping."""

MAX_JSON_CHARACTERS = 1 << 20
_MAX_ELEMENTS = 1 << 24
_MAX_CHOICES = 1 << 16
_MAX_BOUNDS = 4096
_MAX_ENTRIES = 64

_CONFIG = ConfigDict(extra="forbid", strict=True)

BoxDType = Literal["uint8", "int8", "int32", "int64", "float32"]

_BOX_DTYPES: dict[str, BoxDType] = {
    "bool": "uint8",
    "uint8": "uint8",
    "int8": "int8",
    "int16": "int32",
    "uint16": "int32",
    "int32": "int32",
    "uint32": "int64",
    "int64": "int64",
    "float16": "float32",
    "float32": "float32",
    "float64": "float32",
}

_Name = Annotated[str, Field(min_length=1, max_length=128)]
_Extent = Annotated[int, Field(ge=1, le=_MAX_ELEMENTS)]
_Shape = Annotated[
    tuple[_Extent, ...], Field(max_length=6), BeforeValidator(lambda v: _as_tuple(v))
]
_Choices = Annotated[int, Field(ge=1, le=_MAX_CHOICES)]
_Bounds = Annotated[
    tuple[float, ...],
    Field(min_length=1, max_length=_MAX_BOUNDS),
    PlainSerializer(lambda bounds: [b if math.isfinite(b) else None for b in bounds]),
]


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _unbounded_as(infinity: float) -> BeforeValidator:
    """JSON has no infinity: an absent bound is null there."""

    def replace(value: object) -> object:
        if not isinstance(value, list | tuple):
            return value
        return tuple(infinity if bound is None else bound for bound in value)

    return BeforeValidator(replace)


@dataclass(frozen=True, config=_CONFIG)
class Box:
    """An array of numbers. `low` and `high` hold one bound for all elements, or one for each.

    As an action it is a vector of A = prod(shape) numbers; the policy's Gaussian does not know the
    bounds, the actor clips at them.
    """

    shape: _Shape
    dtype: BoxDType = "float32"
    low: Annotated[_Bounds, _unbounded_as(-math.inf)] = (-math.inf,)
    high: Annotated[_Bounds, _unbounded_as(math.inf)] = (math.inf,)
    type: Literal["box"] = "box"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.size > _MAX_ELEMENTS:
            raise ValueError(f"shape {self.shape} has more than {_MAX_ELEMENTS} elements")
        for name, bounds in (("low", self.low), ("high", self.high)):
            if len(bounds) not in (1, self.size):
                raise ValueError(f"{name} has {len(bounds)} bounds for {self.size} elements")
            if any(math.isnan(bound) for bound in bounds):
                raise ValueError(f"{name} is not a number")
        return self

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @classmethod
    def of(
        cls,
        shape: Sequence[int],
        dtype: npt.DTypeLike,
        low: npt.ArrayLike = -np.inf,
        high: npt.ArrayLike = np.inf,
    ) -> "Box":
        """Describe a box in canonical form, from bounds as gymnasium has them (any shape).

        Equal bounds become one. More than 4096 different ones (a large image) are described by
        their envelope: they inform, nothing is clipped at them.

        Raises:
            UserError: The dtype is not one that travels.

        """
        return cls(
            tuple(int(extent) for extent in shape),
            observation_dtype(dtype),
            _compact(low, min),
            _compact(high, max),
        )


def _compact(bounds: npt.ArrayLike, envelope: Any) -> tuple[float, ...]:
    values = tuple(float(bound) for bound in np.asarray(bounds, dtype=np.float64).ravel())
    if len(set(values)) == 1:
        return values[:1]
    return (envelope(values),) if len(values) > _MAX_BOUNDS else values


def observation_dtype(dtype: npt.DTypeLike) -> BoxDType:
    """Return the dtype in which a `Box` of `dtype` travels (float64 is sent as float32).

    Raises:
        UserError: There is none (complex numbers, objects, text).

    """
    name = np.dtype(dtype).name
    if name not in _BOX_DTYPES:
        raise UserError("spaces", f"a box of dtype {name} cannot be sent", "use a numeric dtype")
    return _BOX_DTYPES[name]


@dataclass(frozen=True, config=_CONFIG)
class Discrete:
    """One of `n` choices, 0 to n-1 (int64)."""

    n: _Choices
    type: Literal["discrete"] = "discrete"


@dataclass(frozen=True, config=_CONFIG)
class MultiDiscrete:
    """One choice per dimension: element i is one of 0 to nvec[i]-1 (int64)."""

    nvec: Annotated[
        tuple[_Choices, ...], Field(min_length=1, max_length=1024), BeforeValidator(_as_tuple)
    ]
    type: Literal["multiDiscrete"] = "multiDiscrete"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(self.nvec) * max(self.nvec) > _MAX_CHOICES:
            raise ValueError(f"dimensions x choices is over {_MAX_CHOICES}")
        return self


@dataclass(frozen=True, config=_CONFIG)
class MultiBinary:
    """A vector of `n` zeros and ones (int8)."""

    n: _Choices
    type: Literal["multiBinary"] = "multiBinary"


ObservationSpace = Annotated[Box | Discrete | MultiBinary, Field(discriminator="type")]
ActionSpace = Annotated[Discrete | MultiDiscrete | Box, Field(discriminator="type")]


def _by_name(value: object) -> object:
    return dict(sorted(value.items())) if isinstance(value, Mapping) else value


@dataclass(frozen=True, config=_CONFIG)
class Spaces:
    """An environment's observation (by name, in the order of the names) and action space.

    Example:
        >>> Spaces({"observation": Box((4,))}, Discrete(2))

    """

    observation: Annotated[
        dict[_Name, ObservationSpace],
        Field(min_length=1, max_length=_MAX_ENTRIES),
        BeforeValidator(_by_name),
    ]
    action: ActionSpace

    @model_validator(mode="after")
    def _check(self) -> Self:
        action = self.action
        if isinstance(action, Box) and (action.dtype != "float32" or action.size > _MAX_BOUNDS):
            raise ValueError(f"a Box action is float32 with at most {_MAX_BOUNDS} elements")
        return self

    def to_json(self) -> str:
        """Return the canonical text: equal spaces have equal texts."""
        document = _ADAPTER.dump_python(self, mode="json")
        return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Spaces":
        """Read what `to_json` wrote.

        Raises:
            UserError: The text is too long, is not JSON, or describes no space we know.

        """
        if len(text) > MAX_JSON_CHARACTERS:
            raise UserError("spaces", f"the text has over {MAX_JSON_CHARACTERS} characters")
        try:
            return _ADAPTER.validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            path = ".".join(["spaces", *(str(part) for part in first["loc"])])
            raise UserError(path, first["msg"], "send what Spaces.to_json writes") from error


_ADAPTER: TypeAdapter[Spaces] = TypeAdapter(Spaces)


def action_size(space: Discrete | MultiDiscrete | Box) -> int:
    """Return the number of elements of one action: A of [B, A], 1 for `Discrete`."""
    if isinstance(space, Discrete):
        return 1
    return len(space.nvec) if isinstance(space, MultiDiscrete) else space.size


def fragment_spec(
    spaces: Spaces, policy: ActorCriticPolicy, rollout: RolloutSpec, reward_bound: float
) -> FragmentSpec:
    """Return what every fragment of a job must look like.

    Args:
        spaces: Of the job's environment.
        policy: `spec.policy`, whose core decides which state travels.
        rollout: `spec.rollout`, the bounds of T and B.
        reward_bound: `spec.task.rewardBound`.

    """
    core = policy.core
    names = core_state_names(core)
    return FragmentSpec(
        observations={name: _observation_array(of) for name, of in spaces.observation.items()},
        action=_action_array(spaces.action),
        core_state={name: ArraySpec((core.hidden_size,), "float32") for name in names}
        if core
        else {},
        max_length=rollout.fragment_length,
        max_environments=rollout.environments_per_actor,
        reward_bound=reward_bound,
    )


def core_state_names(core: Core | None) -> tuple[str, ...]:
    """Return the names of the arrays that make up a recurrent core's state."""
    if core is None:
        return ()
    return ("hidden",) if core.type == "gru" else ("hidden", "cell")


def _observation_array(space: Box | Discrete | MultiBinary) -> ArraySpec:
    if isinstance(space, Box):
        return ArraySpec(space.shape, space.dtype)
    if isinstance(space, Discrete):
        return ArraySpec((), "int64", (space.n,))
    return ArraySpec((space.n,), "int8", (2,))


def _action_array(space: Discrete | MultiDiscrete | Box) -> ArraySpec:
    if isinstance(space, Discrete):
        return ArraySpec((), "int64", (space.n,))
    if isinstance(space, MultiDiscrete):
        return ArraySpec((len(space.nvec),), "int64", space.nvec)
    return ArraySpec((space.size,), "float32")
