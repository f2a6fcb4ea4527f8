"""docs/kubernetes/troubleshooting.md explains every reason of a condition, and every event."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
PAGE = PROJECT / "docs" / "kubernetes" / "troubleshooting.md"
CODE = PROJECT / "operator" / "vaco_operator"
FILES = (CODE / "status.py", CODE / "scaling.py", *sorted((CODE / "cluster").glob("*.py")))
# Where the reason stands among the arguments.
REASON_AT = {"Note": 1, "Trouble": 0, "Outcome": 1, "_Finding": 2}
WORD = re.compile(r"[A-Z][a-z]+(?:[A-Z][a-z]+)*")
# Functions that choose one.
CHOOSERS = {"_unavailable", "_hindrance", "_forbidden"}
NOT_REASONS = {
    # Kinds, conditions and states of Kubernetes that the operator reads or writes.
    *("ConfigMap", "NetworkPolicy", "PersistentVolumeClaim", "DeleteOptions", "StuckTerminating"),
    *("LearnerAvailable", "ScalingLimited", "PodScheduled", "ReplicaFailure", "DisruptionTarget"),
    *("PodFailurePolicy", "NamespaceTerminating", "AlreadyExists", "ErrImagePull"),
    *("BearerToken", "IfNotPresent", "Running", "False", "TooLong"),
    # Types, and the begin of a word.
    *("ScalingPolicy", "ScalingState", "Not"),
}


def _words(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and WORD.fullmatch(value):
            yield value


def _reasons(tree: ast.Module) -> Iterator[str]:
    yield from (word for word in _words(tree) if len(re.findall("[A-Z]", word)) > 1)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            if name in REASON_AT and len(node.args) > REASON_AT[name]:
                yield from _words(node.args[REASON_AT[name]])
        if isinstance(node, ast.FunctionDef) and node.name in CHOOSERS:
            yield from _words(node)


def _of_the_code() -> set[str]:
    found = {word for path in FILES for word in _reasons(ast.parse(path.read_text()))}
    return found - NOT_REASONS | {f"Not{kind}" for kind in ("Suspended", "Complete", "Failed")}


def _of_the_page() -> set[str]:
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    return {word for row in rows for word in re.findall("`([A-Za-z]+)`", row.split("|")[1])}


def test_every_reason_and_event_has_a_line() -> None:
    assert len(_of_the_code()) > 30
    assert _of_the_code() - _of_the_page() == set()


def test_no_line_is_of_a_reason_that_there_is_not() -> None:
    assert _of_the_page() - _of_the_code() == set()
