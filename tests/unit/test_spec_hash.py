"""Case 7: which changes of a spec roll which pods, and that nothing else does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import Field
from vaco.job import VACOJob
from vaco.schema.spec import VACOJobSpec
from vaco_operator.cluster.manifests.spec_hash import spec_hash

MakeJob = Callable[..., VACOJob]

LEARNER, ACTORS = {"learner"}, {"actor"}
BOTH = LEARNER | ACTORS
NONE: set[str] = set()

BEFORE: dict[str, Any] = {
    "actors": {"replicas": 2, "maxReplicas": 8},
    "learner": {"storage": {"size": "10Gi"}},
}
ENV = {"spec": {"containers": [{"name": "x", "env": [{"name": "A", "value": "1"}]}]}}


def moved(before: VACOJob, after: VACOJob) -> set[str]:
    return {c for c in ("learner", "actor") if spec_hash(before, c) != spec_hash(after, c)}


@pytest.mark.parametrize(
    ("change", "rolled"),
    [
        ({"suspend": True}, NONE),
        ({"actors": {"replicas": 5, "maxReplicas": 8}}, NONE),
        ({"actors": {"replicas": 2, "minReplicas": 2, "maxReplicas": 9}}, NONE),
        ({"autoscaling": {"mode": "external", "headroom": 2}}, NONE),
        ({"backoffLimit": 1, "ttlSecondsAfterFinished": 5, "cleanPodPolicy": "All"}, NONE),
        ({"startDeadlineSeconds": 60, "activeDeadlineSeconds": 3600}, NONE),
        ({"learner": {"storage": {"size": "20Gi"}}}, NONE),
        ({"stop": {"envSteps": 20_000}}, LEARNER),
        ({"evaluation": {"intervalEnvSteps": 1000}}, LEARNER),
        ({"learner": {"storage": {"size": "10Gi"}, "podTemplate": ENV}}, LEARNER),
        ({"actors": {"replicas": 2, "maxReplicas": 8, "podTemplate": ENV}}, ACTORS),
        ({"actors": {"replicas": 2, "maxReplicas": 8, "threads": 2}}, ACTORS),
        ({"actors": {"replicas": 2, "maxReplicas": 8, "drainSeconds": 5}}, ACTORS),
        ({"learner": {"storage": {}, "batchSize": 2048}}, BOTH),
        ({"rollout": {"fragmentLength": 32}}, BOTH),
        # The API server refuses the last ones (`vaco.schema.changes`): the pods would follow them.
        ({"task": {"environment": "Acrobot-v1"}}, BOTH),
        ({"seed": 1}, BOTH),
        ({"learner": {"storage": {"claimName": "mine"}}}, LEARNER),
        ({"learner": {}}, LEARNER),
    ],
    ids=str,
)
def test_case_07_a_change_rolls_the_pods_that_depend_on_it(
    cluster_job: MakeJob, change: dict[str, Any], rolled: set[str]
) -> None:
    assert moved(cluster_job(**BEFORE), cluster_job(**{**BEFORE, **change})) == rolled


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"algorithm": {"name": "ppo"}}, {"algorithm": {"name": "spo"}}),
        ({"algorithm": {"name": "vaco"}}, {"algorithm": {"name": "impala"}}),
        ({"policy": {"network": {"type": "mlp"}}}, {"policy": {"network": {"type": "cnn"}}}),
    ],
)
def test_parts_that_have_their_defaults_only_are_told_apart_by_their_kind(
    cluster_job: MakeJob, one: dict[str, Any], other: dict[str, Any]
) -> None:
    assert moved(cluster_job(**one), cluster_job(**other)) == BOTH


def test_a_default_that_is_written_out_is_no_change(cluster_job: MakeJob) -> None:
    """The API server writes defaults into what it stores."""
    job = cluster_job(**BEFORE)
    written = job.model_dump(mode="json", by_alias=True)["spec"]
    assert moved(job, cluster_job(**written)) == NONE


def test_case_07_a_field_that_a_newer_schema_adds_moves_no_pod(cluster_job: MakeJob) -> None:
    """Only the operator is upgraded, and its schema has one field and one part more."""

    class NewerSpec(VACOJobSpec):
        compression: str = Field(default="none")
        nested: VACOJobSpec | None = Field(default=None)

    job = cluster_job(**BEFORE)
    newer = NewerSpec.model_validate(job.spec.model_dump(mode="json", by_alias=True))
    assert newer.compression == "none"
    assert moved(job, job.model_copy(update={"spec": newer})) == NONE


def test_who_the_job_is_and_how_it_is_labelled_moves_no_pod(cluster_job: MakeJob) -> None:
    labelled = cluster_job({"labels": {"team": "rl"}, "generation": 7})
    assert moved(cluster_job(), labelled) == NONE


def test_a_hash_stays_what_it_was_in_the_last_release(cluster_job: MakeJob) -> None:
    """Another way to digest would restart every pod of a cluster at an upgrade."""
    job = cluster_job(**BEFORE, algorithm={"name": "ppo", "learningRate": 1e-3})
    assert (spec_hash(job, "learner"), spec_hash(job, "actor")) == (
        "c09b4d310bb49de9",
        "00bcaf5f496a36be",
    )
