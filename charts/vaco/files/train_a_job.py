"""`helm test`: create a job, wait until it is Complete, and delete it again.

Runs in a pod, with an account that may do this and nothing else. The job lies beside this file.
Only Python's own library is needed.
"""

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
CALL_SECONDS = 15.0
DELETE_SECONDS = 30.0
POLL_SECONDS = 1.0
NOT_FOUND = 404

Document = dict[str, Any]


def main() -> int:
    """Train the job; returns the exit status of the test."""
    job = json.loads(Path(__file__).with_name("job.json").read_text())
    deadline = time.monotonic() + float(os.environ["TIMEOUT_SECONDS"])
    delete(job, deadline)
    call("POST", collection(job), job)
    say(f"created VACOJob {job['metadata']['namespace']}/{job['metadata']['name']}")
    try:
        return watch(job, deadline)
    finally:
        delete(job, time.monotonic() + DELETE_SECONDS)


def watch(job: Document, deadline: float) -> int:
    """Wait for the job's end and tell what changes; returns 0 when it is Complete."""
    told = ""
    while time.monotonic() < deadline:
        status = (find(job) or {}).get("status", {})
        phase = f"{status.get('phase', 'Pending')}: {status.get('message', '')}"
        if phase != told:
            told = phase
            say(phase)
        holding = {c["type"] for c in status.get("conditions", []) if c["status"] == "True"}
        if holding & {"Complete", "Failed"}:
            say(json.dumps(status, indent=2))
            return 0 if "Complete" in holding else 1
        time.sleep(POLL_SECONDS)
    say(f"not Complete in time; the last phase was {told}")
    return 1


def find(job: Document) -> Document | None:
    """Read the job as it is now; None: there is none."""
    try:
        return call("GET", f"{collection(job)}/{job['metadata']['name']}")
    except urllib.error.HTTPError as error:
        if error.code == NOT_FOUND:
            return None
        raise


def delete(job: Document, deadline: float) -> None:
    """Delete the job, if there is one, and wait until it is gone; its pods follow."""
    while find(job) is not None and time.monotonic() < deadline:
        try:
            path = f"{collection(job)}/{job['metadata']['name']}"
            call("DELETE", path, {"propagationPolicy": "Background"})
        except urllib.error.HTTPError as error:
            if error.code != NOT_FOUND:
                raise
        time.sleep(POLL_SECONDS)


def collection(job: Document) -> str:
    """Path of the jobs of the job's namespace."""
    return f"/apis/{job['apiVersion']}/namespaces/{job['metadata']['namespace']}/vacojobs"


def call(method: str, path: str, body: Document | None = None) -> Document:
    """Ask the API server; what it refuses is told before it is raised."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    address = f"[{host}]" if ":" in host else host
    headers = {
        "Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}",
        "Content-Type": "application/json",
    }
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        f"https://{address}:{port}{path}", data, headers, method=method
    )
    tls = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    try:
        with urllib.request.urlopen(request, timeout=CALL_SECONDS, context=tls) as answer:  # noqa: S310
            document: Document = json.load(answer)
            return document
    except urllib.error.HTTPError as error:
        if error.code != NOT_FOUND:
            say(f"{method} {path}: {error.code} {error.read(4096).decode(errors='replace')}")
        raise


def say(text: str) -> None:
    """Print for `helm test --logs`."""
    print(text, flush=True)  # noqa: T201 - its output


if __name__ == "__main__":
    sys.exit(main())
