"""What stands behind a word that is no choice: an `algorithm.name` that there is not, say.

Pydantic looks at no field of a part whose tag is wrong. Here the manifest is judged once more as if
each such tag were the choice that is nearest to it, so that the part's other problems are told in
the same go.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from vaco.errors import nearest
from vaco.schema.base import Part
from vaco.schema.sound import Place
from vaco.schema.tree import Node

WRONG_TAG: Final = "union_tag_invalid"
MAX_GUESSES: Final = 16
"""More tags than any manifest has."""

Locate = Callable[[ErrorDetails], tuple[Place, Node]]


def with_guessed_tags(
    model: type[Part], document: Mapping[str, Any], error: ValidationError, locate: Locate
) -> tuple[Mapping[str, Any], list[ErrorDetails]]:
    """Judge a manifest with all its tags, wrong ones guessed.

    Args:
        model: What the manifest should be.
        document: The manifest.
        error: What pydantic found in it.
        locate: Tells where a finding is, and the field.

    Returns:
        The manifest with its tags as guessed, and all that is wrong with the given one.

    """
    guessed: dict[str, Any] = copy.deepcopy(dict(document))
    found = error.errors(include_url=False)
    tags: list[ErrorDetails] = []
    unsure: dict[Place, Node] = {}
    for _ in range(MAX_GUESSES):
        wrong = [each for each in found if each["type"] == WRONG_TAG]
        if not wrong:
            break
        tags += wrong
        for each in wrong:
            place, node = locate(each)
            if _guess(guessed, place, node, str(each["ctx"]["tag"])):
                unsure[place] = node
        found = _judged(model, guessed)
    return guessed, [*tags, *(each for each in found if not _of_a_guess(each, locate, unsure))]


def _guess(document: dict[str, Any], place: Place, node: Node, said: str) -> bool:
    """Set the tag of the part at `place`; returns whether it is no more than its default."""
    part: Any = document
    for step in place:
        part = part[step]
    near = nearest(said, node.variants)
    part[node.tag] = near or next(iter(node.variants))
    return near is None


def _judged(model: type[Part], document: Mapping[str, Any]) -> list[ErrorDetails]:
    try:
        model.model_validate(document, by_alias=True, by_name=False)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


def _of_a_guess(error: ErrorDetails, locate: Locate, unsure: Mapping[Place, Node]) -> bool:
    """Whether it is only wrong because a tag was set to its default for want of a better guess."""
    place, _ = locate(error)
    node = unsure.get(place[:-1])
    if node is None:
        return False
    if error["type"] == "extra_forbidden":
        return any(place[-1] in variant.fields for variant in node.variants.values())
    return error["type"] == "missing"
