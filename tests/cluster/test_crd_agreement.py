"""The models and an API server judge the same documents alike: both sides of one schema.

Each document goes to `parse_job` and, as a dry run, to a real API server. Where both refuse, both
name the same field; where a rule between fields is broken, both say the same words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from kube_harness import admission
from kube_harness.api import Api
from operator_harness.jobs import install_definition, job
from vaco.job import JobError, VACOJob, parse_job
from vaco.schema.base import Part

if TYPE_CHECKING:
    from kube_harness.cluster import Cluster

pytestmark = pytest.mark.cluster

Spec = dict[str, Any]


@pytest.fixture(scope="module")
def api(control_plane: Cluster) -> Iterator[Api]:
    with closing(Api(control_plane.kubeconfig)) as api:
        install_definition(api)
        yield api


def refused_here(document: dict[str, Any]) -> dict[str, str]:
    try:
        parse_job(document)
    except JobError as error:
        return {each.path: f"{each.problem}. {each.cure}" for each in error.problems}
    return {}


def pod(**spec: Any) -> Spec:
    return {"actors": {"podTemplate": {"spec": spec}}}


def container(**fields: Any) -> Spec:
    return pod(containers=[{"name": "actor", **fields}])


TASK = {"environment": "CartPole-v1"}
GRU = {"core": {"type": "gru"}}
MODEL = {"type": "languageModel", "tiny": {}}


def language(**parts: Any) -> Spec:
    return {
        "task": {"type": "languageModel"},
        "policy": MODEL,
        "algorithm": {"name": "vaco-lm"},
        "learner": {"batchSize": 64},
        **parts,
    }


TINY = {"rollout": {"environmentsPerActor": 1, "fragmentLength": 1}}

ACCEPTED: dict[str, Spec] = {
    "smallest": {},
    "ppo": {"algorithm": {"name": "ppo", "clipEpsilon": 0.1}},
    "ppo-kl": {"algorithm": {"name": "ppo-kl", "targetKl": 0.02, "initialBeta": 2}},
    "spo": {"algorithm": {"name": "spo", "epsilon": 0.3}},
    "impala": {"algorithm": {"name": "impala", "rhoBar": 2.0, "rhoPgBar": 1}},
    "vaco's switches": {"algorithm": {"tvAnchor": "gap", "realign": "perEpoch", "filter": False}},
    "upper bound": {"algorithm": {"delta": 2, "gamma": 1, "lam": 0}},
    "largest seed": {"seed": 2**63 - 1},
    "whole number for a fraction": {"actors": {"drainSeconds": 5}},
    "image network": {"policy": {"network": {"type": "cnn", "hiddenSize": 64}}},
    "residual blocks": {
        "policy": {"network": {"type": "cnn", "architecture": "impala", "channels": [8, 8]}}
    },
    "memory": {"policy": {"core": {"type": "lstm", "hiddenSize": 32}}, "algorithm": {"epochs": 2}},
    "null where null is a value": {
        "policy": {"core": None},
        "evaluation": None,
        "task": {**TASK, "maxEpisodeSteps": None},
    },
    "free arguments": {
        "task": {**TASK, "kwargs": {"a": None, "b": [1, {"c": True}], "d": {"e": "f"}}}
    },
    "wrappers and imports": {
        "task": {
            **TASK,
            "imports": ["ale_py", "/opt/envs/memory.py"],
            "wrappers": [{"name": "a.b:C", "kwargs": {"x": 1}}],
        }
    },
    "lock-step": {"synchronous": True, "actors": {"replicas": 1}},
    "more asked for than allowed": {"actors": {"replicas": 9, "maxReplicas": 2}},
    "none asked for": {"actors": {"replicas": 0}},
    "external scaling": {"autoscaling": {"mode": "external", "targetLag": {"tv": 0.5}}},
    "storage": {"learner": {"storage": {"size": "1.5Ti", "accessMode": "ReadWriteMany"}}},
    "existing claim": {"learner": {"storage": {"claimName": "old.claim-1"}}},
    "return goal": {"stop": {"return": {"mean": -5}}},
    "two ends": {"stop": {"envSteps": 5, "wallClockSeconds": 0.5}},
    "life cycle": {"suspend": True, "ttlSecondsAfterFinished": 0, "cleanPodPolicy": "None"},
    "deadlines": {"startDeadlineSeconds": 0.5, "activeDeadlineSeconds": None},
    "quantities": container(
        resources={"limits": {"cpu": "1.5", "memory": "1e9", "gpu": 1}, "requests": {"cpu": ".5"}}
    ),
    "what only Kubernetes knows": pod(
        hostAliases=[{"ip": "10.0.0.1"}], affinity={"nodeAffinity": {"x": [None]}}
    ),
    "container beside the program": pod(
        containers=[{"name": "side", "image": "a/b:c@sha256:0", "lifecycle": {"x": 1}}],
        tolerations=[{"key": "spot", "effect": "NoSchedule", "tolerationSeconds": 5}],
        nodeSelector={"a/b": "c"},
    ),
    "linear schedule with its end": {
        "algorithm": {"learningRateSchedule": "linear"},
        "stop": {"envSteps": 5},
    },
    "as many minibatches as samples": {
        "algorithm": {"minibatches": 8},
        "learner": {"batchSize": 8},
        **TINY,
    },
    "as many minibatches as sequences": {"policy": GRU, "algorithm": {"minibatches": 64}},
    "language model": language(),
    "language model with all its parts": language(
        task={
            "type": "languageModel",
            "data": {"type": "jsonl", "file": "/data/a.jsonl", "heldOutShare": 0.2},
            "reward": {"type": "python", "function": "rewards.score"},
            "chat": True,
            "systemPrompt": "Think.",
            "promptTemplate": "Q: {prompt}",
            "imports": ["/opt/rewards.py"],
        },
        policy={"type": "languageModel", "model": "a/b", "lora": {}, "warmStart": {"steps": 5}},
        algorithm={"name": "dppo", "divergence": 0.2, "scaleAdvantages": True},
        sampling={"groupSize": 16, "prompts": 4, "temperature": 0.7, "topP": 0.9},
    ),
    "revision of a model": language(
        policy={"type": "languageModel", "model": "a/b", "revision": "main"}
    ),
    "default rollouts of a language model": language(
        rollout={"environmentsPerActor": 16, "fragmentLength": 64}
    ),
    "edge of what is sampled at once": language(sampling={"groupSize": 16, "prompts": 8}),
    "as many minibatches as groups": language(algorithm={"name": "tis", "minibatches": 8}),
    "weights over a volume": {
        "learner": {"weightsTransport": {"type": "filesystem", "path": "/weights"}}
    },
    "edge of the buffer": {"rollout": {"environmentsPerActor": 128, "fragmentLength": 64}},
}

REFUSED: dict[str, tuple[Spec, str]] = {
    "unknown field": ({"sed": 1}, "spec.sed"),
    "unknown field below": ({"learner": {"checkpoint": {"kep": 1}}}, "spec.learner.checkpoint.kep"),
    "unknown part of a template": (
        {"actors": {"podTemplate": {"containers": []}}},
        "spec.actors.podTemplate.containers",
    ),
    "missing": ({"task": {}}, "spec.task.environment"),
    "missing in a goal": ({"stop": {"return": {}}}, "spec.stop.return.mean"),
    "missing kind of cell": ({"policy": {"core": {"hiddenSize": 4}}}, "spec.policy.core.type"),
    "text for a number": ({"algorithm": {"gamma": "0.9"}}, "spec.algorithm.gamma"),
    "number for text": ({"task": {"environment": 1}}, "spec.task.environment"),
    "number for true": ({"synchronous": 1}, "spec.synchronous"),
    "true for a number": ({"seed": True}, "spec.seed"),
    "fraction for a whole number": ({"algorithm": {"epochs": 2.5}}, "spec.algorithm.epochs"),
    "list for a mapping": ({"autoscaling": [1]}, "spec.autoscaling"),
    "mapping for a list": ({"task": {**TASK, "imports": {}}}, "spec.task.imports"),
    "too small": ({"actors": {"minReplicas": 0}}, "spec.actors.minReplicas"),
    "at an open bound": ({"algorithm": {"delta": 0}}, "spec.algorithm.delta"),
    "at an open upper bound": (
        {"algorithm": {"name": "ppo", "clipEpsilon": 1}},
        "spec.algorithm.clipEpsilon",
    ),
    "too large": ({"backoffLimit": 1001}, "spec.backoffLimit"),
    "beyond 64 bits": ({"seed": 2**63}, "spec.seed"),
    "no choice": ({"algorithm": {"tvAnchor": "behavior"}}, "spec.algorithm.tvAnchor"),
    "choice in other letters": ({"cleanPodPolicy": "all"}, "spec.cleanPodPolicy"),
    "unknown algorithm": ({"algorithm": {"name": "dqn"}}, "spec.algorithm.name"),
    "unknown network": ({"policy": {"network": {"type": "gnn"}}}, "spec.policy.network.type"),
    "field of another algorithm": (
        {"algorithm": {"name": "spo", "cBar": 1}},
        "spec.algorithm.cBar",
    ),
    "field of another network": (
        {"policy": {"network": {"hiddenSize": 64}}},
        "spec.policy.network.hiddenSize",
    ),
    "entry out of bounds": (
        {"policy": {"network": {"hiddenSizes": [64, 0]}}},
        "spec.policy.network.hiddenSizes[1]",
    ),
    "no entries": ({"policy": {"network": {"hiddenSizes": []}}}, "spec.policy.network.hiddenSizes"),
    "too many entries": ({"task": {**TASK, "imports": ["a"] * 33}}, "spec.task.imports"),
    "empty text": ({"task": {"environment": ""}}, "spec.task.environment"),
    "too long": ({"task": {"environment": "e" * 257}}, "spec.task.environment"),
    "bad module": ({"task": {**TASK, "imports": ["a b"]}}, "spec.task.imports[0]"),
    "bad class": ({"task": {**TASK, "wrappers": [{"name": "a b"}]}}, "spec.task.wrappers[0].name"),
    "line break at the end": (
        {"task": {**TASK, "wrappers": [{"name": "A\n"}]}},
        "spec.task.wrappers[0].name",
    ),
    "two learners": ({"learner": {"replicas": 2}}, "spec.learner.replicas"),
    "empty image": (
        container(image=""),
        "spec.actors.podTemplate.spec.containers[0].image",
    ),
    "blank in an image": (
        container(image="a b"),
        "spec.actors.podTemplate.spec.containers[0].image",
    ),
    "container without a name": (
        pod(containers=[{"image": "a"}]),
        "spec.actors.podTemplate.spec.containers[0].name",
    ),
    "bad quantity": (
        container(resources={"requests": {"cpu": "2 cores"}}),
        "spec.actors.podTemplate.spec.containers[0].resources.requests.cpu",
    ),
    "negative quantity": (
        container(resources={"requests": {"cpu": -1}}),
        "spec.actors.podTemplate.spec.containers[0].resources.requests.cpu",
    ),
    "fraction as a quantity": (
        container(resources={"requests": {"cpu": 0.5}}),
        "spec.actors.podTemplate.spec.containers[0].resources.requests.cpu",
    ),
    "true as an annotation": (
        {"learner": {"podTemplate": {"metadata": {"annotations": {"evict": True}}}}},
        "spec.learner.podTemplate.metadata.annotations.evict",
    ),
    "bad label": (
        {"learner": {"podTemplate": {"metadata": {"labels": {"team": "a b"}}}}},
        "spec.learner.podTemplate.metadata.labels.team",
    ),
    "number in the environment": (
        container(env=[{"name": "A", "value": 1}]),
        "spec.actors.podTemplate.spec.containers[0].env[0].value",
    ),
    "port out of bounds": (
        container(ports=[{"containerPort": 70000}]),
        "spec.actors.podTemplate.spec.containers[0].ports[0].containerPort",
    ),
    "no storage": ({"learner": {"storage": {"size": "0Gi"}}}, "spec.learner.storage.size"),
    "model without weights or shape": (
        language(policy={"type": "languageModel", "tiny": {"layers": 0}}),
        "spec.policy.tiny.layers",
    ),
    "file that is not named": (
        language(task={"type": "languageModel", "data": {"type": "jsonl"}}),
        "spec.task.data.file",
    ),
    "field of another algorithm for models": (
        language(algorithm={"name": "grpo", "gamma": 0.9}),
        "spec.algorithm.gamma",
    ),
    "group of one": (language(sampling={"groupSize": 1}), "spec.sampling.groupSize"),
    "no time": ({"startDeadlineSeconds": 0}, "spec.startDeadlineSeconds"),
}

BROKEN: dict[str, tuple[Spec, str]] = {
    "more at least than at most": (
        {"actors": {"minReplicas": 3, "maxReplicas": 2}},
        "spec.actors.minReplicas",
    ),
    "lock-step of two": ({"synchronous": True, "actors": {"replicas": 2}}, "spec.synchronous"),
    "lock-step of up to four": (
        {"synchronous": True, "actors": {"maxReplicas": 4}},
        "spec.synchronous",
    ),
    "lock-step scaled by others": (
        {"synchronous": True, "autoscaling": {"mode": "external"}},
        "spec.synchronous",
    ),
    "schedule without an end": (
        {"algorithm": {"learningRateSchedule": "linear"}, "stop": {"wallClockSeconds": 5}},
        "spec.algorithm.learningRateSchedule",
    ),
    "more minibatches than samples": (
        {"algorithm": {"minibatches": 9}, "learner": {"batchSize": 8}, **TINY},
        "spec.algorithm.minibatches",
    ),
    "more minibatches than sequences": (
        {"policy": GRU, "algorithm": {"minibatches": 65}},
        "spec.algorithm.minibatches",
    ),
    "fragment larger than the buffer": (
        {"rollout": {"environmentsPerActor": 129}},
        "spec.rollout",
    ),
    "channels of nature": (
        {"policy": {"network": {"type": "cnn", "channels": [8]}}},
        "spec.policy.network.channels",
    ),
    "nothing to wrap": (
        {"task": {**TASK, "vectorisation": "envpool", "wrappers": [{"name": "A"}]}},
        "spec.task.vectorisation",
    ),
    "class of an existing claim": (
        {"learner": {"storage": {"claimName": "old", "storageClassName": "fast"}}},
        "spec.learner.storage.storageClassName",
    ),
    "no end": ({"stop": {}}, "spec.stop"),
    "critic for a language model": (
        {"task": {"type": "languageModel"}, "algorithm": {"name": "vaco-lm"}},
        "spec.policy.type",
    ),
    "language model for an environment": ({"policy": MODEL}, "spec.policy.type"),
    "algorithm of environments": (language(algorithm={"name": "ppo"}), "spec.algorithm.name"),
    "algorithm of language models": ({"algorithm": {"name": "tis"}}, "spec.algorithm.name"),
    "nothing to sample": ({"sampling": {}}, "spec.sampling"),
    "rollouts of a language model": (
        language(rollout={"fragmentLength": 65}),
        "spec.rollout",
    ),
    "environments of a language model": (
        language(rollout={"environmentsPerActor": 1}),
        "spec.rollout",
    ),
    "revision of a model made on the spot": (
        language(policy={**MODEL, "revision": "main"}),
        "spec.policy.revision",
    ),
    "more sampled at once than fits": (
        language(sampling={"groupSize": 16, "prompts": 9}),
        "spec.sampling",
    ),
    "more minibatches than groups": (
        language(algorithm={"name": "vaco-lm", "minibatches": 9}),
        "spec.algorithm.minibatches",
    ),
    "system prompt without a chat": (
        language(task={"type": "languageModel", "systemPrompt": "Think."}),
        "spec.task.systemPrompt",
    ),
    "no model": (language(policy={"type": "languageModel"}), "spec.policy"),
    "two models": (language(policy={**MODEL, "model": "a/b"}), "spec.policy"),
    "uneven heads": (
        language(policy={"type": "languageModel", "tiny": {"heads": 3}}),
        "spec.policy.tiny.heads",
    ),
    "template without a problem": (
        language(task={"type": "languageModel", "promptTemplate": "Hello"}),
        "spec.task.promptTemplate",
    ),
    "files without a path": (
        {"learner": {"weightsTransport": {"type": "filesystem"}}},
        "spec.learner.weightsTransport.path",
    ),
    "path of a stream": (
        {"learner": {"weightsTransport": {"path": "/weights"}}},
        "spec.learner.weightsTransport.path",
    ),
}

REFUSED_HERE_ONLY: dict[str, tuple[Spec, str, str]] = {
    "free arguments of another task": (
        language(task={"type": "languageModel", "kwargs": {"a": 1}}),
        "spec.task.kwargs",
        "a rule cannot see a field below which there may be anything",
    ),
    "null where none is meant": (
        {"learner": {"checkpoint": None}},
        "spec.learner.checkpoint",
        "an API server removes such a null before it looks, and fills in the default",
    ),
    "whole number with a point": (
        {"algorithm": {"epochs": 2.0}},
        "spec.algorithm.epochs",
        "JSON has one kind of numbers: a server takes 2.0, stores 2, and that is what is read",
    ),
}


@pytest.mark.parametrize("spec", ACCEPTED.values(), ids=ACCEPTED)
def test_both_accept(api: Api, spec: Spec) -> None:
    document = job("agreed", "default", **spec)
    assert refused_here(document) == {}
    assert admission.creation(api, document) == {}


@pytest.mark.parametrize(("spec", "path"), REFUSED.values(), ids=REFUSED)
def test_both_refuse_the_same_field(api: Api, spec: Spec, path: str) -> None:
    document = job("agreed", "default", **spec)
    assert list(refused_here(document)) == [path]
    assert list(admission.creation(api, document)) == [path]


@pytest.mark.parametrize(("spec", "path"), BROKEN.values(), ids=BROKEN)
def test_both_say_the_same_of_a_broken_rule(api: Api, spec: Spec, path: str) -> None:
    document = job("agreed", "default", **spec)
    told = refused_here(document)
    assert list(told) == [path]
    assert admission.creation(api, document) == {path: f"Invalid value: {told[path]}"}


@pytest.mark.parametrize(("spec", "path", "why"), REFUSED_HERE_ONLY.values(), ids=REFUSED_HERE_ONLY)
def test_only_the_models_refuse_what_a_server_mends(
    api: Api, spec: Spec, path: str, why: str
) -> None:
    document = job("agreed", "default", **spec)
    assert list(refused_here(document)) == [path], why
    assert admission.creation(api, document) == {}, why
    # What the server keeps is what the models read.
    stored = admission.kept(api, document)
    if spec.get("task"):
        return  # kept as it is: the operator, which reads it with the models, says so in the status
    assert isinstance(parse_job(stored), VACOJob)


def test_every_rule_is_among_the_broken_ones(api: Api) -> None:
    told = [
        admission.creation(api, job("agreed", "default", **spec))[path]
        for spec, path in BROKEN.values()
    ]
    for rule in _rules(Part):
        literals = re.split(r"\{[^{}]+\}", rule)
        pattern = re.compile(".+".join(re.escape(each) for each in literals))
        assert any(pattern.search(each) for each in told), rule


def _rules(part: type[Part]) -> Iterator[str]:
    if part.__module__.startswith("vaco."):
        yield from (rule.cel.told for rule in part.rules)
    for below in part.__subclasses__():
        yield from _rules(below)
