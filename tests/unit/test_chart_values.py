"""The chart's values: what may be given is closed, explained, and the same in all three places."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from vaco_operator.cluster.settings import read_settings

PROJECT = Path(__file__).resolve().parents[2]
CHART = PROJECT / "charts" / "vaco"
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
# What Kubernetes defines, and its API server checks.
KUBERNETES_OWN = {
    "global",
    "operator.resources",
    "operator.affinity",
    "operator.tolerations",
    "operator.topologySpreadConstraints",
    "operator.extraEnv",
    "networkPolicy.metricsFrom",
    "test.spec",
}

Place = tuple[str, ...]


def _sections(part: dict[str, Any], place: Place = ()) -> Iterator[tuple[Place, dict[str, Any]]]:
    yield place, part
    for name, field in part.get("properties", {}).items():
        yield from _sections(field, (*place, name))


FIELDS = {".".join(place): part for place, part in _sections(SCHEMA) if place}
LEAVES = {name: part for name, part in FIELDS.items() if "properties" not in part}


def _default(name: str) -> Any:
    value: Any = VALUES
    for step in name.split("."):
        value = value[step]
    return value


def _row(name: str) -> str:
    return f"| `{name}` | `{json.dumps(_default(name))}` | {LEAVES[name]['description']} |"


@pytest.mark.parametrize("name", FIELDS)
def test_a_value_is_explained_and_closed(name: str) -> None:
    field = FIELDS[name]
    assert field["description"].endswith(".")
    if name in KUBERNETES_OWN:
        return
    if field["type"] == "object":
        others = field["additionalProperties"]
        assert others is False or others == {"type": "string"}, "unknown fields would be accepted"
    if field["type"] == "array":
        assert field["items"] != {"type": "object"}


def test_values_and_schema_have_the_same_fields() -> None:
    def names(part: Any, place: Place = ()) -> Iterator[str]:
        whole = ".".join(place)
        if isinstance(part, dict) and part and whole not in LEAVES:
            for name, value in part.items():
                yield from names(value, (*place, name))
        else:
            yield whole

    assert set(names(VALUES)) == set(LEAVES) - {"global"}


def test_the_readme_lists_every_value_with_its_default() -> None:
    values = (CHART / "README.md").read_text().partition("## Values")[2]
    table = [line for line in values.splitlines() if line.startswith("| `")]
    assert table == [_row(name) for name in LEAVES if name != "global"]


def test_the_versions_of_chart_images_and_package_agree() -> None:
    import tomllib

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    package = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
    assert chart["appVersion"] == package
    for program in ("operator", "learner", "actor"):
        dockerfile = (PROJECT / program / "Dockerfile").read_text()
        assert f"ARG VERSION={package}\n" in dockerfile


def test_the_operators_default_settings_are_the_charts() -> None:
    settings = read_settings(["--namespace=a", "--learner-image=b", "--actor-image=c"], {})
    operator, lease = VALUES["operator"], VALUES["operator"]["leaderElection"]
    assert (settings.workers, settings.resync_period) == (
        operator["workers"],
        operator["resyncSeconds"],
    )
    assert (settings.lease_duration, settings.renew_deadline, settings.retry_period) == (
        lease["leaseSeconds"],
        lease["renewSeconds"],
        lease["retrySeconds"],
    )
    assert settings.cluster_domain == operator["clusterDomain"]
    assert settings.log_level == operator["logLevel"]
