"""Which changes of a job's spec reach its pods, and how: the rule of every rollout.

A program reads the job once, when it starts. So a change of what a pod is made of, or of what its
program reads, needs a new pod:

| changed | learner | actors |
|---|---|---|
| `actors.replicas`, `.minReplicas`, `.maxReplicas`, `autoscaling`, `suspend` | stays | stay |
| `backoffLimit`, `ttlSecondsAfterFinished`, `cleanPodPolicy`, deadlines | stays | stay |
| `learner.storage.size` | stays | stay |
| `stop`, `evaluation`, `learner.podTemplate` | new attempt | stay |
| the rest of `actors` (`podTemplate`, `threads`, `drainSeconds`) | stays | rolled |
| everything else that may change, while the job is suspended | new attempt | rolled |
| the operator: its version, its images, its settings | stays | stay |

The last line is why the hash is of what the user says, not of the pod template that is made of it,
and why it leaves out what has its default: a field that a newer operator adds changes no hash.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Final, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from vaco.job import VACOJob
from vaco.schema.base import Part, yaml_name

# What the operator acts on by itself.
_OPERATORS: Final = frozenset(
    {
        "suspend",
        "autoscaling",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "cleanPodPolicy",
        "startDeadlineSeconds",
        "activeDeadlineSeconds",
    }
)
_COUNTS: Final = frozenset({"replicas", "minReplicas", "maxReplicas"})
_LEARNERS_POD: Final = frozenset({"podTemplate", "storage"})


def spec_hash(job: VACOJob, component: Literal["learner", "actor"]) -> str:
    """Digest what of `job.spec` the pods of a component depend on; it fits into a label."""
    spec = _without(_said(job.spec), _OPERATORS)
    if component == "learner":
        spec.pop("actors", None)
        storage = job.spec.learner.storage
        if storage is not None:
            # A volume is grown without its pod's help; what else is said of it never changes.
            spec["learner"]["storage"] = {"claimName": storage.claim_name}
    else:
        spec = _without(spec, frozenset({"stop", "evaluation"}))
        spec["learner"] = _without(spec.get("learner", {}), _LEARNERS_POD)
        spec["actors"] = _without(spec.get("actors", {}), _COUNTS)
    return digest(spec)


def for_programs(job: VACOJob) -> dict[str, Any]:
    """Return what of `job.spec` a learner and its actors read: what it says, not the defaults.

    It changes only together with a hash of theirs, so with the pods that read it.
    """
    spec = _without(_said(job.spec), _OPERATORS)
    unread = {"learner": _LEARNERS_POD, "actors": _COUNTS | {"podTemplate"}}
    for name, fields in unread.items():
        spec[name] = _without(spec.get(name, {}), fields)
    return spec


def digest(document: Mapping[str, Any]) -> str:
    """Digest plain values, whatever the order of their fields."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _without(fields: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in names}


def _said(part: Part) -> dict[str, Any]:
    """Return what differs from its default, and the tags that say what a part is."""
    said: dict[str, Any] = {}
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        default = field.get_default(call_default_factory=True, validated_data=part.__dict__)
        if _is_tag(field) or field.is_required() or value != default:
            said[yaml_name(name)] = _plain(value)
    return said


def _is_tag(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1


def _plain(value: Any) -> Any:
    if isinstance(value, Part):
        return _said(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
