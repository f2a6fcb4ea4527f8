"""What of a status is written, and how soon.

A status is written as the difference to the one that is there. What programs and people wait for
(phase, conditions, counts of actors, attempts) is urgent; numbers that only tell progress are not.
"""

from collections.abc import Mapping
from typing import Any, Final, get_args

from vaco.job import ConditionType, VACOJobStatus

from vaco_operator.cluster.resources import Document

_PROGRESS: Final = frozenset(
    {
        "message",
        "trainSeconds",
        "envSteps",
        "stepsPerSecond",
        "returnMean",
        "version",
        "checkpointVersion",
        "lag",
        "tv",
        "tvThreshold",
        "filteredShare",
        "ledger",
    }
)

_OURS: Final = frozenset(get_args(ConditionType))


def document_of(status: VACOJobStatus, before: Mapping[str, Any] | None = None) -> Document:
    """Write a status as the API has it: without what is not known.

    Args:
        status: what is ours to tell.
        before: what is there, of which conditions of types that are not ours stay: anybody may
            write some, such as a queue or a gate.

    """
    document: Document = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    known = (before or {}).get("conditions") or ()
    theirs = [each for each in known if each.get("type") not in _OURS]
    document["conditions"] = [*document["conditions"], *theirs]
    return document


def change(before: Mapping[str, Any], after: Mapping[str, Any]) -> Document:
    """Return the merge patch that leads from one document to the other; empty: they are equal."""
    patch: Document = {name: None for name in before if name not in after}
    for name, value in after.items():
        known = before.get(name)
        if isinstance(value, Mapping) and isinstance(known, Mapping):
            if below := change(known, value):
                patch[name] = below
        elif value != known:
            patch[name] = value
    return patch


def is_urgent(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether more than progress differs."""
    return _urgent(before) != _urgent(after)


def _urgent(status: Mapping[str, Any]) -> Document:
    kept = {name: value for name, value in status.items() if name not in _PROGRESS}
    kept["conditions"] = [
        {name: value for name, value in condition.items() if name != "message"}
        for condition in status.get("conditions") or ()
    ]
    scaling = status.get("scaling") or {}
    kept["scaling"] = {name: value for name, value in scaling.items() if name != "lastReason"}
    return kept
