"""The operator's runtime on a real API server: stores that stay true, writes that are not lost, one
leader. What it reconciles here is the small reconciler of `operator_harness.small_operator`.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kube_harness.api import Api
from operator_harness import accounts, audit, jobs
from operator_harness.accounts import operator_account, username
from operator_harness.fault_proxy import Damage, FaultProxy
from operator_harness.faults import (
    Act,
    Call,
    Fault,
    by_chance,
    calls,
    delay,
    drop,
    hang,
    lose_answer,
    refuse,
    writes,
)
from operator_harness.operators import SMALL_OPERATOR, Operator, Operators, operators
from operator_harness.small_operator import HEARTBEAT, STUCK
from vaco.job import API_VERSION

if TYPE_CHECKING:
    from kube_harness.cluster import Cluster

pytestmark = pytest.mark.cluster

FAST_ELECTION = {"lease-duration": "4", "renew-deadline": "2.5", "retry-period": "0.5"}
FOREVER = 1_000_000


@pytest.fixture
def api(control_plane: Cluster) -> Iterator[Api]:
    with closing(Api(control_plane.kubeconfig)) as api:
        jobs.install_definition(api)
        yield api


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[Operators]:
    with operators(tmp_path / "operators") as started:
        yield started


@pytest.fixture
def logged(control_plane: Cluster) -> Path:
    if control_plane.audit is None:
        pytest.skip("needs the API server's audit log")
    return control_plane.audit


@pytest.fixture
def account(
    control_plane: Cluster, api: Api, namespace: str, tmp_path: Path
) -> Callable[[str], Path]:
    """Kubeconfigs of accounts that may look after the test's own namespace."""

    def make(name: str) -> Path:
        return operator_account(
            api, control_plane.kubeconfig, tmp_path, namespace, name, [namespace]
        )

    return make


class Rig:
    """An operator that reaches the API server through the fault proxy alone."""

    def __init__(self, api: Api, proxy: FaultProxy, operator: Operator, namespace: str) -> None:
        self.api = api
        self.proxy = proxy
        self.operator = operator
        self.namespace = namespace

    def create(self, name: str, **spec: Any) -> None:
        """Create a job."""
        self.api.create(jobs.job(name, self.namespace, **spec))

    def change(self, name: str, limit: int) -> None:
        """Change a job's spec."""
        change = {"spec": {"backoffLimit": limit}}
        self.api.patch(API_VERSION, jobs.KIND, name, self.namespace, change)

    def wait_until_told(self, name: str, limit: int, seconds: float = 60.0) -> None:
        """Wait until the job's ConfigMap and its status say what its spec says."""

        def told() -> bool:
            found = self.api.find("v1", "ConfigMap", f"{name}-job", self.namespace)
            job = self.api.get(API_VERSION, jobs.KIND, name, self.namespace)
            status = job.get("status", {})
            return (
                found is not None
                and found["data"]["limit"] == str(limit)
                and status.get("message") == f"limit {limit}"
                and status["observedGeneration"] == job["metadata"]["generation"]
            )

        self.api.wait_for(f"the children of {name} say {limit}", told, seconds=seconds)


@pytest.fixture
def rig(
    api: Api,
    namespace: str,
    replicas: Operators,
    account: Callable[[str], Path],
    tmp_path: Path,
) -> Iterator[Rig]:
    with FaultProxy(account("operator"), tmp_path / "proxy") as proxy:
        operator = replicas.start(
            proxy.kubeconfig,
            namespace,
            watch=[namespace],
            program=SMALL_OPERATOR,
            settings={"request-timeout": "2"},
        )
        operator.wait_until_leading()
        yield Rig(api, proxy, operator, namespace)


FAULTS: dict[str, Callable[[], Act]] = {
    "409": lambda: refuse(409, "Conflict"),
    "429": lambda: refuse(429, "TooManyRequests", retry_after=1),
    "500": lambda: refuse(500, "InternalError"),
    "504": lambda: refuse(504, "Timeout"),
    "504-although-it-was-done": lambda: lose_answer(504),
    "cut-before-it-was-done": lambda: drop(),
    "cut-although-it-was-done": lambda: drop(after=True),
    "no-answer": lambda: hang,
    "later-than-the-timeout": lambda: delay(3.0),
}


def test_case_25_every_kind_of_failed_write_is_made_good(rig: Rig) -> None:
    for number, (kind, act) in enumerate(FAULTS.items(), start=1):
        name = f"job-{number}"
        on_configs = rig.proxy.add(Fault(act(), when=writes("configmaps"), times=2))
        rig.create(name)
        rig.wait_until_told(name, limit=6)
        assert on_configs.used == 2, kind

        on_status = rig.proxy.add(Fault(act(), when=calls("PATCH", "vacojobs"), times=2))
        rig.change(name, limit=10 + number)
        rig.wait_until_told(name, limit=10 + number)
        # Once is enough where the status was written although the answer said otherwise.
        assert on_status.used >= 1, kind
        rig.proxy.heal()

    assert rig.operator.exit_status is None
    assert rig.operator.metric("vaco_operator_reconcile_seconds_count", result="fault") == 0


def test_case_25_a_retry_after_is_obeyed(rig: Rig) -> None:
    rig.proxy.add(
        Fault(refuse(429, "TooManyRequests", retry_after=2), when=writes("configmaps"), times=1)
    )
    rig.create("patient")
    rig.wait_until_told("patient", limit=6)

    first, second, *_ = [call.at for call in rig.proxy.calls(writes("configmaps"))]
    assert 2.0 <= second - first < 3.5


def test_case_25_a_retry_after_too_long_for_a_worker_is_obeyed_by_the_queue(rig: Rig) -> None:
    rig.proxy.add(
        Fault(refuse(429, "TooManyRequests", retry_after=16), when=writes("configmaps"), times=1)
    )
    rig.create("sent-away")
    rig.api.wait_for(
        "it is refused", lambda: rig.operator.metric("vaco_operator_queue_retries_total")
    )
    rig.create("other")
    rig.wait_until_told("other", limit=6, seconds=10)
    rig.wait_until_told("sent-away", limit=6)

    mine = [c.at for c in rig.proxy.calls(writes("configmaps")) if c.name == "sent-away-job"]
    assert 16.0 <= mine[1] - mine[0] < 19.0


def test_case_25_no_update_is_lost_while_others_write_the_same_object(rig: Rig) -> None:
    rig.create("contended")
    rig.proxy.add(
        Fault(delay(0.05), when=by_chance(0.5, seed=1, when=writes("vacojobs")), times=FOREVER)
    )
    for limit in range(1, 41):
        rig.change("contended", limit)

    rig.wait_until_told("contended", limit=40)


@pytest.mark.parametrize("damage", [Damage.CUT, Damage.END])
def test_case_25_an_event_cut_in_the_middle_is_not_lost(rig: Rig, damage: Damage) -> None:
    rig.create("first")
    rig.wait_until_told("first", limit=6)
    lists = len(rig.proxy.calls(calls("GET", "vacojobs")))

    assert rig.proxy.damage_watches(damage, "vacojobs") == 1
    rig.change("first", limit=2)
    rig.wait_until_told("first", limit=2, seconds=10)

    assert len(rig.proxy.calls(calls("GET", "vacojobs"))) == lists, "it watched on, and listed"


def test_case_25_a_watch_that_expires_is_listed_anew_and_deletions_are_noticed(rig: Rig) -> None:
    rig.create("kept")
    rig.wait_until_told("kept", limit=6)
    lists = len(rig.proxy.calls(calls("GET", "configmaps")))
    watch_configs = calls("GET", "configmaps", watch=True)
    closed = rig.proxy.add(Fault(refuse(503), when=watch_configs, times=2))
    rig.proxy.add(Fault(refuse(410, "Expired"), when=watch_configs, times=1))

    rig.proxy.damage_watches(Damage.EXPIRE, "configmaps")
    rig.api.wait_for("the watch is refused", lambda: closed.used)
    rig.api.delete("v1", "ConfigMap", "kept-job", rig.namespace)

    rig.wait_until_told("kept", limit=6)
    assert len(rig.proxy.calls(calls("GET", "configmaps"))) > lists
    assert rig.operator.metric("vaco_operator_watch_restarts_total", reason="expired") >= 2


def test_case_25_all_jobs_converge_when_a_fifth_of_all_calls_fails(rig: Rig) -> None:
    def counts(call: Call) -> bool:
        return not call.watch and call.resource != "leases"

    kinds = [refuse(409, "Conflict"), refuse(429, retry_after=1), refuse(500), lose_answer(504),
             drop(), drop(after=True)]  # fmt: skip
    for seed, act in enumerate(kinds):
        rig.proxy.add(Fault(act, when=by_chance(0.035, seed, counts), times=FOREVER))
    for seed, act in enumerate([refuse(500), drop()]):
        rig.proxy.add(Fault(act, when=by_chance(0.1, seed, lambda c: c.watch), times=FOREVER))
    names = [f"job-{number}" for number in range(10)]
    for name in names:
        rig.create(name)
    for round_number in range(1, 6):
        for name in names:
            rig.change(name, limit=round_number)
        rig.proxy.damage_watches(list(Damage)[round_number % 2])

    for name in names:
        rig.wait_until_told(name, limit=5)
    rig.api.delete("v1", "ConfigMap", "job-3-job", rig.namespace)
    rig.wait_until_told("job-3", limit=5)
    assert rig.operator.exit_status is None
    assert rig.operator.metric("vaco_operator_reconcile_seconds_count", result="fault") == 0
    assert len(rig.api.list("v1", "ConfigMap", rig.namespace, labels="training.vaco.dev/job")) == 10


def test_a_silent_watch_is_taken_to_be_dead(
    api: Api,
    namespace: str,
    replicas: Operators,
    account: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    with FaultProxy(account("operator"), tmp_path / "proxy") as proxy:
        operator = replicas.start(
            proxy.kubeconfig, namespace, watch=[namespace], program=SMALL_OPERATOR,
            settings={"watch-silence": "3"},
        )  # fmt: skip
        operator.wait_until_leading()
        rig = Rig(api, proxy, operator, namespace)
        rig.create("first")
        rig.wait_until_told("first", limit=6)

        assert proxy.damage_watches(Damage.MUTE, "vacojobs") == 1
        rig.change("first", limit=2)
        rig.wait_until_told("first", limit=2, seconds=15)


def test_case_26_a_leader_paused_past_its_lease_writes_nothing_more_and_ends(
    api: Api,
    namespace: str,
    replicas: Operators,
    account: Callable[[str], Path],
    logged: Path,
) -> None:
    def start(name: str) -> Operator:
        return replicas.start(
            account(name), namespace, name=name, watch=[namespace], program=SMALL_OPERATOR,
            settings=FAST_ELECTION,
        )  # fmt: skip

    old = start("old")
    old.wait_until_leading()
    new = start("new")
    new.wait_until_ready()
    assert not new.leading()
    for number in range(4):
        job = jobs.job(f"beating-{number}", namespace)
        job["metadata"]["annotations"] = {HEARTBEAT: "true"}
        api.create(job)

    def written_by(name: str) -> list[audit.Entry]:
        asked = audit.entries(logged, username(namespace, name))
        return [entry for entry in asked if entry.writes and entry.resource != "leases"]

    api.wait_for("the leader writes", lambda: len(written_by("old")) > 20)
    assert written_by("new") == []

    old.signal(signal.SIGSTOP)
    new.wait_until_leading()
    api.wait_for("the other writes", lambda: len(written_by("new")) > 20)
    woken = datetime.now(UTC)
    old.signal(signal.SIGCONT)

    assert old.wait_for_end() == 1
    # The log is written in batches: wait until it has come a second further.
    api.wait_for("the log is complete", lambda: _reaches(written_by("new"), woken))
    assert [entry for entry in written_by("old") if entry.received >= woken] == []
    assert max(e.received for e in written_by("old")) < min(e.received for e in written_by("new"))
    assert new.leading()


def _reaches(entries: list[audit.Entry], moment: datetime) -> bool:
    return (entries[-1].received - moment).total_seconds() > 1


def test_case_26_a_leader_cut_off_ends_before_another_takes_over(
    api: Api,
    namespace: str,
    replicas: Operators,
    account: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    with FaultProxy(account("old"), tmp_path / "proxy") as proxy:
        old = replicas.start(
            proxy.kubeconfig, namespace, name="old", watch=[namespace], program=SMALL_OPERATOR,
            settings=FAST_ELECTION,
        )  # fmt: skip
        old.wait_until_leading()
        new = replicas.start(
            account("new"), namespace, name="new", watch=[namespace], program=SMALL_OPERATOR,
            settings=FAST_ELECTION,
        )  # fmt: skip
        new.wait_until_ready()

        proxy.add(Fault(hang, when=lambda _call: True, times=FOREVER))
        assert old.wait_for_end() == 1
        assert _holder(api, namespace) == "old"
        new.wait_until_leading()


def test_case_26_a_leader_that_is_told_to_end_hands_over_at_once(
    api: Api, namespace: str, replicas: Operators, account: Callable[[str], Path]
) -> None:
    def start(name: str) -> Operator:
        return replicas.start(
            account(name), namespace, name=name, watch=[namespace], program=SMALL_OPERATOR
        )

    old = start("old")
    old.wait_until_leading()
    new = start("new")
    new.wait_until_ready()

    assert old.stop() == 0
    ended = time.monotonic()
    new.wait_until_leading()
    # Not after 15 s, for which the Lease would have held.
    assert time.monotonic() - ended < 10
    assert _holder(api, namespace) == "new"


def _holder(api: Api, namespace: str) -> str:
    lease = api.get("coordination.k8s.io/v1", "Lease", "vaco-operator", namespace)
    return str(lease["spec"]["holderIdentity"])


def test_case_27_a_namespaced_install_asks_for_nothing_beyond_its_namespaces(
    control_plane: Cluster,
    api: Api,
    namespace: str,
    replicas: Operators,
    tmp_path: Path,
    logged: Path,
) -> None:
    watched = [f"{namespace}-a", f"{namespace}-b"]
    for name in watched:
        api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    try:
        kubeconfig = operator_account(
            api, control_plane.kubeconfig, tmp_path, namespace, "narrow", watched
        )
        operator = replicas.start(kubeconfig, namespace, watch=watched, program=SMALL_OPERATOR)
        operator.wait_until_leading()
        for name in (namespace, *watched):
            api.create(jobs.job("here", name))
        for name in watched:
            _wait_for_config(api, "here", name)
        assert operator.stop() == 0

        def complete() -> list[audit.Entry]:
            asked = audit.entries(logged, username(namespace, "narrow"))
            # The last that it does is to give the Lease back.
            leases = [entry.verb for entry in asked if entry.resource == "leases"]
            return asked if leases[-2:] == ["get", "update"] else []

        asked = api.wait_for("the log is complete", complete)
        assert {entry.namespace for entry in asked} == {namespace, *watched}
        assert [entry for entry in asked if "/namespaces/" not in entry.uri] == []
        assert {entry.code for entry in asked} <= {200, 201, 404}
        assert {e.resource for e in asked if e.namespace == namespace} == {"leases"}
        assert api.find("v1", "ConfigMap", "here-job", namespace) is None
    finally:
        for name in watched:
            api.delete("v1", "Namespace", name)


def test_a_namespace_whose_role_is_lost_keeps_only_its_own_jobs_waiting(
    control_plane: Cluster, api: Api, namespace: str, replicas: Operators, tmp_path: Path
) -> None:
    lost = f"{namespace}-lost"
    api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": lost}})
    try:
        kubeconfig = operator_account(
            api, control_plane.kubeconfig, tmp_path, namespace, "operator", [namespace, lost]
        )
        role = (accounts.RBAC, "Role", f"{namespace}-operator-jobs", lost)
        rules = api.get(*role)["rules"]
        api.patch(*role, {"rules": [rule for rule in rules if "pods" not in rule["resources"]]})
        operator = replicas.start(
            kubeconfig, namespace, watch=[namespace, lost], program=SMALL_OPERATOR
        )
        for where in (namespace, lost):
            api.create(jobs.job("here", where))
        operator.wait_until_leading()
        _wait_for_config(api, "here", namespace)
        assert operator.ask("/readyz") == (200, "ok\n")
        assert operator.metric("vaco_operator_unlisted_namespaces") == 1
        assert api.find("v1", "ConfigMap", "here-job", lost) is None

        api.patch(*role, {"rules": rules})
        _wait_for_config(api, "here", lost)
        assert operator.metric("vaco_operator_unlisted_namespaces") == 0
    finally:
        api.delete("v1", "Namespace", lost)


def _wait_for_config(api: Api, job: str, namespace: str) -> None:
    def there() -> object:
        return api.find("v1", "ConfigMap", f"{job}-job", namespace)

    api.wait_for(f"{job} has its ConfigMap", there)


def test_an_idle_operator_asks_for_nothing_but_its_lease_and_never_for_secrets(
    api: Api,
    namespace: str,
    replicas: Operators,
    account: Callable[[str], Path],
    logged: Path,
) -> None:
    operator = replicas.start(account("idle"), namespace, watch=[namespace], program=SMALL_OPERATOR)
    operator.wait_until_leading()
    for number in range(5):
        api.create(jobs.job(f"job-{number}", namespace))
        _wait_for_config(api, f"job-{number}", namespace)

    def asked() -> list[audit.Entry]:
        return audit.entries(logged, username(namespace, "idle"))

    def events_written() -> bool:
        return len([entry for entry in asked() if entry.resource == "events"]) == 5

    api.wait_for("all events are written", events_written)
    busy = len(asked())

    def renewed() -> bool:
        return len(asked()) >= busy + 5

    api.wait_for("some time passes", renewed)
    assert {entry.resource for entry in asked()[busy:]} == {"leases"}
    assert [entry for entry in asked() if entry.resource == "secrets"] == []


def test_a_job_is_looked_at_again_although_nothing_happens(
    api: Api, namespace: str, replicas: Operators, account: Callable[[str], Path]
) -> None:
    operator = replicas.start(
        account("operator"), namespace, watch=[namespace], program=SMALL_OPERATOR,
        settings={"resync-period": "1"},
    )  # fmt: skip
    operator.wait_until_leading()
    api.create(jobs.job("quiet", namespace))

    def looked() -> bool:
        return operator.metric("vaco_operator_reconcile_seconds_count", result="success") >= 6

    api.wait_for("several looks", looked)


def test_events_of_a_job_are_counted_not_repeated(
    api: Api, namespace: str, replicas: Operators, account: Callable[[str], Path]
) -> None:
    operator = replicas.start(
        account("operator"), namespace, watch=[namespace], program=SMALL_OPERATOR
    )
    operator.wait_until_leading()
    api.create(jobs.job("told", namespace))
    _wait_for_config(api, "told", namespace)
    for _ in range(4):
        api.delete("v1", "ConfigMap", "told-job", namespace)
        _wait_for_config(api, "told", namespace)
    # A count that is not due yet is written when the operator ends.
    assert operator.stop() == 0

    (event,) = api.list("v1", "Event", namespace)
    assert event["involvedObject"]["kind"] == jobs.KIND
    assert (event["reason"], event["type"], event["count"]) == ("Written", "Normal", 5)
    assert event["source"] == {"component": "vaco-operator"}


def test_livez_fails_when_a_worker_is_stuck_and_readyz_does_not(
    api: Api, namespace: str, replicas: Operators, account: Callable[[str], Path]
) -> None:
    operator = replicas.start(
        account("operator"), namespace, watch=[namespace], program=SMALL_OPERATOR,
        settings={"stuck-after": "3"},
    )  # fmt: skip
    operator.wait_until_leading()
    assert operator.ask("/livez") == (200, "ok\n")
    job = jobs.job("endless", namespace)
    job["metadata"]["annotations"] = {STUCK: "true"}
    api.create(job)

    api.wait_for("livez fails", lambda: operator.ask("/livez")[0] == 500)
    assert f"a worker has been on job {namespace}/endless" in operator.ask("/livez")[1]
    assert operator.ask("/readyz") == (200, "ok\n")


def test_livez_fails_when_nothing_is_heard_and_readyz_until_all_is_listed(
    api: Api,
    namespace: str,
    replicas: Operators,
    account: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    with FaultProxy(account("operator"), tmp_path / "proxy") as proxy:
        proxy.add(Fault(refuse(403, "Forbidden"), when=calls("GET", "pods"), times=2))
        unheard = proxy.add(Fault(hang, when=calls("GET", "pods"), times=FOREVER))
        operator = replicas.start(
            proxy.kubeconfig, namespace, watch=[namespace], program=SMALL_OPERATOR,
            settings={"stuck-after": "4", "watch-silence": "2", "request-timeout": "1"},
        )  # fmt: skip
        api.wait_for("lists of pods hang", lambda: unheard.used)
        # A refusal is a word too: a restart would not help against a missing role.
        assert operator.ask("/livez") == (200, "ok\n")
        assert operator.ask("/readyz")[0] == 500

        api.wait_for("livez fails", lambda: operator.ask("/livez")[0] == 500)
        assert f"nothing was heard of pods of {namespace}" in operator.ask("/livez")[1]
        assert f"pods of {namespace} are not listed yet" in operator.ask("/readyz")[1]
        proxy.heal()
        api.wait_for("all is well", lambda: operator.ask("/livez")[0] == 200 and operator.ready())


def test_logs_are_json_and_name_the_job(
    api: Api, namespace: str, replicas: Operators, account: Callable[[str], Path]
) -> None:
    operator = replicas.start(
        account("operator"), namespace, watch=[namespace], program=SMALL_OPERATOR
    )
    operator.wait_until_leading()
    api.create(jobs.job("logged", namespace))
    _wait_for_config(api, "logged", namespace)
    assert operator.stop() == 0

    lines = operator.log()
    assert [line for line in lines if "text" in line] == []
    of_job = [line for line in lines if line.get("job") == f"{namespace}/logged"]
    assert of_job
    assert all(line["reconcile"] and line["level"] and line["time"] for line in of_job)
