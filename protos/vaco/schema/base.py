"""What all parts of the schema share: the base model, rules between fields, and the time type.

Values are taken as they are written: text is never read as a number and `true` is never 1, because
the API server, which checks the same manifest on a cluster, would refuse both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, ValidationError

RULE_BROKEN = "rule_broken"
"""Error type of a broken rule, beside pydantic's own types."""

RULES = "x-rules"
"""Where a part's JSON schema has its `rules`."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule does not hold.

    Attributes:
        problem: The cause with the values found, without a full stop.
        cure: What to do about it, as a sentence.

    """

    problem: str
    cure: str


@dataclass(frozen=True, slots=True)
class Cel:
    """A rule in CEL, the language in which an API server judges it.

    `self` is the part, with the defaults that the server fills in; what else may be left out is
    there or not, as `has(self.field)` tells.

    Attributes:
        holds: Expression that is true if the rule holds.
        told: What is wrong and its cure, as `Broken` has them; `{expression}` stands for its value.

    """

    holds: str
    told: str


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that must hold between fields of a part.

    Attributes:
        needs: Attributes that it looks at; it can be judged as soon as these are sound, whatever
            is wrong elsewhere in the part.
        at: Place below the part where a broken rule is told, in YAML spelling; empty for the part
            itself.
        judge: Pure function of the part that tells what is broken, or None.
        cel: The same for an API server.

    """

    needs: tuple[str, ...]
    at: tuple[str, ...]
    judge: Callable[[Any], Broken | None]
    cel: Cel


def yaml_name(name: str) -> str:
    """Spell a Python attribute as the manifest spells it (`return_` is `return`)."""
    return to_camel(name.rstrip("_"))


class Part(BaseModel):
    """A part of the manifest: immutable, without unknown fields, in camelCase outside of Python."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        alias_generator=yaml_name,
        populate_by_name=True,
    )

    rules: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        schema = handler(core_schema)
        if cls.rules:
            handler.resolve_ref_schema(schema)[RULES] = cls.rules
        return schema

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        judged = [(rule.at, rule.judge(self)) for rule in self.rules]
        errors = [_as_pydantic(at, broken) for at, broken in judged if broken is not None]
        if errors:
            raise ValidationError.from_exception_data(type(self).__name__, errors)
        return self


def _as_pydantic(at: tuple[str, ...], broken: Broken) -> InitErrorDetails:
    """Put a broken rule into the form in which pydantic reports what is wrong."""
    words = {"problem": broken.problem, "cure": broken.cure}
    error = PydanticCustomError(RULE_BROKEN, "{problem}", words)
    return InitErrorDetails(type=error, loc=at, input=None)


def _to_second(value: datetime) -> datetime:
    return value.astimezone(UTC).replace(microsecond=0)


Timestamp = Annotated[
    AwareDatetime,
    Field(strict=False),
    AfterValidator(_to_second),
    PlainSerializer(lambda at: at.strftime("%Y-%m-%dT%H:%M:%SZ"), return_type=str),
]
"""A time as Kubernetes writes it: UTC, whole seconds, `2026-01-31T12:00:00Z`."""
