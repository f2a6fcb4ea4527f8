"""Documentation that is read off the models."""

from pathlib import Path

import pytest
from vaco.errors import UserError
from vaco.explain import explain, main, markdown
from vaco.job import VACOJob
from vaco.schema.changes import change_of
from vaco.schema.tree import tree_of

REFERENCE = Path(__file__).parents[2] / "docs" / "vacojob.md"


def test_a_field_is_told_with_value_default_and_meaning() -> None:
    told = explain("spec.algorithm.delta")
    head, _, meaning = told.splitlines()[:3]
    assert head == "spec.algorithm.delta: a number above 0 and up to 2 (default 0.2)"
    assert meaning.startswith("Only with `name: vaco`. Total variation allowed between the policy")
    assert explain("algorithm.delta") == told


@pytest.mark.parametrize(
    ("path", "head"),
    [
        ("spec", "spec: a mapping (required)"),
        ("metadata.name", "metadata.name: text (required)"),
        ("task.vectorisation", "spec.task.vectorisation: auto, vectorEntryPoint, sync, async or "),
        ("task.wrappers[0].name", "spec.task.wrappers.name: text (required)"),
        ("stop.return.episodes", "spec.stop.return.episodes: an integer from 1 to 100000 (default"),
        ("policy.network.type", "spec.policy.network.type: mlp or cnn (default mlp)"),
        ("policy.core", "spec.policy.core: a mapping, or null (default null)"),
        ("actors.maxReplicas", "spec.actors.maxReplicas: an integer from 1 to 4096\n"),
        ("learner.replicas", "spec.learner.replicas: an integer that is 1 (default 1)"),
        (
            "learner.podTemplate.spec.containers.resources.limits",
            "spec.learner.podTemplate.spec.containers.resources.limits: a mapping\n",
        ),
        ("status.lag.p95", "status.lag.p95: a number of at least 0 (default 0.0)"),
        ("status.startTime", "status.startTime: a time such as 2026-01-31T12:00:00Z, or null"),
    ],
)
def test_heads(path: str, head: str) -> None:
    assert explain(path).startswith(head)


def test_what_variants_share_is_told_once_and_what_they_do_not_with_its_condition() -> None:
    told = explain("spec.algorithm")
    names = "vaco, ppo, ppo-kl, spo, impala, vaco-lm, grpo, dppo or tis"
    assert f"  name: {names} (default vaco)\n" in told
    assert told.count("  epochs: ") == 1
    assert told.count("  rhoBar: ") == 1
    assert "Only with `name: vaco, impala`. Bound of V-trace's ratio at" in told
    network = explain("policy.network.activation")
    assert "(default tanh)\n\nOnly with `type: mlp`." in network
    assert "(default relu)\n\nOnly with `type: cnn`." in network


@pytest.mark.parametrize(
    ("path", "when"),
    [
        ("spec.seed", "never"),
        ("algorithm.name", "never"),
        ("algorithm.delta", "while suspended"),
        ("actors.maxReplicas", "any time"),
        ("learner.podTemplate.spec.containers[0].image", "any time"),
        ("task.wrappers[0].name", "never"),
    ],
)
def test_a_field_of_spec_says_when_it_may_change(path: str, when: str) -> None:
    assert f"\nMay change on a cluster: {when}.\n" in f"{explain(path)}\n"


def test_what_has_no_single_time_to_change_says_none() -> None:
    assert "May change" not in explain("spec.algorithm")
    assert "May change" not in explain("status.phase")


def test_it_is_decided_for_every_field_of_spec_when_it_may_change() -> None:
    paths = [path for path, _ in tree_of(VACOJob).walk() if path.startswith("spec.")]
    assert {change_of(path.removeprefix("spec.")) for path in paths} == {
        "any time",
        "while suspended",
        "never",
        None,
    }
    with pytest.raises(KeyError):
        change_of("invention")


def test_without_a_path_the_document_is_told() -> None:
    told = explain()
    assert told.startswith("VACOJob\n\nAn elastic training run")
    assert "  spec: a mapping (required)\n" in told


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("spec.polcy.core", "`spec.polcy.core`: there is no field 'polcy'. Did you mean `policy`?"),
        ("algorithm.clip", "`algorithm.clip`: there is no field 'clip'. "),
        ("seed.x", "`seed.x`: there is no field 'x'. Nothing is below it."),
    ],
)
def test_an_unknown_field_is_refused(path: str, told: str) -> None:
    with pytest.raises(UserError) as caught:
        explain(path)
    assert str(caught.value).startswith(told)


def test_the_reference_is_up_to_date() -> None:
    """Write it anew with `python -m vaco.explain --markdown > docs/vacojob.md`."""
    assert REFERENCE.read_text() == f"{markdown()}\n"


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["algorithm.epochs"]) == 0
    assert capsys.readouterr().out.startswith("spec.algorithm.epochs: an integer from 1 to 64 (")
    assert main(["--markdown"]) == 0
    assert capsys.readouterr().out == REFERENCE.read_text()
    assert main(["nowhere"]) == 1
    assert "there is no field 'nowhere'" in capsys.readouterr().err
