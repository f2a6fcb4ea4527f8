"""How `vaco scale` reaches a runner: a request file in the run directory, and its answer.

A later request replaces one that was not read yet; whoever asked first then gets no answer, and
says so when its patience ends.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

from vaco.errors import UserError
from vaco.files import replace_file

from vaco_operator.local.run_directory import RunDirectory

PATIENCE_SECONDS: Final = 10.0
_MAX_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class ScaleRequest:
    """A number of actors that somebody asks for."""

    id: str
    replicas: int


def ask_to_scale(directory: RunDirectory, replicas: int, patience: float = PATIENCE_SECONDS) -> str:
    """Ask the runner of `directory` for so many actors; returns what it answered.

    Raises:
        UserError: nothing runs there, or it did not answer.

    """
    directory.load_job()
    if not directory.in_use():
        cure = "Start it with `vaco run`; `--actors N` sets how many it begins with."
        raise UserError(str(directory.root), "is not running", cure)
    request = ScaleRequest(uuid4().hex, replicas)
    replace_file(
        _request_file(directory), json.dumps({"id": request.id, "replicas": request.replicas})
    )
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        answer = _load(_answer_file(directory))
        if answer.get("id") == request.id:
            return str(answer.get("answer", ""))
        time.sleep(0.05)
    problem = f"the runner did not answer within {patience:g} s"
    raise UserError(str(directory.root), problem, "See `vaco status` for what it is doing.")


def take_request(directory: RunDirectory) -> ScaleRequest | None:
    """Return and remove the request that is there, if there is one; for the runner."""
    taken = directory.root / ".scale.taken.json"
    try:
        # Renamed before it is read, so that a request that comes in between is not lost.
        _request_file(directory).replace(taken)
    except FileNotFoundError:
        return None
    document = _load(taken)
    taken.unlink()
    name, replicas = document.get("id"), document.get("replicas")
    if isinstance(name, str) and isinstance(replicas, int) and not isinstance(replicas, bool):
        return ScaleRequest(name, replicas)
    return None


def answer_request(directory: RunDirectory, request: ScaleRequest, answer: str) -> None:
    """Tell whoever asked what became of it."""
    replace_file(_answer_file(directory), json.dumps({"id": request.id, "answer": answer}))


def _request_file(directory: RunDirectory) -> Path:
    return directory.root / "scale.request.json"


def _answer_file(directory: RunDirectory) -> Path:
    return directory.root / "scale.answer.json"


def _load(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            document = json.loads(file.read(_MAX_BYTES))
    except (FileNotFoundError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
