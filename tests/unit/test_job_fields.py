"""The fields of the manifest: names, defaults, bounds, and the way to YAML and back."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from vaco.job import (
    API_VERSION,
    KIND,
    GymnasiumTask,
    JobError,
    Metadata,
    ReturnGoal,
    StopSpec,
    VACOJob,
    VACOJobSpec,
    dump_job,
    load_job,
    parse_job,
)
from vaco.schema.manifest import read_text
from vaco.schema.tree import tree_of

HEAD: dict[str, Any] = {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "x"}}
SMALLEST: dict[str, Any] = {"task": {"environment": "CartPole-v1"}, "stop": {"envSteps": 1}}

DEFAULTS: dict[str, Any] = {
    "seed": 0,
    "synchronous": False,
    "suspend": False,
    "task": {
        "type": "gymnasium",
        "environment": "CartPole-v1",
        "imports": [],
        "kwargs": {},
        "wrappers": [],
        "vectorisation": "auto",
        "frameStack": 1,
        "maxEpisodeSteps": None,
        "rewardBound": 1e6,
    },
    "sampling": None,
    "policy": {
        "type": "actorCritic",
        "network": {"type": "mlp", "hiddenSizes": [64, 64], "activation": "tanh"},
        "core": None,
        "sharedTrunk": False,
        "initialLogStd": 0.0,
        "normaliseObservations": False,
        "normaliseReturns": False,
    },
    "algorithm": {
        "name": "vaco",
        "learningRate": 3e-4,
        "learningRateSchedule": "constant",
        "adamEpsilon": 1e-5,
        "gamma": 0.99,
        "lam": 0.95,
        "epochs": 1,
        "minibatches": 4,
        "normaliseAdvantages": True,
        "entropyCoefficient": 0.0,
        "valueCoefficient": 0.5,
        "maxGradientNorm": 0.5,
        "delta": 0.2,
        "threshold": "halfDelta",
        "tvAnchor": "behaviour",
        "realign": "once",
        "advantage": "unweighted",
        "filter": True,
        "normaliseAfterFilter": False,
        "filterScope": "minibatch",
        "rhoBar": 1.0,
        "cBar": 1.0,
    },
    "rollout": {"environmentsPerActor": 16, "fragmentLength": 64},
    "learner": {
        "batchSize": 4096,
        "maxPolicyLag": 64,
        "bufferBatches": 2,
        "microBatchTokens": 16384,
        "checkpoint": {"intervalSeconds": 30.0, "keep": 3},
        "precision": "fp32",
        "device": "auto",
        "threads": 1,
        "replicas": 1,
        "tensorboard": True,
        "weightsDtype": "float32",
        "weightsTransport": {"type": "stream", "path": None},
        "storage": None,
        "podTemplate": {},
    },
    "actors": {
        "replicas": 1,
        "minReplicas": 1,
        "maxReplicas": 1,
        "threads": 1,
        "drainSeconds": 30.0,
        "podTemplate": {},
    },
    "autoscaling": {
        "mode": "auto",
        "intervalSeconds": 5.0,
        "headroom": 1.1,
        "targetLag": {"versions": None, "tv": None},
        "signalTimeoutSeconds": 30.0,
        "scaleUp": {"stabilizationWindowSeconds": 0.0, "maxChange": 4, "periodSeconds": 15.0},
        "scaleDown": {"stabilizationWindowSeconds": 60.0, "maxChange": 1, "periodSeconds": 15.0},
    },
    "evaluation": None,
    "stop": {"envSteps": 1, "return": None, "wallClockSeconds": None},
    "ttlSecondsAfterFinished": None,
    "cleanPodPolicy": "Running",
    "startDeadlineSeconds": 1800.0,
    "activeDeadlineSeconds": None,
    "backoffLimit": 6,
}


def job(**spec: Any) -> VACOJob:
    return parse_job({**HEAD, "spec": {**SMALLEST, **spec}})


def test_everything_but_task_and_end_has_a_default() -> None:
    assert job().spec.model_dump(by_alias=True) == DEFAULTS


@pytest.mark.parametrize(
    ("spec", "own"),
    [
        ({"algorithm": {"name": "ppo"}}, {"clipEpsilon": 0.2}),
        ({"algorithm": {"name": "ppo-kl"}}, {"targetKl": 0.01, "initialBeta": 1.0}),
        ({"algorithm": {"name": "spo"}}, {"epsilon": 0.2}),
        ({"algorithm": {"name": "impala"}}, {"rhoBar": 1.0, "cBar": 1.0, "rhoPgBar": 1.0}),
    ],
)
def test_each_algorithm_has_its_own_fields_beside_the_common_ones(
    spec: dict[str, Any], own: dict[str, float]
) -> None:
    vaco_only = [*DEFAULTS["algorithm"]][12:]
    common = {k: v for k, v in DEFAULTS["algorithm"].items() if k not in vaco_only}
    expected = {**common, **own, "name": spec["algorithm"]["name"]}
    assert job(**spec).spec.algorithm.model_dump(by_alias=True) == expected


def test_the_image_network_and_part_of_a_scale_rule_have_defaults() -> None:
    spec = job(
        policy={"network": {"type": "cnn"}, "core": {"type": "lstm"}},
        autoscaling={"scaleDown": {"maxChange": 2}},
        evaluation={"intervalEnvSteps": 5},
        stop={"return": {"mean": 3}},
    ).spec
    assert spec.policy.network.model_dump(by_alias=True) == {
        "type": "cnn",
        "architecture": "nature",
        "hiddenSize": 512,
        "channels": None,
        "activation": "relu",
    }
    assert spec.policy.core is not None
    assert spec.policy.core.hidden_size == 128
    assert spec.autoscaling.scale_down.stabilization_window_seconds == 60.0
    assert spec.evaluation is not None
    assert (spec.evaluation.episodes, spec.evaluation.seed) == (10, 10_000)
    assert spec.stop.return_ == ReturnGoal(mean=3.0, episodes=100)


BOUNDS = [
    ("seed", 0, 2**63 - 1, 1),
    ("task.frameStack", 1, 16, 1),
    ("policy.initialLogStd", -5, 2, 0.1),
    ("algorithm.epochs", 1, 64, 1),
    ("algorithm.gamma", 0, 1, 0.001),
    ("algorithm.lam", 0, 1, 0.001),
    ("rollout.fragmentLength", 1, 512, None),
    ("rollout.fragmentLength", None, 4096, 1),
    ("rollout.environmentsPerActor", None, 4096, 1),
    ("learner.bufferBatches", 1, 64, 1),
    ("learner.maxPolicyLag", 0, 10**6, 1),
    ("learner.replicas", 1, 1, 1),
    ("actors.minReplicas", 1, None, 1),
    ("autoscaling.headroom", 1, 4, 0.01),
    ("autoscaling.scaleUp.maxChange", 1, 4096, 1),
    ("startDeadlineSeconds", None, 366 * 86400, 1),
    ("activeDeadlineSeconds", None, 366 * 86400, 1),
    ("backoffLimit", 0, 1000, 1),
]


@pytest.mark.parametrize(("path", "low", "high", "step"), BOUNDS)
def test_a_bound_itself_is_allowed_and_what_is_beyond_is_not(
    path: str, low: float | None, high: float | None, step: float | None
) -> None:
    *parents, name = path.split(".")

    def problems(value: float) -> list[str]:
        spec: dict[str, Any] = {name: value}
        for parent in reversed(parents):
            spec = {parent: spec}
        if parents[:1] == ["task"]:
            spec["task"]["environment"] = "a"
        try:
            job(**spec)
        except JobError as error:
            return [f"{each.path} {each.problem}" for each in error.problems]
        return []

    for bound, beyond, word in ((low, -1, "small"), (high, 1, "large")):
        if bound is not None and step is not None:
            value = bound + beyond * step
            assert problems(value) == [f"spec.{path} {json.dumps(value)} is too {word}"]
            # Large fragments need a large buffer, which is another rule's matter.
            assert [each for each in problems(bound) if "buffer" not in each] == []


@pytest.mark.parametrize("delta", [1e-9, 2])
def test_an_open_bound(delta: float) -> None:
    assert job(algorithm={"delta": delta}).spec.algorithm.model_dump()["delta"] == delta


def test_what_may_be_null_is_null_by_default() -> None:
    """dump_job leaves out what is null, so null must be what it is when left out."""
    nullable = {path: node for path, node in tree_of(VACOJob).walk() if node.nullable}
    assert {"spec.stop.envSteps", "spec.policy.core", "status.tv"} <= nullable.keys()
    defaults = {path: node.schema.get("default", "none") for path, node in nullable.items()}
    assert {path for path, default in defaults.items() if default is not None} == set()


def test_every_field_is_described() -> None:
    described = {path: node.description for path, node in tree_of(VACOJob).walk()}
    assert len(described) > 150
    assert {path for path, told in described.items() if not told.endswith(".")} == set()


def test_parts_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        job().spec.seed = 3


def test_a_job_is_built_in_python_by_python_names() -> None:
    built = VACOJob(
        api_version=API_VERSION,
        kind=KIND,
        metadata=Metadata(name="x"),
        spec=VACOJobSpec(task=GymnasiumTask(environment="CartPole-v1"), stop=StopSpec(env_steps=1)),
    )
    assert built == job()


def test_what_kubernetes_adds_to_metadata_is_kept() -> None:
    metadata = {
        "name": "x",
        "uid": "u",
        "generation": 3,
        "labels": {"app.kubernetes.io/name": "x"},
        "creationTimestamp": "2026-01-31T12:00:00Z",
        "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
    }
    read = parse_job({**HEAD, "metadata": metadata, "spec": SMALLEST})
    dumped = read_text(dump_job(read), "here").value["metadata"]
    assert dumped == {**metadata, "annotations": {}}


TRAPS = [
    "1e6",
    "off",
    "~",
    "",
    "0x1",
    "1:30",
    "2026-01-31",
    "<<",
    "=",
    ".inf",
    "012",
    "a\nb",
    "- ",
    "\x85",
    "\u2028",
]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(TRAPS)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | FLOATS | TEXT
JSON = st.recursive(
    SCALARS,
    lambda below: st.lists(below, max_size=3) | st.dictionaries(TEXT, below, max_size=3),
    max_leaves=8,
)


def test_a_pod_template_is_kept_as_it_was_written() -> None:
    template = {
        "metadata": {"annotations": {"team": "rl"}},
        "spec": {
            "hostAliases": [{"ip": "10.0.0.1"}],
            "containers": [
                {
                    "name": "learner",
                    "image": None,
                    "resources": {"limits": {"nvidia.com/gpu": 1, "memory": "8Gi"}},
                    "livenessProbe": None,
                }
            ],
        },
    }
    read = job(learner={"podTemplate": template})
    assert read.spec.learner.pod_template == template
    assert read_text(dump_job(read), "").value["spec"]["learner"]["podTemplate"] == template


@settings(deadline=None, max_examples=60)
@given(kwargs=st.dictionaries(TEXT, JSON, max_size=4))
def test_a_job_survives_yaml(tmp_path_factory: pytest.TempPathFactory, kwargs: Any) -> None:
    before = job(task={"environment": "a", "kwargs": kwargs}, evaluation={"intervalEnvSteps": 5})
    path = tmp_path_factory.getbasetemp() / "roundtrip.yaml"
    path.write_text(dump_job(before), encoding="utf-8")
    assert load_job(path) == before


def test_the_dump_is_plain_yaml_with_all_defaults(tmp_path: Path) -> None:
    shared = {"spec": {"affinity": {"a": [1]}}}
    text = dump_job(job(learner={"podTemplate": shared}, actors={"podTemplate": shared}))
    assert text.startswith("apiVersion: training.vaco.dev/v1alpha1\nkind: VACOJob\nmetadata:\n")
    assert "adamEpsilon: 1.0e-05\n" in text
    assert "&" not in text
    assert "null" not in text
    (tmp_path / "a.yaml").write_text(text)
    assert dump_job(load_job(tmp_path / "a.yaml")) == text
