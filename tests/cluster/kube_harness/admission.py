"""What an API server says to a document, without keeping it (dry runs)."""

from __future__ import annotations

import json
import re
from typing import Any

from kube_harness.api import Api, ApiError, Resource

DRY_RUN = {"dryRun": "All", "fieldValidation": "Strict"}
MERGE_PATCH = "application/merge-patch+json"

Refusal = dict[str, str]
"""What is wrong, by the path of the field; empty: nothing is."""


def creation(api: Api, document: Resource) -> Refusal:
    """Ask whether a document could be created."""
    metadata: dict[str, Any] = document["metadata"]
    path = api.path(document["apiVersion"], document["kind"], "", metadata["namespace"])
    return _asked(api, "POST", path, document, "application/json")


def kept(api: Api, document: Resource) -> Resource:
    """Return what the server would store: pruned, and with its defaults."""
    metadata: dict[str, Any] = document["metadata"]
    path = api.path(document["apiVersion"], document["kind"], "", metadata["namespace"])
    stored: Resource = json.loads(api.request("POST", path, document, query=DRY_RUN))
    return stored


def change(
    api: Api, api_version: str, kind: str, name: str, namespace: str, patch: Resource
) -> Refusal:
    """Ask whether a merge patch could be applied to a resource that is there."""
    path = api.path(api_version, kind, name, namespace)
    return _asked(api, "PATCH", path, patch, MERGE_PATCH)


def _asked(api: Api, method: str, path: str, body: Resource, content_type: str) -> Refusal:
    try:
        api.request(method, path, body, query=DRY_RUN, content_type=content_type)
    except ApiError as error:
        if error.status in (400, 422):
            return _reasons(error)
        raise
    return {}


def _reasons(error: ApiError) -> Refusal:
    refusal: Refusal = {}
    causes = (error.body.get("details") or {}).get("causes") or []
    for cause in causes:
        # That rules were skipped because of the other causes is a cause without a field.
        if cause.get("field", "<nil>") != "<nil>":
            told = refusal.get(cause["field"], "")
            refusal[cause["field"]] = f"{told}\n{cause['message']}".strip()
    for path in re.findall(r'unknown field "([^"]+)"', str(error)):
        refusal[path] = "unknown field"
    if not refusal:
        raise error
    return refusal
