"""Which upstream programs a test cluster is made of, and where their pinned sources are named.

Each program has a Go module of its own in `tests/cluster/tools/`, so that one program's
dependencies never move another's. The version stands in its go.mod and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]
MODULES = Path(__file__).resolve().parents[1] / "tools"
CACHE = PROJECT / ".tools"
KEPT_BUILDS = 2


@dataclass(frozen=True, slots=True)
class Program:
    """One binary: the Go package it is built from and the module that pins that package.

    `version_symbol` is the Go variable that a release build sets; a cluster whose API server says
    v0.0.0 would be refused by clients that look at its version. `tags` are Go's build tags.
    """

    name: str
    module: str
    package: str
    requires: str
    version_symbol: str = ""
    tags: str = ""

    @property
    def folder(self) -> Path:
        """The folder of the tool module (`go.mod`, `go.sum`)."""
        return MODULES / self.module

    def version(self) -> str:
        """The version that go.mod pins, such as `v1.36.3`."""
        text = (self.folder / "go.mod").read_text()
        found = re.search(rf"^\s*(?:require\s+)?{re.escape(self.requires)} (v\S+)", text, re.M)
        if found is None:
            raise ValueError(f"{self.folder / 'go.mod'} does not require {self.requires}")
        return found.group(1)

    def link_flags(self) -> str:
        """Linker flags: no symbol table, and the version that the program reports."""
        stamp = f" -X {self.version_symbol}={self.version()}" if self.version_symbol else ""
        return f"-s -w{stamp}"

    def path(self) -> Path:
        """Where the binary is, or will be once built: keyed by all that decides its content."""
        return CACHE / f"{self.module}-{self.version()}-{self._key()}" / self.name

    def _key(self) -> str:
        digest = hashlib.sha256()
        for name in ("go.mod", "go.sum"):
            digest.update((self.folder / name).read_bytes())
        digest.update(json.dumps([*BUILD_FLAGS, *filter(None, [self.tags])]).encode())
        return digest.hexdigest()[:12]


# 1.27 breaks /openapi/v2 of Kubernetes 1.36.
GO_SERIES = "go1.26"
GO_TOOLCHAIN = "go1.26.8"
BUILD_FLAGS = ["-trimpath", "-mod=readonly", "-buildvcs=false"]

_K8S = "k8s.io/kubernetes"
_K8S_VERSION = "k8s.io/component-base/version.gitVersion"
_CONTAINERD = "github.com/containerd/containerd/v2"
_CNI = "github.com/containernetworking/plugins"


def _kubernetes(name: str) -> Program:
    return Program(name, "kubernetes", f"{_K8S}/cmd/{name}", _K8S, _K8S_VERSION)


def _containerd(name: str) -> Program:
    symbol = f"{_CONTAINERD}/version.Version"
    return Program(name, "containerd", f"{_CONTAINERD}/cmd/{name}", _CONTAINERD, symbol)


def _cni(name: str, kind: str) -> Program:
    return Program(name, "cni-plugins", f"{_CNI}/plugins/{kind}/{name}", _CNI)


CONTROL_PLANE = (
    Program("etcd", "etcd", "go.etcd.io/etcd/server/v3", "go.etcd.io/etcd/server/v3"),
    _kubernetes("kube-apiserver"),
    _kubernetes("kube-controller-manager"),
    _kubernetes("kube-scheduler"),
    _kubernetes("kubectl"),
)
SIMULATED_NODES = (Program("kwok", "kwok", "sigs.k8s.io/kwok/cmd/kwok", "sigs.k8s.io/kwok"),)
NODE = (
    _kubernetes("kubelet"),
    _kubernetes("kube-proxy"),
    _containerd("containerd"),
    _containerd("containerd-shim-runc-v2"),
    _containerd("ctr"),
    _cni("ptp", "main"),
    _cni("loopback", "main"),
    _cni("host-local", "ipam"),
    Program("coredns", "coredns", "github.com/coredns/coredns", "github.com/coredns/coredns"),
)
HELM = (
    Program(
        "helm", "helm", "helm.sh/helm/v4/cmd/helm", "helm.sh/helm/v4",
        "helm.sh/helm/v4/internal/version.version",
    ),
    Program(
        "helm3", "helm3", "helm.sh/helm/v3/cmd/helm", "helm.sh/helm/v3",
        "helm.sh/helm/v3/internal/version.version",
    ),
)  # fmt: skip
_HELM_UNITTEST = "github.com/helm-unittest/helm-unittest"
_PROMETHEUS = "github.com/prometheus/prometheus"
CHART = (
    *HELM,
    Program(
        "helm-unittest", "helm-unittest", f"{_HELM_UNITTEST}/cmd/helm-unittest", _HELM_UNITTEST
    ),
    # Without the clouds in which Prometheus finds its targets: they are most of what is compiled.
    Program(
        "promtool", "promtool", f"{_PROMETHEUS}/cmd/promtool", _PROMETHEUS, tags="remove_all_sd"
    ),
)
ALL = CONTROL_PLANE + SIMULATED_NODES + NODE + CHART


def binary(name: str) -> str:
    """The path of the built program of that name."""
    return str(next(program for program in ALL if program.name == name).path())
