"""Freed memory stays with the process."""

from __future__ import annotations

import subprocess
import sys

import pytest

# What comes first in a process, and then what fragments are to it: blocks of a few MiB.
NOTHING = ""
KEEPING = """
import sys
from vaco.allocator import keep_freed_memory
if not keep_freed_memory():
    sys.exit("unsupported")
"""
# Their `main` returns at once, because there is no such job.
LEARNER = """
import sys
from vaco_learner.__main__ import main
sys.argv = ["vaco_learner", "--job", "/no/job.yaml", "--run-dir", "/no"]
main()
"""
ACTOR = """
from vaco_actor.__main__ import main
main(["run", "--job", "/no/job.yaml", "--learner", "127.0.0.1:9", "--actor-id", "actor-0"])
"""
WORK = """
import resource
def work():
    held = [b"x" * (3 << 20) for _ in range(8)]
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(first: str) -> int:
    command = [sys.executable, "-c", first + WORK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.stderr.strip() == "unsupported":
        pytest.skip("not glibc")
    return int(done.stdout)


@pytest.mark.parametrize("first", [KEEPING, LEARNER, ACTOR], ids=["alone", "learner", "actor"])
def test_memory_freed_and_needed_again_costs_no_page_faults(first: str) -> None:
    """240 MiB are 61 thousand pages."""
    assert page_faults(NOTHING) > 10_000
    assert page_faults(first) < 2_000
