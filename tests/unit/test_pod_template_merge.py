"""The user's pod template in ours; tests/cluster/test_manifests.py compares with the API server."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from vaco.errors import UserError
from vaco_operator.cluster.manifests.merge import merged

BASE: dict[str, Any] = {
    "metadata": {"labels": {"app": "vaco"}, "annotations": {"a": "1"}},
    "spec": {
        "terminationGracePeriodSeconds": 30,
        "securityContext": {"runAsUser": 65532, "runAsNonRoot": True},
        "tolerations": [{"key": "lost", "effect": "NoExecute", "tolerationSeconds": 30}],
        "volumes": [{"name": "run", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}],
        "containers": [
            {
                "name": "actor",
                "image": "ours",
                "command": ["python", "-m", "vaco_actor"],
                "env": [{"name": "HOME", "value": "/scratch"}, {"name": "THREADS", "value": "1"}],
                "ports": [{"name": "metrics", "containerPort": 9090}],
                "volumeMounts": [{"name": "tmp", "mountPath": "/scratch"}],
            }
        ],
    },
}


def merge(spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return merged(BASE, {"metadata": metadata, "spec": spec}, "spec.actors.podTemplate")


def container(change: dict[str, Any]) -> dict[str, Any]:
    spec = merge({"containers": [{"name": "actor", **change}]})["spec"]
    (only,) = spec["containers"]
    return dict(only)


def test_nothing_changes_nothing_and_the_result_is_a_copy() -> None:
    before = deepcopy(BASE)
    result = merged(BASE, {}, "spec.actors.podTemplate")
    assert result == BASE
    result["spec"]["containers"][0]["env"].clear()
    result["metadata"]["labels"].clear()
    assert before == BASE


def test_what_was_merged_is_a_copy_of_the_users_too() -> None:
    change: dict[str, Any] = {"spec": {"affinity": {"nodeAffinity": {"terms": [1]}}}}
    merged(BASE, change, "x")["spec"]["affinity"]["nodeAffinity"]["terms"].append(2)
    assert change["spec"]["affinity"]["nodeAffinity"]["terms"] == [1]


def test_mappings_are_merged_field_by_field() -> None:
    spec = merge({"securityContext": {"runAsUser": 1000}}, labels={"team": "rl"})
    assert spec["spec"]["securityContext"] == {"runAsUser": 1000, "runAsNonRoot": True}
    assert spec["metadata"]["labels"] == {"app": "vaco", "team": "rl"}


def test_null_takes_a_field_away_wherever_it_is() -> None:
    spec = merge({"securityContext": {"runAsUser": None}, "tolerations": None, "priority": None})
    assert spec["spec"]["securityContext"] == {"runAsNonRoot": True}
    assert "tolerations" not in spec["spec"]
    assert "priority" not in spec["spec"]
    assert merge({"affinity": {"a": None, "b": {"c": None}}})["spec"]["affinity"] == {"b": {}}


def test_a_container_of_our_name_is_ours_and_another_comes_beside_it() -> None:
    containers = merge(
        {"containers": [{"name": "proxy", "image": "theirs"}, {"name": "actor", "image": "new"}]}
    )["spec"]["containers"]
    assert [each["name"] for each in containers] == ["actor", "proxy"]
    assert containers[0] == {**BASE["spec"]["containers"][0], "image": "new"}


def test_a_command_is_replaced() -> None:
    assert container({"command": ["sh"]})["command"] == ["sh"]


def test_a_variable_is_replaced_whole_in_its_place_or_added_behind() -> None:
    """Merged, it would have a value and a source, which the API refuses."""
    source = {"name": "HOME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    env = container({"env": [{"name": "NEW", "value": "$(HOME)"}, source]})["env"]
    assert env == [source, {"name": "THREADS", "value": "1"}, {"name": "NEW", "value": "$(HOME)"}]


def test_a_volume_is_replaced_whole() -> None:
    volumes = merge({"volumes": [{"name": "run", "hostPath": {"path": "/data"}}]})["spec"][
        "volumes"
    ]
    assert volumes[0] == {"name": "run", "hostPath": {"path": "/data"}}
    assert volumes[1] == {"name": "tmp", "emptyDir": {}}


def test_mounts_are_told_apart_by_path_and_ports_by_number() -> None:
    changed = container(
        {
            "volumeMounts": [
                {"name": "big", "mountPath": "/scratch"},
                {"name": "t", "mountPath": "/t"},
            ],
            "ports": [{"containerPort": 9090, "hostPort": 9090}, {"containerPort": 80}],
        }
    )
    assert changed["volumeMounts"] == [
        {"name": "big", "mountPath": "/scratch"},
        {"name": "t", "mountPath": "/t"},
    ]
    assert changed["ports"] == [
        {"name": "metrics", "containerPort": 9090, "hostPort": 9090},
        {"containerPort": 80},
    ]


def test_tolerations_are_added_and_one_of_the_same_taint_replaces_ours() -> None:
    ours = BASE["spec"]["tolerations"][0]
    spot = {"key": "spot", "operator": "Exists"}
    patient = {"key": "lost", "effect": "NoExecute", "operator": "Exists"}
    assert merge({"tolerations": [spot]})["spec"]["tolerations"] == [ours, spot]
    assert merge({"tolerations": [patient]})["spec"]["tolerations"] == [patient]
    everything = {"operator": "Exists"}
    assert merge({"tolerations": [everything]})["spec"]["tolerations"] == [ours, everything]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (
            {"containers": [{"image": "x"}]},
            "`spec.actors.podTemplate.spec.containers[0]`: has no name. Give `name`: it tells",
        ),
        ({"containers": {"name": "actor"}}, "spec.containers`: no list. Give a list"),
        ({"containers": ["actor"]}, "spec.containers[0]`: no mapping. Write its fields"),
        ({"securityContext": "none"}, "spec.securityContext`: no mapping. Give a mapping"),
        (
            {"containers": [{"name": "actor", "env": [{"$patch": "delete", "name": "HOME"}]}]},
            "spec.containers[0].env[0].$patch`: a directive. Set a field to null to take it away.",
        ),
        ({"$patch": "replace"}, "podTemplate.spec.$patch`: a directive."),
    ],
)
def test_what_cannot_be_merged_is_refused_by_its_path(spec: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as refused:
        merge(spec)
    assert told in str(refused.value)


def test_a_mapping_in_place_of_a_word_is_left_to_the_api_server_to_refuse() -> None:
    assert container({"image": {"name": "x"}})["image"] == {"name": "x"}
