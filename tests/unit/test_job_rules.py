"""What must hold between fields, judged even when something else in the file is wrong."""

from typing import Any

import pytest
from vaco.job import JobError, VACOJob, parse_job


def document(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "training.vaco.dev/v1alpha1",
        "kind": "VACOJob",
        "metadata": {"name": "x"},
        "spec": {"task": {"environment": "a"}, "stop": {"wallClockSeconds": 5}, **spec},
    }


def refused(spec: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(JobError) as caught:
        parse_job(document(**spec))
    return {each.path: f"{each.problem}. {each.cure}" for each in caught.value.problems}


GRU = {"core": {"type": "gru"}}

LANGUAGE: dict[str, Any] = {
    "task": {"type": "languageModel"},
    "policy": {"type": "languageModel", "tiny": {}},
    "algorithm": {"name": "vaco-lm"},
    "learner": {"batchSize": 64},
}

RULES: list[tuple[dict[str, Any], str, str, dict[str, Any]]] = [
    (
        {"actors": {"minReplicas": 3, "maxReplicas": 2}},
        "spec.actors.minReplicas",
        "3 is more than maxReplicas, which is 2. Lower `minReplicas` or raise `maxReplicas`.",
        {"actors": {"minReplicas": 2, "maxReplicas": 2}},
    ),
    (
        {"synchronous": True, "actors": {"replicas": 2}},
        "spec.synchronous",
        "lock-step has exactly one actor, not 1 to 2. Leave out ",
        {"synchronous": True, "actors": {"replicas": 1}},
    ),
    (
        {"synchronous": True, "autoscaling": {"mode": "external"}},
        "spec.synchronous",
        "lock-step has exactly one actor, so it cannot be scaled externally. Set ",
        {"synchronous": True, "autoscaling": {"mode": "fixed"}},
    ),
    (
        {"algorithm": {"learningRateSchedule": "linear"}},
        "spec.algorithm.learningRateSchedule",
        "linear needs `spec.stop.envSteps`, where the learning rate reaches zero. Give ",
        {"algorithm": {"learningRateSchedule": "linear"}, "stop": {"envSteps": 5}},
    ),
    (
        {"algorithm": {"minibatches": 9}, "learner": {"batchSize": 8, "bufferBatches": 64}}
        | {"rollout": {"environmentsPerActor": 1, "fragmentLength": 1}},
        "spec.algorithm.minibatches",
        "9 minibatches of 8 samples. Lower ",
        {"algorithm": {"minibatches": 8}, "learner": {"batchSize": 8, "bufferBatches": 64}}
        | {"rollout": {"environmentsPerActor": 1, "fragmentLength": 1}},
    ),
    (
        {"rollout": {"environmentsPerActor": 129}},
        "spec.rollout",
        "one fragment has 8256 samples, but the learner's buffer holds 8192. Lower ",
        {"rollout": {"environmentsPerActor": 128}},
    ),
    (
        {"policy": GRU, "algorithm": {"minibatches": 65}},
        "spec.algorithm.minibatches",
        "65 minibatches of 64 sequences: a recurrent policy is trained on whole sequences of ",
        {"policy": GRU, "algorithm": {"minibatches": 64}},
    ),
    (
        {"policy": {"network": {"type": "cnn", "channels": [8]}}},
        "spec.policy.network.channels",
        "the channels of nature are fixed. Leave out `channels`, or choose ",
        {"policy": {"network": {"type": "cnn", "architecture": "impala", "channels": [8]}}},
    ),
    (
        {"task": {"environment": "a", "vectorisation": "envpool", "wrappers": [{"name": "A"}]}},
        "spec.task.vectorisation",
        "envpool has no single environments that `wrappers` could go around. Leave out ",
        {"task": {"environment": "a", "vectorisation": "sync", "wrappers": [{"name": "A"}]}},
    ),
    (
        {"learner": {"storage": {"claimName": "old", "storageClassName": "fast"}}},
        "spec.learner.storage.storageClassName",
        "the claim old exists and has a storage class already. Leave out `storageClassName`, or ",
        {"learner": {"storage": {"claimName": "old"}}},
    ),
    (
        {**LANGUAGE, "policy": {"type": "languageModel"}},
        "spec.policy",
        "there must be one model: `model` names one, `tiny` describes one. Give one of them",
        LANGUAGE,
    ),
    (
        {**LANGUAGE, "algorithm": {"name": "ppo"}},
        "spec.algorithm.name",
        "ppo is not for tasks of type languageModel. Choose vaco-lm, grpo, dppo or tis.",
        {**LANGUAGE, "algorithm": {"name": "grpo"}},
    ),
    (
        {"sampling": {}},
        "spec.sampling",
        "a task of type gymnasium has no completions to sample. Leave it out",
        {},
    ),
    (
        {**LANGUAGE, "rollout": {"environmentsPerActor": 16, "fragmentLength": 32}},
        "spec.rollout",
        "16 environments and 32 steps a fragment, but a task of type languageModel has neither. ",
        {**LANGUAGE, "rollout": {"environmentsPerActor": 16, "fragmentLength": 64}},
    ),
    (
        {**LANGUAGE, "rollout": {"environmentsPerActor": 17}},
        "spec.rollout",
        "17 environments and 64 steps a fragment, but a task of type languageModel has neither. ",
        {**LANGUAGE, "rollout": {}},
    ),
    (
        {**LANGUAGE, "policy": {"type": "languageModel", "tiny": {}, "revision": "main"}},
        "spec.policy.revision",
        "main, but `tiny` is made on the spot and has no revisions. Leave it out, or give ",
        {**LANGUAGE, "policy": {"type": "languageModel", "model": "a/b", "revision": "main"}},
    ),
    (
        {**LANGUAGE, "sampling": {"groupSize": 16, "prompts": 9}},
        "spec.sampling",
        "an actor makes 144 completions at once, but the learner's buffer holds 128. Lower ",
        {**LANGUAGE, "sampling": {"groupSize": 16, "prompts": 8}},
    ),
    (
        {**LANGUAGE, "algorithm": {"name": "vaco-lm", "minibatches": 9}},
        "spec.algorithm.minibatches",
        "9 minibatches of 8 groups, which stay whole. Lower ",
        {**LANGUAGE, "algorithm": {"name": "vaco-lm", "minibatches": 8}},
    ),
    (
        {**LANGUAGE, "task": {"type": "languageModel", "systemPrompt": "Think."}},
        "spec.task.systemPrompt",
        "only a chat template has a place for it. Set `chat` to true",
        {**LANGUAGE, "task": {"type": "languageModel", "systemPrompt": "Think.", "chat": True}},
    ),
    (
        {**LANGUAGE, "policy": {"type": "languageModel", "tiny": {"heads": 3}}},
        "spec.policy.tiny.heads",
        "3 heads cannot share 128 units in even parts. Make ",
        {**LANGUAGE, "policy": {"type": "languageModel", "tiny": {"heads": 2}}},
    ),
    (
        {"learner": {"weightsTransport": {"type": "filesystem"}}},
        "spec.learner.weightsTransport.path",
        "missing. Name a directory that all pods mount, or ",
        {"learner": {"weightsTransport": {"type": "filesystem", "path": "/weights"}}},
    ),
]


@pytest.mark.parametrize(("broken", "path", "told", "kept"), RULES)
def test_a_broken_rule_is_told_and_its_edge_is_allowed(
    broken: dict[str, Any], path: str, told: str, kept: dict[str, Any]
) -> None:
    problems = refused(broken)
    assert list(problems) == [path]
    assert problems[path].startswith(told)
    assert isinstance(parse_job(document(**kept)), VACOJob)


@pytest.mark.parametrize(("broken", "path", "told", "kept"), RULES)
def test_a_rule_is_judged_beside_another_problem(
    broken: dict[str, Any], path: str, told: str, kept: dict[str, Any]
) -> None:
    problems = refused({**broken, "nonsense": 1})
    assert sorted(problems) == sorted([path, "spec.nonsense"])
    assert problems[path].startswith(told)
    assert list(refused({**kept, "nonsense": 1})) == ["spec.nonsense"]


def test_a_rule_is_not_judged_on_a_field_that_is_wrong() -> None:
    problems = refused({"algorithm": {"minibatches": 5000, "learningRateSchedule": "linear"}})
    assert problems.keys() == {"spec.algorithm.minibatches"}
    problems = refused({"actors": {"minReplicas": 0, "maxReplicas": 2}, "synchronous": True})
    assert problems.keys() == {"spec.actors.minReplicas"}


def test_a_rule_is_judged_beside_a_missing_part() -> None:
    spec = {"stop": {}, "algorithm": {"name": "vcao"}, "actors": {"replicas": 2}}
    bad = document(**spec, synchronous=True)
    del bad["spec"]["task"]
    with pytest.raises(JobError) as caught:
        parse_job(bad)
    assert {each.path for each in caught.value.problems} == {
        "spec.task",
        "spec.stop",
        "spec.algorithm.name",
        "spec.synchronous",
    }


def test_max_replicas_makes_room_for_all() -> None:
    def most(**actors: int) -> int:
        return parse_job(document(actors=actors)).spec.actors.max_replicas

    assert most() == 1
    assert most(replicas=0) == 1
    assert most(replicas=3) == 3
    assert most(replicas=3, minReplicas=5) == 5
    assert most(replicas=3, maxReplicas=8) == 8
