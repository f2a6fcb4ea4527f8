"""Numbers on a command line are whole, and not too small."""

import argparse

import pytest
from vaco.arguments import natural, positive


def test_numbers_from_the_least_one_on_are_read():
    assert (natural("0"), natural("12"), positive("1")) == (0, 12, 1)


@pytest.mark.parametrize(
    ("read", "text", "least"),
    [(natural, "-1", 0), (natural, "1.5", 0), (positive, "0", 1), (positive, "many", 1)],
)
def test_others_are_refused_in_words(read, text, least):
    with pytest.raises(argparse.ArgumentTypeError, match=f"'{text}' is not a whole.* from {least}"):
        read(text)
