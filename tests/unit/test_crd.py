"""The CustomResourceDefinition says all that the models say; an API server's view is tested there.

`tests/cluster/test_crd.py` tries it on a real one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner
from vaco.job import VACOJob, load_job
from vaco.schema.base import Part
from vaco.schema.changes import change_of
from vaco.schema.tree import tree_of
from vaco_operator.cli import app
from vaco_operator.crd.cel import Field, escaped, one_of, quoted, validation
from vaco_operator.crd.definition import as_yaml, custom_resource_definition

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "charts/vaco/files/vacojobs.training.vaco.dev.yaml"
EXAMPLES = sorted(ROOT.glob("examples/*.yaml"))

Schema = dict[str, Any]


@pytest.fixture(scope="module")
def schema() -> Schema:
    (version,) = custom_resource_definition()["spec"]["versions"]
    return dict(version["schema"]["openAPIV3Schema"])


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """All schemas below one, each with its path; lists and mappings add nothing to it."""
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}" if path else name)
    for child in (schema.get("items"), schema.get("additionalProperties")):
        if child:
            yield from nodes(child, path)


def rules_at(schema: Schema, path: str) -> list[dict[str, str]]:
    return [
        rule
        for at, node in nodes(schema)
        if at == path
        for rule in node.get("x-kubernetes-validations", [])
    ]


def test_the_charts_definition_is_up_to_date() -> None:
    """Write it anew with `make crd`."""
    assert COMMITTED.read_text() == as_yaml(), "run `make crd` and commit what it writes"


def test_the_command_prints_it() -> None:
    printed = CliRunner().invoke(app, ["crd"]).stdout
    assert printed == as_yaml()
    assert yaml.safe_load(printed) == custom_resource_definition()


def parts(model: type[Part] = Part) -> Iterator[type[Part]]:
    for below in model.__subclasses__():
        yield below
        yield from parts(below)


def schema_parts() -> list[type[Part]]:
    return [part for part in parts() if part.__module__.startswith("vaco.")]


def test_every_rule_of_the_models_is_a_rule_of_the_api_server(schema: Schema) -> None:
    rules = [rule for part in schema_parts() for rule in part.rules]
    assert len(rules) >= 11
    written = [
        each for _, node in nodes(schema) for each in node.get("x-kubernetes-validations", [])
    ]
    for rule in rules:
        at = "".join(f".{name}" for name in rule.at)
        found = [each for each in written if rule.cel.holds in each["rule"]]
        assert [each.get("fieldPath", "") for each in found] == [at], rule.cel.holds
        told = found[0].get("message") or found[0]["messageExpression"]
        literals = re.split(r"\{[^{}]+\}", rule.cel.told)
        if "messageExpression" in found[0]:
            literals = [each.replace("'", "\\'") for each in literals]
        assert all(each in told for each in literals), told


def test_a_rule_of_one_variant_is_not_judged_with_another(schema: Schema) -> None:
    (rule,) = [
        each
        for each in rules_at(schema, "spec.policy.network")
        if "channels of nature" in each.get("message", "")
    ]
    assert rule["rule"].startswith("!has(self.type) || self.type != 'cnn' || (")


def test_every_field_that_must_not_change_has_a_rule_at_its_own_path(schema: Schema) -> None:
    told = {
        rule["fieldPath"].lstrip("."): rule["rule"]
        for rule in rules_at(schema, "spec")
        if "oldSelf" in rule["rule"]
    }
    # That it neither comes nor goes is one rule; its fields have their own.
    stays = "has(self.learner.storage) == has(oldSelf.learner.storage)"
    assert told.pop("learner.storage") == stays
    for path, node in tree_of(VACOJob).fields["spec"].walk():
        when = change_of(path)
        covering = [rule for at, rule in told.items() if f"{path}.".startswith(f"{at}.")]
        if when == "any time":
            assert covering == [], path
        elif when is not None and not (node.fields or node.variants):
            (rule,) = covering
            assert ("oldSelf.suspend" in rule) == (when == "while suspended"), path
    named = {"task.kwargs", "policy.core", "algorithm.name", "learner.storage.claimName"}
    assert named <= told.keys()


def test_fields_of_a_part_that_may_be_left_out_are_compared_where_it_is_there_twice(
    schema: Schema,
) -> None:
    rules = {rule["fieldPath"]: rule["rule"] for rule in rules_at(schema, "spec")}
    storage = {path: rule for path, rule in rules.items() if path.startswith(".learner.storage.")}
    assert storage.keys() == {
        ".learner.storage.storageClassName",
        ".learner.storage.accessMode",
        ".learner.storage.claimName",
    }
    missing = "!has(self.learner.storage) || !has(oldSelf.learner.storage) || "
    assert all(rule.startswith(missing) for rule in storage.values())
    assert "size" not in "".join(storage.values())


def test_a_field_of_some_variants_is_refused_beside_the_others(schema: Schema) -> None:
    rules = {rule["fieldPath"]: rule["rule"] for rule in rules_at(schema, "spec.algorithm")}
    assert rules[".delta"] == "!has(self.delta) || self.name in ['vaco', 'vaco-lm']"
    assert rules[".rhoBar"] == "!has(self.rhoBar) || self.name in ['vaco', 'impala']"
    assert ".epochs" not in rules
    algorithm = schema["properties"]["spec"]["properties"]["algorithm"]["properties"]
    assert algorithm["epochs"]["default"] == 1
    assert "default" not in algorithm["delta"]
    assert algorithm["name"]["enum"] == [
        *("vaco", "ppo", "ppo-kl", "spo", "impala"),
        *("vaco-lm", "grpo", "dppo", "tis"),
    ]


def test_a_field_that_only_some_variants_need_is_asked_for_beside_those(schema: Schema) -> None:
    rules = {
        rule["fieldPath"]: rule["rule"]
        for rule in rules_at(schema, "spec.task")
        if rule["reason"] == "FieldValueRequired"
    }
    assert rules == {".environment": "!(self.type == 'gymnasium') || has(self.environment)"}
    assert "environment" not in schema["properties"]["spec"]["properties"]["task"].get(
        "required", ()
    )


def test_every_field_is_described_and_says_what_it_takes(schema: Schema) -> None:
    spec = schema["properties"]["spec"]
    described = {path: node["description"] for path, node in nodes(spec) if "description" in node}
    fields = {path for path, _ in tree_of(VACOJob).fields["spec"].walk()}
    assert fields == described.keys() - {""}
    delta = described["algorithm.delta"]
    assert (
        "Value: a number above 0 and up to 2 (default 0.2). Only with `name: vaco-lm`. Total"
        in delta
    )
    assert "Value: a number above 0 and up to 2 (default 0.01). May change: while" in delta


def test_a_pod_template_gets_no_defaults(schema: Schema) -> None:
    learner = schema["properties"]["spec"]["properties"]["learner"]["properties"]
    template = learner["podTemplate"]
    assert [path for path, node in nodes(template) if "default" in node] == []
    containers = template["properties"]["spec"]["properties"]["containers"]["items"]
    assert containers["x-kubernetes-preserve-unknown-fields"]
    assert containers["properties"]["image"]["minLength"] == 1


def test_a_status_is_never_refused_for_what_it_says(schema: Schema) -> None:
    status = schema["properties"]["status"]
    required = {path: node["required"] for path, node in nodes(status) if "required" in node}
    assert required == {"conditions": ["type"]}
    bounds = {"minimum", "maximum", "enum", "default", "pattern", "maxLength"}
    assert [path for path, node in nodes(status) if bounds & node.keys()] == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_conforms(schema: Schema, path: Path) -> None:
    document = load_job(path).model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert list(misfits(document, schema)) == []
    document["spec"]["learner"]["batchSzie"] = 1
    document["spec"]["actors"]["maxReplicas"] = 5000
    document["spec"]["stop"] = []
    assert sorted(misfits(document, schema)) == [
        "spec.actors.maxReplicas: 5000",
        "spec.learner.batchSzie: unknown",
        "spec.stop: []",
    ]


KINDS = {
    "object": dict,
    "array": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "number": (int, float),
}


def fits(value: Any, schema: Schema) -> bool:
    """Whether a value is of the type, among the choices and within the bounds."""
    if not isinstance(value, KINDS[schema["type"]]) or value not in schema.get("enum", [value]):
        return False
    low, high = schema.get("minimum", value), schema.get("maximum", value)
    return not isinstance(value, int | float) or bool(low <= value <= high)


def misfits(value: Any, schema: Schema, path: str = "") -> Iterator[str]:
    """Where a document is not of a structural schema, as far as examples can go wrong."""
    kind = schema.get("type")
    if kind is None or path == "metadata":
        return
    if not fits(value, schema):
        yield f"{path}: {value}"
    elif kind == "object" and "properties" in schema:
        for name in sorted({*value, *schema.get("required", [])}):
            here = f"{path}.{name}" if path else name
            if name not in schema["properties"] or name not in value:
                yield f"{here}: unknown" if name in value else f"{here}: missing"
            else:
                yield from misfits(value[name], schema["properties"][name], here)
    elif kind == "array":
        for i, item in enumerate(value):
            yield from misfits(item, schema["items"], f"{path}[{i}]")


def test_columns_and_subresources_name_fields_that_exist() -> None:
    (version,) = custom_resource_definition()["spec"]["versions"]
    fields = dict(nodes(version["schema"]["openAPIV3Schema"]))
    columns = {column["name"]: column for column in version["additionalPrinterColumns"]}
    always = [name for name, column in columns.items() if not column.get("priority")]
    assert always == ["Phase", "Ready", "Desired", "Version", "Steps", "Return", "Lag", "Age"]
    assert columns["Accuracy"]["jsonPath"] == ".status.accuracy.latest"
    assert columns["Accuracy"]["priority"] == 1
    for column in columns.values():
        path = column["jsonPath"].lstrip(".")
        if path != "metadata.creationTimestamp":
            assert fields[path]["type"] == column["type"]
    for path in version["subresources"]["scale"].values():
        assert path.lstrip(".") in fields


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("plain", {"message": "plain"}),
        ("50% of {self.a}", {"messageExpression": "'50%% of %s'.format([self.a])"}),
        ("it's {self.a}{self.b}", {"messageExpression": "'it\\'s %s%s'.format([self.a, self.b])"}),
    ],
)
def test_texts_become_cel(told: str, expected: dict[str, str]) -> None:
    written = validation("true", ["a", "b"], told)
    assert written == {
        "rule": "true",
        "reason": "FieldValueInvalid",
        "fieldPath": ".a.b",
        **expected,
    }


def test_names_and_words_are_spelled_for_cel() -> None:
    assert escaped("return") == "__return__"
    assert escaped("stop") == "stop"
    assert quoted("it's a \\") == "'it\\'s a \\\\'"
    assert one_of("self.a", ["x"]) == "self.a == 'x'"
    field = Field(("stop", "return"), optional=True)
    new, old = "self.stop.__return__", "oldSelf.stop.__return__"
    assert field.unchanged == f"has({new}) == has({old}) && (!has({new}) || {new} == {old})"
    assert Field(("a",)).changed == "!(self.a == oldSelf.a)"


def test_a_field_left_out_is_compared_by_what_that_means(schema: Schema) -> None:
    """A manifest that spells out the defaults of its variant is no change."""
    told = {rule["fieldPath"]: rule["rule"] for rule in rules_at(schema, "spec")}
    new, old = "self.algorithm.realign", "oldSelf.algorithm.realign"
    meant = f'(has({new}) ? {new} : "once") == (has({old}) ? {old} : "once")'
    assert told[".algorithm.realign"] == f"oldSelf.suspend || {meant}"
    delta = "self.algorithm.delta"
    assert (
        f"(has({delta}) ? {delta} : self.algorithm.name == 'vaco-lm' ? 0.01 : 0.2) == "
        in (told[".algorithm.delta"])
    )
    assert "?" not in told[".policy.network"]
