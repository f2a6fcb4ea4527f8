"""Starts a whole cluster of either tier and removes it again.

- *control plane*: etcd, API server, controllers, scheduler and simulated nodes, as an ordinary user
  on free loopback ports.
- *node*: the same control plane with one real node instead, all of it in namespaces of its own
  (root); only the API server's port can be reached from outside, through a forwarder on loopback.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from kube_harness import (
    build,
    cgroups,
    control_plane,
    debian,
    image,
    machine,
    namespaces,
    node,
    programs,
    simulated,
)
from kube_harness.api import Api
from kube_harness.build import Say
from kube_harness.control_plane import Addresses
from kube_harness.pki import MASTERS, Authority
from kube_harness.ports import LOOPBACK, Ports
from kube_harness.processes import Processes
from kube_harness.workplace import Workplace

CONTROL_PLANE = "control-plane"
NODE = "node"
TIERS = {
    CONTROL_PLANE: programs.CONTROL_PLANE + programs.SIMULATED_NODES,
    NODE: programs.CONTROL_PLANE + programs.NODE,
}
SIMULATED_NODES = 4
_IN_NODE = Addresses("0.0.0.0", 6443, 2379, 2380, namespaces.NODE_ADDRESS)  # noqa: S104


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that is up: what a test needs to know of it.

    `image` is one that its pods can run; `audit` the API server's log of all requests that were not
    the cluster's own (one JSON document a line). Both are empty where the cluster is not ours.
    """

    tier: str
    kubeconfig: Path
    image: str
    audit: Path | None = None
    logs: Path | None = None
    name: str = ""

    def to_json(self) -> str:
        """One line that `from_json` reads."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Cluster:
        """The inverse of `to_json`."""
        fields = json.loads(text)
        for name in ("kubeconfig", "audit", "logs"):
            fields[name] = Path(fields[name]) if fields[name] else None
        return cls(**fields)


@contextmanager
def running(tier: str, say: Say) -> Iterator[tuple[Cluster, Processes]]:
    """Build what is missing, start a cluster, and remove all of it at the end.

    Raises:
        Unavailable: this machine cannot have one; the message says why.
        ClusterError: it did not come up.
    """
    prepare(tier, say)
    with ExitStack() as stack:
        workplace = Workplace(tier)
        stack.callback(workplace.remove)
        processes = Processes(workplace.logs)
        stack.callback(processes.kill_all)
        authority = Authority(workplace.state / "pki")
        start = _start_node_tier if tier == NODE else _start_control_plane_tier
        yield start(stack, workplace, processes, authority, say), processes


def prepare(tier: str, say: Say) -> None:
    """Build and fetch the tier's programs, so that a start takes seconds."""
    if tier == NODE:
        machine.check()
        machine.check_packet_filter(debian.ensure(say))
    build.ensure(TIERS[tier], say)


def _start_control_plane_tier(
    stack: ExitStack, workplace: Workplace, processes: Processes, authority: Authority, say: Say
) -> Cluster:
    ports = stack.enter_context(closing(Ports()))
    addresses = Addresses(LOOPBACK, ports.take(), ports.take(), ports.take())
    say("starting etcd, API server, controllers and scheduler")
    control_plane.start(processes, authority, workplace.state, addresses, addresses.server)
    kwok = authority.kubeconfig(
        workplace.state / "kwok.kubeconfig", addresses.server, "kwok", [MASTERS]
    )
    simulated.start(processes, kwok, workplace.state)
    cluster = _describe(CONTROL_PLANE, workplace, authority, addresses.server)
    with closing(Api(cluster.kubeconfig)) as api:
        simulated.add_nodes(api, processes, SIMULATED_NODES)
    return cluster


def _start_node_tier(
    stack: ExitStack, workplace: Workplace, processes: Processes, authority: Authority, say: Say
) -> Cluster:
    found = debian.ensure(say)
    listener = stack.enter_context(socket.create_server((LOOPBACK, 0)))
    cgroups.create(workplace.name)
    say("starting a control plane and containerd in namespaces of their own")
    namespaces.enter_new(processes, workplace.state)
    node.start_containerd(processes, workplace.state, found)
    outside = _forward(processes, listener, _IN_NODE.api)
    control_plane.start(processes, authority, workplace.state, _IN_NODE, outside)
    node.import_image(processes, workplace.state, found)
    say("starting kubelet, kube-proxy and CoreDNS")
    cluster = _describe(NODE, workplace, authority, outside)
    inside = f"https://{namespaces.NODE_ADDRESS}:{_IN_NODE.api}"
    with closing(Api(cluster.kubeconfig)) as api:
        node.start(processes, api, authority, workplace.state, inside, workplace.name, found)
    return cluster


def _forward(processes: Processes, listener: socket.socket, port: int) -> str:
    """Carry what reaches `listener` to that port inside; returns the API's URL on the outside."""
    forwarder = Path(__file__).parent / "forward.py"
    descriptor = listener.fileno()
    processes.start(
        "forward",
        [sys.executable, "-I", str(forwarder), str(descriptor), LOOPBACK, str(port)],
        pass_fds=[descriptor],
    )
    return f"https://{LOOPBACK}:{listener.getsockname()[1]}"


def _describe(tier: str, workplace: Workplace, authority: Authority, server: str) -> Cluster:
    return Cluster(
        tier=tier,
        kubeconfig=authority.kubeconfig(
            workplace.state / "admin.kubeconfig", server, "test-administrator", [MASTERS]
        ),
        image=image.NAME,
        audit=workplace.state / "audit.log",
        logs=workplace.logs,
        name=workplace.name,
    )
