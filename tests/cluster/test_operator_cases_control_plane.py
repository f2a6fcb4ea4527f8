"""Cases 24 and 25 of operator-cases.md: the operator is away, is killed, or its requests fail.

What the runtime alone makes of such faults is in `test_operator_runtime.py`; here it is whole jobs:
nothing is made twice, nothing is left over, and no change is lost.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from kube_harness.simulated import EXIT_CODE, LAST_WORDS
from operator_harness.fault_proxy import Damage, FaultProxy
from operator_harness.faults import (
    Call,
    Fault,
    by_chance,
    delay,
    drop,
    everything,
    lose_answer,
    refuse,
)
from operator_harness.stage import Field, staged

if TYPE_CHECKING:
    from kube_harness.cluster import Cluster
    from operator_harness.stage import Stage

pytestmark = pytest.mark.cluster

FOREVER = 1_000_000
KINDS = ("ConfigMap", "Secret", "Service", "NetworkPolicy", "Job", "Deployment")


@pytest.fixture(scope="module")
def stage(control_plane: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """An operator that reaches the API server through the fault proxy alone."""
    with staged(control_plane, tmp_path_factory.mktemp("faulty"), faults=True) as stage:
        yield stage


@pytest.fixture
def proxy(stage: Stage) -> Iterator[FaultProxy]:
    """The proxy, without faults before and after the test."""
    assert stage.proxy is not None
    stage.proxy.heal()
    yield stage.proxy
    stage.proxy.heal()


# The operator is away.


def test_case_24_what_happened_while_it_was_down_is_made_good_at_its_start(field: Field) -> None:
    stage = field.stage
    double, _ = field.training(actors=2, name="done")
    field.create("changed", actors={"replicas": 1, "maxReplicas": 4})
    field.create("bereft")
    field.create("deleted")
    field.create("suspended")
    for name in ("changed", "bereft", "deleted", "suspended"):
        field.wait_for_pods("learner", 1, name)
    stage.operator.stop()

    (learner,) = field.pods("learner", "done")
    uid = field.job("done")["metadata"]["uid"]
    said = json.dumps({"jobUid": uid, "incarnation": "1", "version": "9", "message": "all done"})
    field.annotate(learner["metadata"]["name"], **{EXIT_CODE: "0", LAST_WORDS: said})
    double.fall_silent()
    field.change("changed", actors={"replicas": 3})
    field.delete("Service", "bereft-learner")
    field.delete("Deployment", "bereft-actors")
    field.delete("VACOJob", "deleted")
    field.change("suspended", suspend=True)
    field.wait("the garbage is collected", lambda: not field.find("Deployment", "deleted-actors"))
    field.create("new")

    stage.operator = stage.start()
    field.wait_for_condition("Complete", name="done")
    assert field.status("done")["message"] == "all done"
    field.wait("its actors are gone", lambda: not field.pods("actor", "done", going=True))
    field.wait_for_pods("actor", 3, "changed")
    field.wait_for_pods("actor", 1, "bereft")
    assert field.find("Service", "bereft-learner") is not None
    field.wait_for_condition("Suspended", name="suspended")
    field.wait_for_pods("actor", 1, "new")
    field.wait_for_pods("learner", 1, "new")
    assert _left_of(field, "deleted") == []
    assert not field.pods("learner", "deleted", going=True)


def test_case_24_an_operator_killed_at_any_moment_makes_nothing_twice(field: Field) -> None:
    stage = field.stage
    names = [f"job-{i}" for i in range(12)]
    for i, name in enumerate(names):
        field.create(name, actors={"replicas": 2})
        if i % 3 == 2:
            made = len(field.api.list("batch/v1", "Job", field.namespace))
            field.wait("it is in the middle", lambda m=made: _jobs(field) > m or _jobs(field) > 10)
            stage.kill()
            stage.operator = stage.start()
    _assert_whole(field, names, actors=2)


def _jobs(field: Field) -> int:
    return len(field.api.list("batch/v1", "Job", field.namespace))


# Its requests fail.


def _writes_here(namespace: str) -> Any:
    """Writes where the jobs are, and reads: not of the Lease, whose loss would end the operator."""

    def when(call: Call) -> bool:
        return everything(call) and call.resource != "leases" and call.namespace == namespace

    return when


def test_case_25_jobs_are_made_whole_though_a_third_of_all_requests_fails(
    field: Field, proxy: FaultProxy
) -> None:
    here = _writes_here(field.namespace)
    acts = (
        refuse(409, "Conflict"),
        refuse(429, "TooManyRequests", retry_after=1),
        refuse(500, "InternalError"),
        lose_answer(504),
        drop(),
        drop(after=True),
        delay(0.5),
    )
    for seed, act in enumerate(acts):
        proxy.add(Fault(act, when=by_chance(0.05, seed, here), times=FOREVER))
    names = [f"job-{i}" for i in range(10)]
    for i, name in enumerate(names):
        field.create(
            name, actors={"replicas": 1, "maxReplicas": 4}, autoscaling={"mode": "external"}
        )
        if i % 2:
            proxy.damage_watches((Damage.CUT, Damage.END, Damage.EXPIRE)[i % 3])
    for name in names:
        field.change(name, actors={"replicas": 3})
    field.change(names[0], suspend=True)
    # A Job that is not made yet is made of the new template at once.
    field.wait("the second has a learner", lambda: field.find("Job", f"{names[1]}-learner"))
    field.change(names[1], learner={"podTemplate": {"spec": {"hostname": "other"}}})
    field.delete("VACOJob", names[2])
    deleted, suspended = names.pop(2), names.pop(0)

    field.wait_for_condition("Suspended", name=suspended)
    field.wait_for_status("the second has a new learner", lambda s: s["attempt"] == 2, names[0])
    _assert_whole(field, names[1:], actors=3)
    _assert_whole(field, names[:1], actors=3, attempt=2)
    proxy.heal()
    field.wait("nothing is left of the deleted one", lambda: not _left_of(field, deleted))
    for name in names:
        # Each of it happened once, and is told once.
        events = [event["reason"] for event in field.events(name)]
        for reason in ("Started", "ScaledUp"):
            assert events.count(reason) <= 1, (name, events)
        assert field.status(name)["scaling"]["events"] <= 1
    assert field.stage.operator.exit_status is None


def test_case_25_a_learner_whose_answer_was_lost_is_not_made_twice(
    field: Field, proxy: FaultProxy
) -> None:
    def makes_learners(call: Call) -> bool:
        return (call.method, call.resource, call.namespace) == ("PATCH", "jobs", field.namespace)

    fault = proxy.add(Fault(drop(after=True), when=makes_learners, times=2))
    field.create()
    field.wait_for_pods("learner", 1)
    field.wait_for_pods("actor", 1)
    status = field.wait_for_status("it starts", lambda s: s["phase"] == "Starting")
    assert fault.used == 2
    assert status["attempt"] == 1
    # Events are written after the status that they follow from.
    field.wait("it is told", lambda: field.told("LearnerStarted"))
    assert field.told("NameConflict") is None
    assert [e["reason"] for e in field.events()].count("LearnerStarted") == 1


def test_case_25_a_learner_whose_deletion_met_a_conflict_is_replaced_all_the_same(
    field: Field, proxy: FaultProxy
) -> None:
    def deletes_learners(call: Call) -> bool:
        return (call.method, call.resource, call.namespace) == ("DELETE", "jobs", field.namespace)

    field.create()
    field.wait_for_pods("learner", 1)
    field.wait_until_at_rest()
    fault = proxy.add(Fault(refuse(409, "Conflict"), when=deletes_learners, times=3))
    field.change(learner={"podTemplate": {"spec": {"hostname": "other"}}})
    field.wait_for_status("there is a new learner", lambda s: s["attempt"] == 2)
    assert fault.used == 3


def test_case_25_a_change_made_while_the_status_is_written_is_not_lost(
    field: Field, proxy: FaultProxy
) -> None:
    def writes_status(call: Call) -> bool:
        return (call.method, call.resource, call.namespace) == (
            "PATCH",
            "vacojobs",
            field.namespace,
        )

    proxy.add(Fault(delay(0.3), when=writes_status, times=FOREVER))
    field.create(actors={"replicas": 1, "maxReplicas": 8}, autoscaling={"mode": "external"})
    field.wait_for_pods("actor", 1)
    for count in (2, 5, 3, 7, 4):
        field.change(actors={"replicas": count})
        time.sleep(0.1)  # within the delay: no synchronisation, but the fault itself
    field.wait_for_pods("actor", 4)
    generation = field.job()["metadata"]["generation"]
    status = field.wait_for_status("all is seen", lambda s: s["observedGeneration"] == generation)
    assert status["actors"]["desired"] == status["scaling"]["requested"] == 4


def _assert_whole(field: Field, names: list[str], *, actors: int, attempt: int = 1) -> None:
    """Wait until jobs have what they should have, and find that they have nothing else."""
    for name in names:
        field.wait_for_pods("learner", 1, name)
        field.wait_for_pods("actor", actors, name)
        status = field.wait_for_status("it starts", lambda s: s["phase"] == "Starting", name)
        assert status["attempt"] == attempt, name
        assert status["actors"]["desired"] == actors, name
        learners = field.api.list(
            "v1", "Pod", field.namespace,
            labels=f"training.vaco.dev/job={name},app.kubernetes.io/component=learner",
        )  # fmt: skip
        assert len(learners) == 1, name
        assert len(_left_of(field, name)) == 7, name


def _left_of(field: Field, name: str) -> list[str]:
    """Names of a job's children, the pods not among them."""
    versions = {"NetworkPolicy": "networking.k8s.io/v1", "Job": "batch/v1", "Deployment": "apps/v1"}
    labels = f"training.vaco.dev/job={name}"
    return [
        f"{kind} {child['metadata']['name']}"
        for kind in KINDS
        for child in field.api.list(versions.get(kind, "v1"), kind, field.namespace, labels=labels)
    ]
