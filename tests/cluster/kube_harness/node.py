"""A real node: containerd, kubelet, kube-proxy and CoreDNS, in namespaces of its own.

Pods get their addresses and routes from the `ptp` plugin: each hangs on its node by a link of its
own, so that even pods of one node reach each other through the node's packet filter, where
kube-proxy's Services are. NetworkPolicies are stored and not enforced.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from kube_harness import image
from kube_harness.api import Api, ApiError
from kube_harness.debian import Found
from kube_harness.namespaces import NODE_ADDRESS
from kube_harness.pki import Authority
from kube_harness.processes import Processes
from kube_harness.programs import binary

NAME = "node"
POD_NETWORK = "10.244.0.0/24"
DNS_ADDRESS = "10.96.0.10"
DNS_READY_PORT = 8181
PROXY_HEALTH_PORT = 10256
START_SECONDS = 60.0


def start_containerd(processes: Processes, state: Path, found: Found) -> None:
    """Start containerd; `import_image` waits for it."""
    folder = state / "containerd"
    folder.mkdir()
    network = folder / "network"
    network.mkdir()
    (network / "10-node.conflist").write_text(json.dumps(_network(folder)))
    config = folder / "config.toml"
    config.write_text(_containerd_config(folder, network, found))
    programs = Path(binary("containerd")).parent
    environment = found.environment()
    environment["PATH"] = f"{programs}:{environment['PATH']}"
    command = [binary("containerd"), "--config", str(config), "--log-level", "warn"]
    processes.start("containerd", command, environment=environment)


def import_image(processes: Processes, state: Path, found: Found) -> None:
    """Give containerd the base image."""
    archive = state / "image.tar"
    image.write(archive, found.busybox)
    socket = state / "containerd" / "containerd.sock"
    processes.wait_until("containerd listens", socket.exists, START_SECONDS)
    ctr = [binary("ctr"), "--address", str(socket), "--namespace", "k8s.io"]
    processes.run([*ctr, "images", "import", "--local", str(archive)])


def start(
    processes: Processes, api: Api, authority: Authority, state: Path, server: str, group: str,
    found: Found,
) -> None:  # fmt: skip
    """Join the node to the cluster and return when pods run on it and find each other by name."""
    _start_kubelet(processes, authority, state, server, group)
    _start_proxy(processes, authority, state, server, found)
    _start_dns(processes, api, authority, state, server)

    def ready() -> bool:
        node = api.find("v1", "Node", NAME)
        conditions = node["status"].get("conditions", []) if node else []
        return {"Ready": "True"}.items() <= {c["type"]: c["status"] for c in conditions}.items()

    def healthy(port: int, path: str) -> bool:
        return _served(api, f"/api/v1/nodes/{NAME}:{port}/proxy/{path}")

    processes.wait_until("the node is ready", ready, START_SECONDS)
    processes.wait_until(
        "kube-proxy works", lambda: healthy(PROXY_HEALTH_PORT, "healthz"), START_SECONDS
    )
    processes.wait_until(
        "CoreDNS is ready", lambda: healthy(DNS_READY_PORT, "ready"), START_SECONDS
    )


def _served(api: Api, path: str) -> bool:
    try:
        api.request("GET", path)
    except ApiError:
        return False
    return True


def _network(folder: Path) -> dict[str, Any]:
    return {
        "cniVersion": "1.0.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": False,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(folder / "addresses"),
                    "ranges": [[{"subnet": POD_NETWORK}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }


def _containerd_config(folder: Path, network: Path, found: Found) -> str:
    plugins = Path(binary("ptp")).parent
    return f"""
version = 3
root = "{folder / "root"}"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri"]

[grpc]
address = "{folder / "containerd.sock"}"

[plugins."io.containerd.internal.v1.opt"]
path = "{folder / "opt"}"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{image.NAME}"

[plugins."io.containerd.cri.v1.runtime"]
# Without CAP_SYS_RESOURCE no process may be given a lower score than its parent's.
restrict_oom_score_adj = true
disable_apparmor = true

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{plugins}"]
conf_dir = "{network}"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{found.runc}"
SystemdCgroup = false
"""


def _start_kubelet(
    processes: Processes, authority: Authority, state: Path, server: str, group: str
) -> None:
    folder = state / "kubelet"
    folder.mkdir()
    serving = authority.issue(f"kubelet-{NAME}", hosts=[NAME, NODE_ADDRESS])
    resolver = state / "resolv.conf"
    # Names outside the cluster do not resolve: nothing of a test leaves the machine.
    resolver.write_text("")
    kubeconfig = authority.kubeconfig(
        state / "kubelet.kubeconfig", server, f"system:node:{NAME}", ["system:nodes"]
    )
    config = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_ADDRESS,
        "authentication": {
            "anonymous": {"enabled": False},
            "x509": {"clientCAFile": str(authority.files.cert)},
        },
        "tlsCertFile": str(serving.cert),
        "tlsPrivateKeyFile": str(serving.key),
        "containerRuntimeEndpoint": f"unix://{state / 'containerd' / 'containerd.sock'}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{group}",
        "enforceNodeAllocatable": [],
        "failCgroupV1": False,
        "failSwapOn": False,
        "oomScoreAdj": 0,
        "clusterDNS": [DNS_ADDRESS],
        "clusterDomain": "cluster.local",
        "resolvConf": str(resolver),
        "podLogsDir": str(processes.logs / "pods"),
        "volumePluginDir": str(folder / "plugins"),
        "makeIPTablesUtilChains": False,
        # A full disk is the machine's affair; pods of tests are not evicted for it.
        "evictionHard": {
            "memory.available": "1Mi",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
            "imagefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "nodeStatusUpdateFrequency": "5s",
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    command = [
        binary("kubelet"),
        f"--config={path}",
        f"--root-dir={folder}",
        f"--cert-dir={folder / 'pki'}",
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={NAME}",
        f"--node-ip={NODE_ADDRESS}",
    ]
    processes.start("kubelet", command)


def _start_proxy(
    processes: Processes, authority: Authority, state: Path, server: str, found: Found
) -> None:
    kubeconfig = authority.kubeconfig(state / "kube-proxy.kubeconfig", server, "system:kube-proxy")
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "hostnameOverride": NAME,
        "clusterCIDR": POD_NETWORK,
        "healthzBindAddress": f"{NODE_ADDRESS}:{PROXY_HEALTH_PORT}",
        "metricsBindAddress": "127.0.0.1:10249",
        "oomScoreAdj": 0,
        # The limits are the whole machine's: they stay as they are.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
    }
    path = state / "kube-proxy.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    command = [binary("kube-proxy"), f"--config={path}"]
    processes.start("kube-proxy", command, environment=found.environment())


def _start_dns(
    processes: Processes, api: Api, authority: Authority, state: Path, server: str
) -> None:
    for resource in yaml.safe_load_all((Path(__file__).parent / "dns.yaml").read_text()):
        api.create(resource)
    kubeconfig = authority.kubeconfig(state / "coredns.kubeconfig", server, "coredns")
    path = state / "Corefile"
    path.write_text(
        f""".:53 {{
    bind {NODE_ADDRESS}
    errors
    ready {NODE_ADDRESS}:{DNS_READY_PORT}
    kubernetes cluster.local in-addr.arpa {{
        kubeconfig {kubeconfig} vaco
        ttl 1
    }}
}}
"""
    )
    processes.start("coredns", [binary("coredns"), "-conf", str(path)])
