"""Policies on disk: in a learner's checkpoint, and as exported.

A checkpoint is the learner's, and the learner restores all of it. Whoever only wants to act with
it (evaluation, export) reads the two files that say so, and believes them only if their digests are
those of the manifest. What is exported stands alone: weights, and one JSON document that says what
they are for.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from vaco.checkpoints import POLICY, STATE, digest, read_manifest, read_parts
from vaco.errors import UserError
from vaco.job import ActorCriticPolicy

from vaco_policy.parameters import load_payload
from vaco_policy.policy import Policy
from vaco_policy.spaces import Spaces

EXPORT_FORMAT: Final = "vaco-policy/1"
DESCRIPTION: Final = "policy.json"
_MAX_JSON_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """A policy as it was written.

    Attributes:
        spec: Its shape, `spec.policy`.
        spaces: What it was trained for.
        version: Of the weights.
        payload: The weights, as `parameters.to_payload` writes them.

    """

    spec: ActorCriticPolicy
    spaces: Spaces
    version: int
    payload: bytes

    def build(self) -> Policy:
        """Return the policy with its weights.

        Raises:
            UserError: The weights are not of this shape.

        """
        policy = Policy(self.spec, self.spaces)
        load_payload(policy, self.payload)
        return policy.eval()


def read_checkpoint(directory: Path, spec: ActorCriticPolicy, job_uid: str | None) -> StoredPolicy:
    """Read the policy of one checkpoint of a run.

    Args:
        directory: Such as `RUN/checkpoints/v000000123`.
        spec: `spec.policy` of the run's job.
        job_uid: Of the same job; None: a manifest that was never run has none.

    Raises:
        UserError: A file is missing or is not what the checkpoint's manifest says, or the
            checkpoint is another job's.

    """
    contents = read_parts(directory, read_manifest(directory, job_uid), (POLICY, STATE))
    path = directory / STATE
    state = _parse(contents[STATE], path)
    return StoredPolicy(
        spec=spec,
        spaces=Spaces.from_json(_field(state, path, "contract")),
        version=int(_field(state, path, "version")),
        payload=contents[POLICY],
    )


def write_export(directory: Path, stored: StoredPolicy) -> list[Path]:
    """Write `policy.safetensors` and `policy.json`, which is all that `read_export` needs.

    Raises:
        UserError: The directory cannot be written.

    """
    description = {
        "format": EXPORT_FORMAT,
        "version": stored.version,
        "spaces": json.loads(stored.spaces.to_json()),
        "policy": stored.spec.model_dump(mode="json", by_alias=True),
        "sha256": digest(stored.payload),
    }
    text = json.dumps(description, indent=2, sort_keys=True, allow_nan=False) + "\n"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / POLICY).write_bytes(stored.payload)
        (directory / DESCRIPTION).write_text(text)
    except OSError as error:
        raise UserError(str(directory), f"cannot be written ({error.strerror})") from error
    return [directory / POLICY, directory / DESCRIPTION]


def read_export(directory: Path) -> StoredPolicy:
    """Read what `write_export` wrote.

    Raises:
        UserError: A file is missing, or is not what `write_export` writes.

    """
    path = directory / DESCRIPTION
    document = _document(path)
    if _field(document, path, "format") != EXPORT_FORMAT:
        raise UserError(str(path), f"its format is not {EXPORT_FORMAT}")
    payload = _read(directory / POLICY)
    if digest(payload) != _field(document, path, "sha256"):
        problem = f"its digest is not that in {DESCRIPTION}"
        raise UserError(str(directory / POLICY), problem, "Export the policy again.")
    try:
        spec = ActorCriticPolicy.model_validate_json(json.dumps(_field(document, path, "policy")))
    except ValidationError as error:
        raise UserError(str(path), f"its policy is not valid ({error})") from error
    return StoredPolicy(
        spec=spec,
        spaces=Spaces.from_json(json.dumps(_field(document, path, "spaces"))),
        version=int(_field(document, path, "version")),
        payload=payload,
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
        raise UserError(str(path), problem, "Name the directory of an exported policy.") from error


def _document(path: Path) -> Mapping[str, Any]:
    return _parse(_read(path), path)


def _parse(content: bytes, path: Path) -> Mapping[str, Any]:
    if len(content) > _MAX_JSON_BYTES:
        raise UserError(str(path), f"{len(content)} bytes are more than {_MAX_JSON_BYTES}")
    try:
        document = json.loads(content)
    except ValueError as error:
        raise UserError(str(path), f"is not JSON ({error})") from error
    if not isinstance(document, dict):
        raise UserError(str(path), "is not a JSON object")
    return document


def _field(document: Mapping[str, Any], path: Path, name: str) -> Any:
    if name not in document:
        raise UserError(str(path), f"has no `{name}`")
    return document[name]
