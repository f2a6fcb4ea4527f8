"""Types of command-line arguments, for argparse: what is no such number is refused in words."""

import argparse


def natural(text: str) -> int:
    """Read a whole number from 0; raises ArgumentTypeError."""
    return _whole(text, 0)


def positive(text: str) -> int:
    """Read a whole number from 1; raises ArgumentTypeError."""
    return _whole(text, 1)


def _whole(text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least}")
    return int(text)
