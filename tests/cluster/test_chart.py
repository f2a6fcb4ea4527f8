"""The chart renders, is refused with the value's name, and is what an API server takes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kube_harness.api import Api, ApiError
from kube_harness.helm import CHART, Helm, Refused
from kube_harness.programs import binary
from operator_harness import jobs
from operator_harness.accounts import JOB_RULES
from vaco_operator.cluster.settings import PREFIX, Settings, read_settings

if TYPE_CHECKING:
    from kube_harness.cluster import Cluster

pytestmark = pytest.mark.cluster

MONITORING = "monitoring.coreos.com/v1"
PEER = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
EVERYTHING: dict[str, Any] = {
    "commonLabels": {"team": "rl"},
    "images": {"registry": "registry.example.com/team", "pullSecrets": ["pull"]},
    "operator": {"replicas": 2, "priorityClassName": "system-cluster-critical"},
    "networkPolicy": {"restrictEgress": True, "metricsFrom": [PEER]},
    "monitoring": {
        name: {"enabled": True}
        for name in ("serviceMonitor", "podMonitor", "prometheusRule", "dashboards")
    },
}
NOTHING: dict[str, Any] = {
    "crds": {"enabled": False},
    "serviceAccount": {"create": False, "name": "mine"},
    "rbac": {"create": False, "userRoles": False},
    "networkPolicy": {"enabled": False},
    "test": {"enabled": False},
}
CLUSTER_SCOPED = {"ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"}


@pytest.fixture(params=["helm", "helm3"])
def helm(request: pytest.FixtureRequest, chart_programs: None, tmp_path: Path) -> Helm:  # noqa: ARG001
    return Helm(request.param, tmp_path)


@pytest.fixture
def api(control_plane: Cluster) -> Iterator[Api]:
    with closing(Api(control_plane.kubeconfig)) as api:
        yield api


@pytest.mark.parametrize("values", [{}, EVERYTHING, NOTHING], ids=["default", "all", "least"])
def test_lint_has_nothing_to_say(helm: Helm, values: dict[str, Any]) -> None:
    told = helm.run("lint", str(CHART), "--strict", values=values)
    assert "0 chart(s) failed" in told


@pytest.mark.usefixtures("chart_programs")
def test_the_unit_tests_pass() -> None:
    done = subprocess.run(
        [binary("helm-unittest"), "--strict", "--color=false", str(CHART)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"replicas": 3}, "replicas"),
        ({"operator": {"replica": 3}}, "replica"),
        ({"operator": {"replicas": "three"}}, "replicas"),
        ({"operator": {"replicas": -1}}, "replicas"),
        ({"operator": {"logLevel": "chatty"}}, "logLevel"),
        ({"operator": {"leaderElection": {"leaseSeconds": 0}}}, "leaseSeconds"),
        ({"images": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"images": {"learner": {"digest": "sha256:short"}}}, "digest"),
        ({"images": {"actor": {"repository": "has:tag"}}}, "repository"),
        ({"images": {"gpu": {"repository": "x"}}}, "gpu"),
        ({"watch": {"namespaces": "team-a"}}, "namespaces"),
        ({"watch": {"namespaces": ["Team_A"]}}, "namespaces"),
        ({"watch": {"namespaces": ["a", "a"]}}, "namespaces"),
        ({"crds": {"keep": "yes"}}, "keep"),
        ({"networkPolicy": {"apiServer": {"ports": []}}}, "ports"),
        ({"monitoring": {"serviceMonitor": {"interval": "often"}}}, "interval"),
        ({"test": {"wallClockSeconds": 0}}, "wallClockSeconds"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(
    helm: Helm, values: dict[str, Any], name: str
) -> None:
    with pytest.raises(Refused, match=name):
        helm.template("vaco", "ops", values)


def test_every_setting_that_the_chart_gives_is_one_that_the_operator_reads(helm: Helm) -> None:
    rendered = helm.template("vaco", "ops", EVERYTHING | {"watch": {"namespaces": ["a", "b"]}})
    environment = _environment(_only(rendered, "Deployment"))

    known = {PREFIX + name.upper() for name in Settings.__slots__}
    assert environment.keys() <= known
    settings = read_settings([], environment | {f"{PREFIX}NAMESPACE": "ops"})
    assert settings.watch_namespaces == ("a", "b")
    assert settings.learner_image == "registry.example.com/team/vaco-learner:0.1.0"
    assert settings.image_pull_secrets == ("pull",)
    assert settings.root_secret == "vaco-root"  # noqa: S105
    assert settings.lease_name == "vaco-operator"


def test_named_namespaces_need_nothing_of_the_cluster(helm: Helm) -> None:
    values = {
        "watch": {"namespaces": ["team-a", "team-b"]},
        "crds": {"enabled": False},
        "rbac": {"userRoles": False},
    }
    rendered = helm.template("vaco", "ops", values)
    assert {document["kind"] for document in rendered} & CLUSTER_SCOPED == set()
    roles = [d["metadata"]["namespace"] for d in rendered if _is_of_jobs(d, "Role")]
    assert roles == ["team-a", "team-b"]


def test_named_namespaces_bind_no_account_in_the_cluster(helm: Helm) -> None:
    rendered = helm.template("vaco", "ops", {"watch": {"namespaces": ["team-a"]}})
    assert "ClusterRoleBinding" not in {document["kind"] for document in rendered}


def test_both_scopes_allow_the_same(helm: Helm) -> None:
    whole = helm.template("vaco", "ops")
    named = helm.template("vaco", "ops", {"watch": {"namespaces": ["team-a"]}})
    cluster_role = next(d for d in whole if _is_of_jobs(d, "ClusterRole"))
    role = next(d for d in named if _is_of_jobs(d, "Role"))
    assert cluster_role["rules"] == role["rules"]


def test_the_operators_of_all_tests_here_run_under_the_charts_rules(helm: Helm) -> None:
    whole = helm.template("vaco", "ops")
    rules = next(d for d in whole if _is_of_jobs(d, "ClusterRole"))["rules"]
    assert rules == list(JOB_RULES)


def test_no_rule_has_a_wildcard(helm: Helm) -> None:
    roles = [d for d in helm.template("vaco", "ops", EVERYTHING) if d["kind"].endswith("Role")]
    assert len(roles) == 5
    assert "*" not in json.dumps([role["rules"] for role in roles])


@pytest.mark.parametrize("command", ["check", "test"])
def test_alerts_fire_when_they_should_and_only_then(helm: Helm, command: str) -> None:
    rendered = helm.template("vaco", "ops", EVERYTHING)
    groups = _only(rendered, "PrometheusRule")["spec"]
    (helm.home / "rules.yaml").write_text(yaml.safe_dump(groups))
    played = helm.home / "alerts.yaml"
    played.write_text((CHART / "tests" / "alerts.yaml").read_text())
    given = "rules.yaml" if command == "check" else played.name

    done = subprocess.run(
        [binary("promtool"), command, "rules", given],
        cwd=helm.home, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.usefixtures("chart_programs")
@pytest.mark.parametrize("name", ["job", "operator"])
def test_the_queries_of_a_dashboard_are_ones(tmp_path: Path, name: str) -> None:
    board = json.loads((CHART / "files" / "dashboards" / f"{name}.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    assert len(queries) > 15
    # Whoever checks rules checks queries; Grafana's variables are only text in them.
    rules = [
        {"record": f"query:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries)
    ]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": name, "rules": rules}]}))

    done = subprocess.run(
        [binary("promtool"), "check", "rules", str(path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["vaco", 53 * "a"], ids=["short", "longest"])
def test_names_fit_whatever_the_release_is_called(helm: Helm, name: str) -> None:
    rendered = helm.template(name, "ops", EVERYTHING)
    for document in rendered:
        assert len(document["metadata"]["name"]) <= 63
    tested = next(d for d in rendered if d["kind"] == "ConfigMap" and "job.json" in d["data"])
    assert len(json.loads(tested["data"]["job.json"])["metadata"]["name"]) <= 52


@pytest.mark.parametrize("scope", ["cluster", "namespaces"])
@pytest.mark.usefixtures("monitoring_kinds")
def test_an_api_server_takes_all_of_it(helm: Helm, api: Api, namespace: str, scope: str) -> None:
    watch = {"watch": {"namespaces": [namespace]}} if scope == "namespaces" else {}
    rendered = helm.template("vaco", namespace, EVERYTHING | watch)
    kinds = {document["kind"] for document in rendered}
    assert {"Deployment", "ServiceMonitor", "PodMonitor", "PrometheusRule", "Pod"} <= kinds

    for document in rendered:
        if document["kind"] == "ServiceAccount":
            # A pod is admitted only if its account is there.
            api.apply(document, manager="helm")
        _dry_run(api, document)


def test_an_api_server_takes_the_jobs_that_test_and_notes_have(
    helm: Helm, api: Api, namespace: str, control_plane: Cluster
) -> None:
    jobs.install_definition(api)
    rendered = helm.template("vaco", namespace)
    tested = next(d for d in rendered if d["kind"] == "ConfigMap")
    _dry_run(api, json.loads(tested["data"]["job.json"]))

    told = Helm(helm.program, helm.home, control_plane.kubeconfig).run(
        "install",
        "vaco",
        str(CHART),
        "--namespace",
        namespace,
        "--dry-run=client",
        values={"crds": {"enabled": False}},
    )
    text = told.partition("<<'JOB'\n")[2].partition("JOB\n")[0]
    noted = yaml.safe_load(text)
    noted["metadata"]["namespace"] = namespace
    _dry_run(api, noted)


@pytest.fixture
def monitoring_kinds(api: Api, control_plane: Cluster) -> None:
    """Stand-ins for the definitions of the Prometheus operator: any spec will do. They stay."""
    if control_plane.tier == "existing":
        pytest.skip("would install definitions, and the cluster given may have the real ones")
    plurals = {
        "ServiceMonitor": "servicemonitors",
        "PodMonitor": "podmonitors",
        "PrometheusRule": "prometheusrules",
    }
    for kind, plural in plurals.items():
        api.apply(_definition(kind, plural), manager="test", force=True)
    for kind in plurals:
        api.wait_for(f"{kind} is served", lambda kind=kind: _served(api, kind))  # type: ignore[misc]


def _definition(kind: str, plural: str) -> dict[str, Any]:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema},
    }  # fmt: skip
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.monitoring.coreos.com"},
        "spec": {
            "group": "monitoring.coreos.com",
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [version],
        },
    }


def _served(api: Api, kind: str) -> bool:
    try:
        api.list(MONITORING, kind)
    except (ApiError, KeyError):
        return False
    return True


def _dry_run(api: Api, document: dict[str, Any]) -> None:
    """Have the API server check a document as if it were created; unknown fields are refused."""
    metadata = document["metadata"]
    path = api.path(
        document["apiVersion"], document["kind"], metadata["name"], metadata.get("namespace", "")
    )
    query = {
        "dryRun": "All", "fieldValidation": "Strict", "fieldManager": "helm", "force": "true",
    }  # fmt: skip
    api.request("PATCH", path, document, query=query, content_type="application/apply-patch+yaml")


def _only(rendered: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    found = [document for document in rendered if document["kind"] == kind]
    assert len(found) == 1
    return found[0]


def _environment(deployment: dict[str, Any]) -> dict[str, str]:
    """What the operator is told, but for what comes from its own pod."""
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


def _is_of_jobs(document: dict[str, Any], kind: str) -> bool:
    resources = [name for rule in document.get("rules", []) for name in rule["resources"]]
    return document["kind"] == kind and "vacojobs/finalizers" in resources
