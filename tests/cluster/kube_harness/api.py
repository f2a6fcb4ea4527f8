"""A small client of the Kubernetes API for tests: plain dicts, any kind, every call bounded.

It arranges what a test needs and asserts on what came of it, apart from the client code under test.
Connection and authentication are the official client's, so any kubeconfig works.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

Resource = dict[str, Any]
CALL_SECONDS = 30.0
POLL_SECONDS = 0.05


class ApiError(Exception):
    """The API server refused; `status` is HTTP's, `body` the Status object (or text)."""

    def __init__(self, status: int, body: str) -> None:
        try:
            self.body: Resource = json.loads(body)
        except ValueError:
            self.body = {"message": body}
        self.status = status
        self.reason = str(self.body.get("reason", ""))
        super().__init__(f"{status} {self.reason}: {self.body.get('message', '')}")


class Api:
    """Calls to one API server; resources are named by apiVersion and kind, as in manifests."""

    def __init__(self, kubeconfig: Path, *, impersonate: str = "") -> None:
        # It takes a second to import, which test modules that are skipped should not pay.
        from kubernetes import client, config

        self._client = config.new_client_from_config(  # type: ignore[no-untyped-call]
            config_file=str(kubeconfig)
        )
        self._refusal = client.ApiException
        self._headers = {"Impersonate-User": impersonate} if impersonate else {}
        self._kinds: dict[tuple[str, str], tuple[str, bool]] = {}

    def close(self) -> None:
        """Close the connections."""
        self._client.rest_client.pool_manager.clear()

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> str:
        """One request; returns the answer's text.

        Raises:
            ApiError: the answer's status is not 2xx.
        """
        url = self._client.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        headers = {"Accept": "application/json", "Content-Type": content_type} | self._headers
        for setting in self._client.configuration.auth_settings().values():
            headers[setting["key"]] = setting["value"]
        try:
            answer = self._client.call_api(
                method, url, headers, body, _request_timeout=CALL_SECONDS
            )
        except self._refusal as error:
            raise ApiError(error.status, error.body or "") from None
        text: bytes = answer.read()
        if not 200 <= answer.status < 300:
            raise ApiError(answer.status, text.decode())
        return text.decode()

    def get(self, api_version: str, kind: str, name: str, namespace: str = "") -> Resource:
        """The resource of that name."""
        return _parsed(self.request("GET", self.path(api_version, kind, name, namespace)))

    def find(self, api_version: str, kind: str, name: str, namespace: str = "") -> Resource | None:
        """The resource of that name, or None when there is none."""
        try:
            return self.get(api_version, kind, name, namespace)
        except ApiError as error:
            if error.status == 404:
                return None
            raise

    def list(
        self, api_version: str, kind: str, namespace: str = "", *, labels: str = ""
    ) -> list[Resource]:
        """All resources of that kind, of one namespace or of all, with those labels."""
        query = {"labelSelector": labels} if labels else None
        path = self.path(api_version, kind, "", namespace)
        items: list[Resource] = _parsed(self.request("GET", path, query=query))["items"]
        return items

    def create(self, resource: Resource) -> Resource:
        """Create it in the namespace of its metadata."""
        return _parsed(self.request("POST", self._path_of(resource, named=False), resource))

    def apply(
        self, resource: Resource, *, manager: str, force: bool = False, subresource: str = ""
    ) -> Resource:
        """Server-side apply as field manager `manager`."""
        query = {"fieldManager": manager, "force": str(force).lower()}
        path = self._path_of(resource, named=True) + (f"/{subresource}" if subresource else "")
        patch = "application/apply-patch+yaml"
        return _parsed(self.request("PATCH", path, resource, query=query, content_type=patch))

    def patch(
        self, api_version: str, kind: str, name: str, namespace: str, change: Resource
    ) -> Resource:
        """Merge `change` into it (JSON merge patch: null removes)."""
        path = self.path(api_version, kind, name, namespace)
        return _parsed(
            self.request("PATCH", path, change, content_type="application/merge-patch+json")
        )

    def delete(
        self, api_version: str, kind: str, name: str, namespace: str = "", *,
        propagation: str = "Background",
    ) -> None:  # fmt: skip
        """Delete it; its dependents as `propagation` says (Background, Foreground, Orphan)."""
        options = {
            "kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": propagation,
        }  # fmt: skip
        self.request("DELETE", self.path(api_version, kind, name, namespace), options)

    def logs(self, pod: str, namespace: str) -> str:
        """What the pod's only container printed."""
        return self.request("GET", f"{self.path('v1', 'Pod', pod, namespace)}/log")

    def wait_for(
        self,
        what: str,
        probe: Callable[[], Any],
        *,
        seconds: float = 60.0,
    ) -> Any:
        """Poll until `probe` returns something true, and return that.

        Raises:
            TimeoutError: it never did; the message ends with what it returned last.
        """
        deadline = time.monotonic() + seconds
        while not (answer := probe()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what}: not so after {seconds:.0f} s: {answer!r}")
            time.sleep(POLL_SECONDS)
        return answer

    def path(self, api_version: str, kind: str, name: str = "", namespace: str = "") -> str:
        """The URL path of a resource, or without a name of its collection."""
        plural, namespaced = self._kind(api_version, kind)
        parts = [_group(api_version)]
        if namespaced and namespace:
            parts.append(f"namespaces/{quote(namespace)}")
        parts.append(plural)
        if name:
            parts.append(quote(name))
        return "/".join(parts)

    def _path_of(self, resource: Resource, *, named: bool) -> str:
        metadata = resource["metadata"]
        name = metadata["name"] if named else ""
        namespace = metadata.get("namespace", "")
        return self.path(resource["apiVersion"], resource["kind"], name, namespace)

    def _kind(self, api_version: str, kind: str) -> tuple[str, bool]:
        if (api_version, kind) not in self._kinds:
            for entry in _parsed(self.request("GET", _group(api_version)))["resources"]:
                if "/" not in entry["name"]:
                    key = (api_version, entry["kind"])
                    self._kinds[key] = (entry["name"], entry["namespaced"])
        return self._kinds[api_version, kind]


def _group(api_version: str) -> str:
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def _parsed(text: str) -> Resource:
    document: Resource = json.loads(text)
    return document
