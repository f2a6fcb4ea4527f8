"""Freed memory stays with the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from vaco.allocator import keep_freed_memory
if "keep" in sys.argv and not keep_freed_memory():
    sys.exit("unsupported")
def work():
    held = [b"x" * (3 << 20) for _ in range(8)]
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(*arguments: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=60
    )
    if done.stderr.strip() == "unsupported":
        pytest.skip("not glibc")
    return int(done.stdout)


def test_memory_freed_and_needed_again_costs_no_page_faults() -> None:
    """240 MiB are 61 thousand pages."""
    assert page_faults() > 10_000
    assert page_faults("keep") < 2_000
