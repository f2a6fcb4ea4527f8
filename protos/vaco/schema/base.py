"""What all parts of the schema share: the base model and the number and time types.

Values are taken as they are written: text is never read as a number and `true` is never 1, because
the API server, which checks the same manifest on a cluster, would refuse both.
"""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
)
from pydantic.alias_generators import to_camel
from pydantic_core import InitErrorDetails, PydanticCustomError, ValidationError


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


def problem(at: tuple[str | int, ...], what: str, cure: str, value: object) -> InitErrorDetails:
    """Describe a problem that no single field's bound can see.

    Args:
        at: Place below the part that raises it, in YAML spelling.
        what: The cause, without a full stop.
        cure: What to do, as a sentence.
        value: What the manifest says there.

    """
    error = PydanticCustomError("cross_field", "{what}", {"what": what, "cure": cure})
    return InitErrorDetails(type=error, loc=at, input=value)


def refuse(part: BaseModel, problems: list[InitErrorDetails]) -> None:
    """Raise all problems at once, if there are any.

    Raises:
        ValidationError: With one entry per problem, each at its own place.

    """
    if problems:
        raise ValidationError.from_exception_data(type(part).__name__, problems)


def _whole(value: object) -> object:
    # YAML reads 1e6 as a float, and it is the natural way to write a million steps.
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _to_second(value: datetime) -> datetime:
    return value.astimezone(UTC).replace(microsecond=0)


Integer = Annotated[int, BeforeValidator(_whole, json_schema_input_type=int)]
"""An integer; 1e6 is one."""

Timestamp = Annotated[
    AwareDatetime,
    Field(strict=False),
    AfterValidator(_to_second),
    PlainSerializer(lambda at: at.strftime("%Y-%m-%dT%H:%M:%SZ"), return_type=str),
]
"""A time as Kubernetes writes it: UTC, whole seconds, `2026-01-31T12:00:00Z`."""
