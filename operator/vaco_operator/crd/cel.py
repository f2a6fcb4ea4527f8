"""Rules as an API server wants them: expressions, texts and field paths in CEL's spelling."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

_RESERVED: Final = frozenset(
    {
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    }
)

Validation = dict[str, Any]
"""One entry of `x-kubernetes-validations`."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field as rules refer to it.

    Attributes:
        path: Names from the part that has the rule down to the field.
        optional: Whether it may be absent although the server has filled in defaults.
        opaque: Whether CEL cannot see it, because anything may be below it.
        default: What an absent field means: an expression in which `{part}` is the part that the
            field is in; empty: nothing.

    """

    path: tuple[str, ...]
    optional: bool = False
    opaque: bool = False
    default: str = ""

    @property
    def unchanged(self) -> str:
        """Expression that is true if the field means what it meant."""
        new, old = self._of("self"), self._of("oldSelf")
        if not self.optional:
            return f"{new} == {old}"
        if self.default:
            return f"{self._meant('self')} == {self._meant('oldSelf')}"
        # `self.?field` would be shorter, but the server takes its size to be without bound.
        return f"{self.stays} && (!has({new}) || {new} == {old})"

    @property
    def stays(self) -> str:
        """Expression that is true if the field neither came nor went."""
        return f"has({self._of('self')}) == has({self._of('oldSelf')})"

    @property
    def missing(self) -> str:
        """Expression that is true if the field was not there, or is not."""
        return f"!has({self._of('self')}) || !has({self._of('oldSelf')})"

    @property
    def changed(self) -> str:
        """Expression that is true if the field does not mean what it meant."""
        return f"!({self.unchanged})"

    def _of(self, root: str) -> str:
        return ".".join([root, *(escaped(name) for name in self.path)])

    def _meant(self, root: str) -> str:
        here = self._of(root)
        default = self.default.replace("{part}", here.rpartition(".")[0])
        return f"(has({here}) ? {here} : {default})"


def validation(
    rule: str, at: Iterable[str], told: str, reason: str = "FieldValueInvalid"
) -> Validation:
    """Write a rule.

    Args:
        rule: Expression that is true if all is well.
        at: Names down to the field that is told.
        told: Cause and cure; `{expression}` stands for a value.
        reason: Machine-readable reason of the refusal.

    """
    path = "".join(f".{name}" for name in at)
    where = {"fieldPath": path} if path else {}
    template, *values = _template(told)
    if not values:
        return {"rule": rule, "message": told, "reason": reason, **where}
    # Joining with `+` would cost more than a rule may: nobody bounds what string() makes.
    expression = f"{quoted(template)}.format({_list(values)})"
    return {"rule": rule, "messageExpression": expression, "reason": reason, **where}


def _template(told: str) -> list[str]:
    """Split a text into a format and the expressions for its places."""
    literals, values = (re.split(r"\{([^{}]+)\}", told)[n::2] for n in (0, 1))
    return ["%s".join(each.replace("%", "%%") for each in literals), *values]


def quoted(text: str) -> str:
    """Write text as a CEL literal."""
    return "'{}'".format(text.replace("\\", "\\\\").replace("'", "\\'"))


def one_of(field: str, words: Iterable[str]) -> str:
    """Compare a field with words."""
    literals = [quoted(word) for word in words]
    return f"{field} == {literals[0]}" if len(literals) == 1 else f"{field} in {_list(literals)}"


def escaped(name: str) -> str:
    """Spell a field's name so that CEL does not take it for a word of its own."""
    return f"__{name}__" if name in _RESERVED else name


def _list(literals: list[str]) -> str:
    return f"[{', '.join(literals)}]"
