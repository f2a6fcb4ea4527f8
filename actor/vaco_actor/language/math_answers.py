r"""Whether a completion's answer is the right one, as tests of mathematics compare answers.

The answer is what the last `\boxed{...}` has, or else the last number. Numbers are compared as
exact fractions: 0.5 is 1/2, and 0.333 is not 1/3. A whole number right before a `\frac` is part of
a mixed number: `1\frac12` is 3/2, and no product. Read over are thousands separators, `$` and `%`
signs, LaTeX's spaces, and a unit after a number. Anything else that is boxed is compared as text.
"""

import re
from fractions import Fraction
from typing import Final

MAX_NUMBER_LENGTH: Final = 64
"""Characters of a number that is still read as one. Longer ones are no answers, but attacks."""

# Possessive and bounded: from each of many groups of three digits, all others would be looked at.
_DIGITS: Final = r"(?:\d{1,3}(?:,\d{3}){1,20}+(?![\d,]\d)|\d+)"
_DECIMAL: Final = rf"(?>(?:{_DIGITS}(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{{1,2}}(?!\d))?)(?![eE][+-]?\d)"
_SIGN: Final = r"(?:(?<![\w.)\]}])[-+])?"
_LATEX: Final = r"\\[dt]?frac(?:\{\s*(-?[\d,.]+)\s*\}\{\s*(-?[\d,.]+)\s*\}|(\d)(\d))"
# Atomic: digits without a fraction behind them are not tried again in shorter pieces.
_WHOLE: Final = rf"(?<![\w.^])(?>({_DIGITS})) ?"
_NUMBER: Final = re.compile(
    rf"({_SIGN})(?:(?:{_WHOLE})?{_LATEX}|(?<![\w.])({_DECIMAL})(?:\s?/\s?({_DECIMAL}))?)"
)
_PLAIN: Final = re.compile(_DECIMAL)

_SILENT: Final = re.compile(r"\\[!,;: ]|\\left|\\right|\\\$|\$|\\%|%|\{,\}(?=\D)")
_TEXT: Final = re.compile(r"\\(?:text|mathrm|textbf|mathbf|textit|mbox)\s*\{([^{}]*)\}")
_NAME: Final = re.compile(r"^\s*[A-Za-z]\s*=\s*")
_UNIT: Final = re.compile(
    r"(?:\s*\\(?:text|mathrm|mbox)\s*\{[^{}]*\}(?:\^\{?\d\}?)?|\s*\^?\{?\\circ\}?"
    r"|\s*(?!pi\b|sqrt\b)[A-Za-z]{2,}\.?(?:\^\{?\d\}?)?(?:\s+[A-Za-z]+\.?)*)\s*"
)
_WORDS: Final = re.compile(r"(?:^|\s)[A-Za-z]{2,}[\s.,:]")
_MARK: Final = "####"
_BOX: Final = ("\\boxed", "\\fbox")

Value = Fraction | str


def is_right(completion: str, answer: str) -> bool:
    """Return whether the completion's answer is that of the problem."""
    wanted = wanted_value(answer)
    if isinstance(wanted, Fraction):
        return given_value(completion) == wanted
    boxed = _boxed(completion)
    return bool(wanted) and _value(completion if boxed is None else boxed) == wanted


def given_value(completion: str) -> Value | None:
    """Return a completion's answer; None if there is neither a box nor a number."""
    boxed = _boxed(completion)
    return _last_number(_plain(completion)) if boxed is None else _value(boxed)


def wanted_value(answer: str) -> Value:
    """Return a problem's answer.

    It is the number that `answer` is, or what it has in a box or after `####`, or in a sentence
    the last number; or else all of it, as text.
    """
    boxed = _boxed(answer)
    if boxed is not None:
        return _value(boxed)
    if _MARK in answer:
        return _value(answer.rpartition(_MARK)[2])
    value = _value(answer)
    if isinstance(value, str) and _WORDS.search(answer):
        found = _last_number(_plain(answer))
        return value if found is None else found
    return value


def _value(text: str) -> Value:
    """Return the number that `text` is, or else the text, without what means nothing."""
    plain = _plain(_NAME.sub("", text)).strip().rstrip(".").strip()
    match = _NUMBER.match(plain)
    if match is not None:
        rest = plain[match.end() :]
        if not rest or _UNIT.fullmatch(rest):
            number = _number(match)
            if number is not None:
                return number
    return re.sub(r"\s+", "", _TEXT.sub(r"\1", plain))


def _plain(text: str) -> str:
    """Take away the signs that are read over; a number keeps its commas."""
    return _SILENT.sub("", text.replace("\u2212", "-").replace("{,}", ",").replace("\\-", "-"))


def _last_number(text: str) -> Fraction | None:
    last = None
    for match in _NUMBER.finditer(text):
        last = match
    return None if last is None else _number(last)


def _number(match: re.Match[str]) -> Fraction | None:
    """Return what was matched; None: too long, malformed, or divided by zero."""
    if len(match.group()) > MAX_NUMBER_LENGTH:
        return None
    sign, whole, over, under, one, other, number, divisor = match.groups()
    top, bottom = over or one or number, under or other or divisor
    value, divided = _fraction(top), Fraction(1) if bottom is None else _fraction(bottom)
    if value is None or not divided:
        return None
    value /= divided
    if whole is not None:
        if "-" in top + bottom:  # a mixed number has its sign in front
            return None
        value += Fraction(whole.replace(",", ""))
    return -value if sign == "-" else value


def _fraction(text: str) -> Fraction | None:
    if not _PLAIN.fullmatch(text.removeprefix("-")):
        return None
    return Fraction(text.replace(",", ""))


def _boxed(text: str) -> str | None:
    r"""Return what the last `\boxed{...}` has; braces inside are matched. None: there is none."""
    start = max(text.rfind(command) for command in _BOX)
    opening = -1 if start < 0 else text.find("{", start)
    if opening < 0:
        return None
    depth = 0
    for index in range(opening, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[opening + 1 : index]
    return None
