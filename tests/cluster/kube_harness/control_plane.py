"""etcd, the API server, the controller manager and the scheduler: everything that is not a node."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from kube_harness.pki import MASTERS, Authority
from kube_harness.processes import Processes
from kube_harness.programs import binary

START_SECONDS = 60.0
SERVICE_NETWORK = "10.96.0.0/16"
SERVICE_ADDRESS = "10.96.0.1"
# Published nowhere where there are no nodes, yet the API server wants one that is not loopback.
NO_ADDRESS = "192.0.2.1"

# The audit log says who asked what: tests count the requests of the program under test in it.
# What the cluster's own parts and the nodes do is left out.
_AUDIT_POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {
            "level": "None",
            "users": ["system:kube-controller-manager", "system:kube-scheduler", "kwok"],
        },
        {"level": "None", "userGroups": ["system:nodes", "system:serviceaccounts:kube-system"]},
        {"level": "None", "users": ["system:apiserver", "system:kube-proxy", "coredns"]},
        {"level": "Metadata"},
    ],
}


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the servers listen: `listen` for the API, loopback for etcd.

    `advertised` is the address of the `kubernetes` Service's endpoint; without one (no real nodes)
    none is published.
    """

    listen: str
    api: int
    etcd: int
    etcd_peers: int
    advertised: str | None = None

    @property
    def server(self) -> str:
        """The API server's URL for clients beside it."""
        return f"https://127.0.0.1:{self.api}"


def start(
    processes: Processes, authority: Authority, state: Path, addresses: Addresses, outside: str
) -> None:
    """Start all four and return when the API is ready to be used, OpenAPI documents included.

    `outside` is the API server's URL for this process, which may be in another network namespace.
    """
    administrator = authority.issue("harness", [MASTERS])
    _start_etcd(processes, authority, state, addresses)
    _start_api_server(processes, authority, state, addresses)
    context = ssl.create_default_context(cafile=str(authority.files.cert))
    context.load_cert_chain(administrator.cert, administrator.key)

    def served(path: str) -> bool:
        return _answers(f"{outside}{path}", context)

    processes.wait_until("the API server is ready", lambda: served("/readyz"), START_SECONDS)
    _start_controllers(
        processes, authority, state, addresses.server, real_nodes=addresses.advertised is not None
    )
    # Namespaces get their service account from the controllers: pods cannot be made before.
    account = "/api/v1/namespaces/default/serviceaccounts/default"
    processes.wait_until("the controllers work", lambda: served(account), START_SECONDS)
    processes.wait_until("/openapi/v2 is served", lambda: served("/openapi/v2"), START_SECONDS)


def _answers(url: str, context: ssl.SSLContext) -> bool:
    try:
        with urllib.request.urlopen(url, context=context, timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _start_etcd(
    processes: Processes, authority: Authority, state: Path, addresses: Addresses
) -> None:
    pair = authority.issue("etcd", hosts=["127.0.0.1", "localhost"])
    client = f"https://127.0.0.1:{addresses.etcd}"
    peers = f"https://127.0.0.1:{addresses.etcd_peers}"
    command = [
        binary("etcd"),
        f"--data-dir={state / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peers}",
        f"--initial-advertise-peer-urls={peers}",
        f"--initial-cluster=default={peers}",
        "--socket-reuse-port=true",
        # The data dies with the cluster anyway.
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]
    for role in ("", "peer-"):
        command += [
            f"--{role}cert-file={pair.cert}",
            f"--{role}key-file={pair.key}",
            f"--{role}trusted-ca-file={authority.files.cert}",
            f"--{role}client-cert-auth",
        ]
    processes.start("etcd", command)


def _start_api_server(
    processes: Processes, authority: Authority, state: Path, addresses: Addresses
) -> None:
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
    hosts = [*names, f"{names[2]}.cluster.local", "127.0.0.1", SERVICE_ADDRESS]
    if addresses.advertised:
        hosts.append(addresses.advertised)
    serving = authority.issue("kube-apiserver", hosts=hosts)
    client = authority.issue("kube-apiserver-client", [MASTERS])
    accounts = authority.signing_key()
    policy = state / "audit-policy.json"
    policy.write_text(json.dumps(_AUDIT_POLICY))
    ca = authority.files.cert
    command = [
        binary("kube-apiserver"),
        f"--bind-address={addresses.listen}",
        f"--secure-port={addresses.api}",
        "--permit-port-sharing=true",
        f"--advertise-address={addresses.advertised or NO_ADDRESS}",
        f"--endpoint-reconciler-type={'lease' if addresses.advertised else 'none'}",
        f"--etcd-servers=https://127.0.0.1:{addresses.etcd}",
        f"--etcd-cafile={ca}",
        f"--etcd-certfile={client.cert}",
        f"--etcd-keyfile={client.key}",
        f"--tls-cert-file={serving.cert}",
        f"--tls-private-key-file={serving.key}",
        f"--client-ca-file={ca}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--allow-privileged=true",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={accounts}",
        f"--service-account-signing-key-file={accounts}",
        f"--kubelet-certificate-authority={ca}",
        f"--kubelet-client-certificate={client.cert}",
        f"--kubelet-client-key={client.key}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--audit-policy-file={policy}",
        f"--audit-log-path={state / 'audit.log'}",
        "--audit-log-mode=batch",
        # Tests read it: half a minute, the default, is long to wait for.
        "--audit-log-batch-max-wait=1s",
    ]
    processes.start("kube-apiserver", command)


def _start_controllers(
    processes: Processes, authority: Authority, state: Path, server: str, *, real_nodes: bool
) -> None:
    for name in ("kube-controller-manager", "kube-scheduler"):
        kubeconfig = authority.kubeconfig(state / f"{name}.kubeconfig", server, f"system:{name}")
        command = [
            binary(name),
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--leader-elect=false",
            "--secure-port=0",
        ]
        if name == "kube-controller-manager":
            command += [
                f"--root-ca-file={authority.files.cert}",
                f"--service-account-private-key-file={authority.folder / 'service-accounts.key'}",
                f"--cluster-signing-cert-file={authority.files.cert}",
                f"--cluster-signing-key-file={authority.files.key}",
                "--use-service-account-credentials=true",
            ]
            if real_nodes:
                # So that a test can lose one: a kubelet renews its lease every 10 s.
                command.append("--node-monitor-grace-period=20s")
        processes.start(name, command)
