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
    PlainSerializer,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError

RULE_BROKEN = "rule_broken"
"""Error type of a broken rule, beside pydantic's own types."""


@dataclass(frozen=True, slots=True)
class Broken:
    """A rule does not hold.

    Attributes:
        at: Place below the part that has the rule, in YAML spelling; empty for the part itself.
        problem: The cause with the values found, without a full stop.
        cure: What to do about it, as a sentence.

    """

    at: tuple[str, ...]
    problem: str
    cure: str


@dataclass(frozen=True, slots=True)
class Rule:
    """Something that must hold between fields of a part.

    Attributes:
        needs: Attributes that it looks at; it can be judged as soon as these are sound, whatever
            is wrong elsewhere in the part.
        judge: Pure function of the part that tells what is broken, or None.

    """

    needs: tuple[str, ...]
    judge: Callable[[Any], Broken | None]


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

    @model_validator(mode="after")
    def _rules_hold(self) -> Self:
        broken = [found for rule in self.rules if (found := rule.judge(self)) is not None]
        if broken:
            errors = [as_pydantic(rule) for rule in broken]
            raise ValidationError.from_exception_data(type(self).__name__, errors)
        return self


def as_pydantic(broken: Broken) -> InitErrorDetails:
    """Put a broken rule into the form in which pydantic reports what is wrong."""
    words = {"problem": broken.problem, "cure": broken.cure}
    error = PydanticCustomError(RULE_BROKEN, "{problem}", words)
    return InitErrorDetails(type=error, loc=broken.at, input=None)


def _to_second(value: datetime) -> datetime:
    return value.astimezone(UTC).replace(microsecond=0)


Timestamp = Annotated[
    AwareDatetime,
    Field(strict=False),
    AfterValidator(_to_second),
    PlainSerializer(lambda at: at.strftime("%Y-%m-%dT%H:%M:%SZ"), return_type=str),
]
"""A time as Kubernetes writes it: UTC, whole seconds, `2026-01-31T12:00:00Z`."""
