"""A second node in name only: it says that it is well, and takes no pods.

Where all nodes of a cluster are lost, the node controller suspects itself and evicts nothing. So a
test that loses the one real node needs another that is not lost.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from kube_harness.api import Api

NAME: Final = "elsewhere"
HEARTBEAT_SECONDS: Final = 3.0
_LEASES: Final = "kube-node-lease"


@contextmanager
def second_node(api: Api) -> Iterator[None]:
    """Have it for the duration of the block."""
    api.create(
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": NAME},
            "spec": {"unschedulable": True},
        }
    )
    _is_well(api)
    over = threading.Event()
    heart = threading.Thread(target=_beat, args=(api, over), name="second node")
    heart.start()
    try:
        yield
    finally:
        over.set()
        heart.join()
        api.delete("v1", "Node", NAME)


def _beat(api: Api, over: threading.Event) -> None:
    while True:
        renewed = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        api.apply(_lease(renewed), manager=NAME, force=True)
        if over.wait(HEARTBEAT_SECONDS):
            return


def _is_well(api: Api) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ready = {
        "type": "Ready",
        "status": "True",
        "reason": "Pretended",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    status = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME}}
    api.apply(
        {**status, "status": {"conditions": [ready]}},
        manager=NAME, force=True, subresource="status",
    )  # fmt: skip


def _lease(renewed: str) -> dict[str, Any]:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": NAME, "namespace": _LEASES},
        "spec": {"holderIdentity": NAME, "leaseDurationSeconds": 40, "renewTime": renewed},
    }
