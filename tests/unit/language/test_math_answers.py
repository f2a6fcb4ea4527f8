"""Answers of mathematics: what counts as the same, and what does not."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vaco_actor.language.math_answers import given_value, is_right, wanted_value

RIGHT = [
    ("42", "42"),
    ("The answer is 42.", "42"),
    (r"so \boxed{42}", "42"),
    (r"\boxed{41}, no: \boxed{42}", "42"),
    (r"12 eggs, \boxed{\frac{1}{2}} of 3", "0.5"),
    (r"\boxed{\frac34}", "3/4"),
    (r"\boxed{-\dfrac{3}{4}}", "-0.75"),
    (r"\boxed{\tfrac{-3}{4}}", "-3/4"),
    (r"The answer is $1\frac{1}{2}$", "3/2"),
    (r"The answer is $1\frac{1}{2}$.", r"1\frac12"),
    (r"\boxed{1\frac12}", "1.5"),
    (r"\boxed{-1\frac12}", "-1.5"),
    (r"it is $-1\,\dfrac{1}{2}$", "-3/2"),
    (r"\boxed{3 \tfrac{1}{4} \text{ cups}}", "3.25"),
    (r"\boxed{1{,}234\frac12}", "1234.5"),
    (r"5-1\frac12", "3/2"),
    (r"= \frac{1}{2}", "1/2"),
    ("1,234", "1234"),
    ("$1,234.50", "1234.5"),
    (r"\boxed{\$1{,}234}", "1234"),
    ("50%", "50"),
    (r"50\%", "50"),
    ("3/4", "0.75"),
    (".5", "1/2"),
    ("5.", "5"),
    ("007", "7"),
    ("+7", "7"),
    ("1e3", "1000"),
    ("-5", "-5"),
    ("-$5", "-5"),
    ("it is \u22125", "-5"),
    ("8-5=3", "3"),
    ("x=-5", "-5"),
    ("15 - 20 = -5", "-5"),
    ("12 apples", "12"),
    (r"\boxed{42 \text{ cm}}", "42"),
    (r"\boxed{42\text{ cm}^2}", "42"),
    (r"\boxed{42cm}", "42"),
    (r"\boxed{90^\circ}", "90"),
    (r"\boxed{x=5}", "5"),
    ("42", "The answer is 42."),
    ("so #### 42", "She has 3 left.\n#### 42"),
    (r"\boxed{ x + 1 }", "x+1"),
    (r"\boxed{\text{Evelyn}}", "Evelyn"),
    (r"\boxed{11\sqrt{2}}", r"11\sqrt{2}"),
    (r"\boxed{\left(1, 2\right)}", "(1,2)"),
    ("Paris", "Paris"),
]
WRONG = [
    ("", "42"),
    ("no idea", "42"),
    ("42 or 43", "42"),
    (r"\boxed{41} and not 42", "42"),
    ("0.333", "1/3"),
    ("42.0001", "42"),
    ("3/0", "0"),
    ("8-5", "-5"),
    ("1,23", "123"),
    (r"The answer is $1\frac{1}{2}$", "1/2"),
    (r"\boxed{1\frac12}", "1/2"),
    (r"-1\frac12", "-1/2"),
    (r"\boxed{2\frac{-1}{2}}", "3/2"),
    (r"\boxed{2\frac{-1}{2}}", "-1"),
    (r"1\frac{1}{0}", "1"),
    (r"\boxed{2\frac{x}{3}}", "2"),
    (r"x^2\frac{1}{2}", "5/2"),
    ("1e99999", "1"),
    (r"\boxed{42x}", "42"),
    (r"\boxed{2\pi}", "2"),
    (r"\boxed{2 pi}", "2"),
    (r"\boxed{x+2}", "x+1"),
    (r"\boxed{(2,1)}", "(1,2)"),
    (r"\boxed{", "1"),
    (r"\boxed{}", "x"),
    ("", "x"),
    ("Lyon", "Paris"),
    ("1" * 100, "1" * 100 + "2"),
]


@pytest.mark.parametrize(("completion", "answer"), RIGHT)
def test_the_same_answer_in_other_words(completion: str, answer: str) -> None:
    assert is_right(completion, answer), (given_value(completion), wanted_value(answer))


@pytest.mark.parametrize(("completion", "answer"), WRONG)
def test_another_answer(completion: str, answer: str) -> None:
    assert not is_right(completion, answer), (given_value(completion), wanted_value(answer))


@given(st.fractions(max_denominator=10**6), st.fractions(max_denominator=10**6))
def test_fractions_are_compared_exactly(one: Fraction, other: Fraction) -> None:
    boxed = rf"\boxed{{\frac{{{one.numerator}}}{{{one.denominator}}}}}"
    assert is_right(boxed, str(one))
    assert is_right(boxed, str(other)) == (one == other)


@given(st.integers(0, 10**9), st.integers(1, 999), st.integers(1, 999), st.sampled_from(["", "-"]))
def test_a_mixed_number_is_the_sum_of_its_parts(
    whole: int, over: int, under: int, sign: str
) -> None:
    wanted = whole + Fraction(over, under)
    text = rf"{sign}{whole:,}\frac{{{over}}}{{{under}}}"
    assert given_value(text) == given_value(rf"\boxed{{{text}}}") == (-wanted if sign else wanted)


@given(st.integers(-(10**15), 10**15))
def test_thousands_are_read_over(number: int) -> None:
    assert is_right(f"That makes {number:,}.", str(number))


@given(st.text(alphabet=r"0123456789.,/-+eE$%\{}boxedfrac #=", max_size=60), st.text(max_size=20))
def test_any_text_is_judged(completion: str, answer: str) -> None:
    assert is_right(completion, answer) in (True, False)


@pytest.mark.parametrize(
    "part",
    ["1,", ",111", "1", "-", "1 /", r"\frac{", r"1\frac", "1 ", r"\boxed{", "1.", " ", "a ="],
)
def test_a_long_completion_is_judged_in_linear_time(part: str) -> None:
    """Quadratic time would take these hundreds of thousands of characters past the time limit."""
    long = part * (400_000 // len(part))
    assert not is_right(long + "!", "123456")
    assert not is_right(rf"\boxed{{1{long}!}}", "123456")
