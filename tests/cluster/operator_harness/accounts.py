"""Service accounts with roles of a test's own: each operator is somebody, with a token.

So the API server's audit log tells replicas apart, and refuses what a role does not allow.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

if TYPE_CHECKING:
    from kube_harness.api import Api

RBAC: Final = "rbac.authorization.k8s.io/v1"
TOKEN_SECONDS: Final = 7200

_CHILDREN: Final = ("configmaps", "services", "persistentvolumeclaims")
_APPLIED: Final = ("get", "list", "watch", "create", "patch")


def _rule(group: str, resources: Sequence[str], verbs: Sequence[str]) -> dict[str, Any]:
    return {"apiGroups": [group], "resources": list(resources), "verbs": list(verbs)}


JOB_RULES: Final = (
    _rule("training.vaco.dev", ["vacojobs"], ["list", "watch", "delete"]),
    _rule("training.vaco.dev", ["vacojobs/status"], ["patch"]),
    # An owner reference with blockOwnerDeletion needs a say over the owner's deletion.
    _rule("training.vaco.dev", ["vacojobs/finalizers"], ["update"]),
    _rule("", _CHILDREN, _APPLIED),
    _rule("networking.k8s.io", ["networkpolicies"], _APPLIED),
    _rule("apps", ["deployments"], _APPLIED),
    _rule("batch", ["jobs"], [*_APPLIED, "delete"]),
    _rule("", ["secrets"], ["create", "patch"]),
    _rule("", ["pods"], ["list", "watch", "patch", "delete"]),
    _rule("", ["pods/status"], ["patch"]),
    _rule("", ["events"], ["list", "create", "patch"]),
)
"""What the operator does where jobs are: the same as the chart's `vaco.rules`."""
OWN_RULES: Final = (
    {
        "apiGroups": ["coordination.k8s.io"],
        "resources": ["leases"],
        "verbs": ["get", "create", "update"],
    },
    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "create"]},
)
"""What it does in its own namespace."""


def operator_account(
    api: Api,
    kubeconfig: Path,
    folder: Path,
    namespace: str,
    name: str,
    watch_namespaces: Sequence[str],
) -> Path:
    """Make a service account that may be an operator, and return a kubeconfig for it.

    Args:
        api: of an administrator.
        kubeconfig: where the API server is.
        folder: gets the file.
        namespace: the operator's own.
        name: of the account.
        watch_namespaces: where it may look after jobs; empty: in the whole cluster.

    """
    api.create(
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": name, "namespace": namespace},
        }
    )
    _grant(api, namespace, name, namespace, OWN_RULES, "own")
    for where in watch_namespaces or ("",):
        _grant(api, namespace, name, where, JOB_RULES, "jobs")
    return account_kubeconfig(api, kubeconfig, folder, namespace, name)


def account_kubeconfig(api: Api, kubeconfig: Path, folder: Path, namespace: str, name: str) -> Path:
    """Return a kubeconfig for a service account that is there; `folder` gets the file."""
    token = _token(api, namespace, name)
    document = yaml.safe_load(kubeconfig.read_text())
    user = {"name": name, "user": {"token": token}}
    context = {"cluster": document["clusters"][0]["name"], "user": name}
    path = folder / f"{name}.kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {
                **document,
                "users": [user],
                "contexts": [{"name": "test", "context": context}],
                "current-context": "test",
            }
        )
    )
    return path


def username(namespace: str, name: str) -> str:
    """Return what the audit log calls a service account."""
    return f"system:serviceaccount:{namespace}:{name}"


def _grant(
    api: Api,
    namespace: str,
    name: str,
    where: str,
    rules: Sequence[dict[str, Any]],
    purpose: str,
) -> None:
    """Allow the account what `rules` say in the namespace `where`; empty: in all."""
    kind = "Role" if where else "ClusterRole"
    role_name = f"{namespace}-{name}-{purpose}"
    metadata = {"name": role_name, **({"namespace": where} if where else {})}
    subject = {"kind": "ServiceAccount", "name": name, "namespace": namespace}
    reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": role_name}
    api.create({"apiVersion": RBAC, "kind": kind, "metadata": metadata, "rules": list(rules)})
    api.create(
        {
            "apiVersion": RBAC,
            "kind": f"{kind}Binding",
            "metadata": metadata,
            "subjects": [subject],
            "roleRef": reference,
        }
    )


def _token(api: Api, namespace: str, name: str) -> str:
    request = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": TOKEN_SECONDS},
    }
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
    token: str = json.loads(api.request("POST", path, request))["status"]["token"]
    return token
