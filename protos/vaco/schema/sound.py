"""Rules between fields, judged although something else in the file is wrong.

Pydantic judges what crosses fields only when every single field is sound. A manifest with a typo in
one place and a contradiction in another would then need two attempts; here the rules are judged
that look only at sound fields.
"""

from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from vaco.schema.base import Broken, Part, yaml_name

Place = tuple[str | int, ...]


def broken_rules(
    model: type[Part], document: Mapping[str, Any], unsound: frozenset[Place]
) -> Iterator[tuple[Place, Broken]]:
    """Judge every rule of a part that is not sound, and of the unsound parts below it.

    Args:
        model: What `document` was validated against, in vain.
        document: The part of the manifest.
        unsound: Where pydantic found something wrong, in YAML spelling.

    Yields:
        Each broken rule with the place where it is told, those included that pydantic saw.

    """
    sound: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        at = yaml_name(name)
        below = frozenset(place[1:] for place in unsound if place[:1] == (at,))
        part = _part_of(field, document.get(at))
        if at not in document:
            if not field.is_required() and not field.default_factory_takes_validated_data:
                sound[name] = field.get_default()
        elif below:
            if part is not None and isinstance(document[at], Mapping):
                for place, broken in broken_rules(part, document[at], below):
                    yield (at, *place), broken
        else:
            sound[name] = _validated(part, document[at])
    for rule in model.rules:
        if sound.keys() >= set(rule.needs):
            found = rule.judge(model.model_construct(**sound))
            if found is not None:
                yield rule.at, found


def _validated(part: type[Part] | None, value: Any) -> Any:
    # Validation is strict: a sound value that is no part is what the manifest says.
    return value if part is None or value is None else part.model_validate(value, by_name=False)


def _part_of(field: FieldInfo, value: object) -> type[Part] | None:
    """Find the model that a field's value is meant for."""
    candidates: list[Any] = [field.annotation]
    if get_origin(field.annotation) in (Union, UnionType):
        candidates = list(get_args(field.annotation))
    parts = [each for each in candidates if isinstance(each, type) and issubclass(each, Part)]
    if field.discriminator is None or not isinstance(value, Mapping):
        return parts[0] if parts else None
    tag = str(field.discriminator)
    said = value.get(tag, parts[0].model_fields[tag].default)
    return next((part for part in parts if part.model_fields[tag].default == said), None)
