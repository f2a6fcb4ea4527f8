"""Who asked the API server for what, and when: its audit log, which is complete after a moment."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

WRITES: Final = ("create", "update", "patch", "delete", "deletecollection")


@dataclass(frozen=True, slots=True)
class Entry:
    """One request, as the server saw it."""

    user: str
    verb: str
    resource: str
    namespace: str
    name: str
    code: int
    uri: str
    agent: str
    received: datetime
    done: datetime

    @property
    def writes(self) -> bool:
        """Whether it was to change something."""
        return self.verb in WRITES


def entries(audit: Path, user: str = "") -> list[Entry]:
    """Read the requests of a user, or of all, in the order in which they were done."""
    lines = audit.read_text(encoding="utf-8").splitlines()
    # A line may be half written, and most are somebody else's.
    whole = (line for line in lines if line.startswith("{") and line[-1] == "}" and user in line)
    found = [_entry(json.loads(line)) for line in whole]
    return [entry for entry in found if user in ("", entry.user)]


def _entry(event: dict[str, Any]) -> Entry:
    about = event.get("objectRef", {})
    subresource = about.get("subresource", "")
    return Entry(
        user=event["user"]["username"],
        verb=event["verb"],
        resource=about.get("resource", "") + (f"/{subresource}" if subresource else ""),
        namespace=about.get("namespace", ""),
        name=about.get("name", ""),
        code=event.get("responseStatus", {}).get("code", 0),
        uri=event["requestURI"],
        agent=event.get("userAgent", ""),
        received=datetime.fromisoformat(event["requestReceivedTimestamp"]),
        done=datetime.fromisoformat(event["stageTimestamp"]),
    )
