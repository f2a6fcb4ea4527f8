"""The stores: what a watch, a list and a write of one's own tell, and whom they tell it."""

from __future__ import annotations

from typing import Any

from vaco_operator.cluster.resources import CONFIG_MAPS, PODS, VACO_JOBS
from vaco_operator.cluster.store import MAX_GONE, JobKey, Store, Stores
from vaco_operator.cluster.trim import LAST_APPLIED, trim

JOB = JobKey("ns", "run")


def document(name: str, version: int, *, job: str = "run", **more: Any) -> dict[str, Any]:
    labels = {"training.vaco.dev/job": job} if job else {}
    metadata = {
        "namespace": "ns",
        "name": name,
        "uid": f"uid-{name}",
        "resourceVersion": str(version),
        "labels": labels,
    }
    return {"metadata": metadata, **more}


def store() -> tuple[Store, list[JobKey]]:
    told: list[JobKey] = []
    return Store(CONFIG_MAPS, told.append), told


def test_a_watch_brings_changes_and_tells_the_job() -> None:
    configs, told = store()
    configs.told(document("one", 1, data={"a": "1"}))
    configs.told(document("one", 2, data={"a": "2"}))
    configs.told(document("other", 3, job=""))

    found = configs.get("ns", "one")
    assert found is not None
    assert found["data"] == {"a": "2"}
    assert (found["apiVersion"], found["kind"]) == ("v1", "ConfigMap")
    assert told == [JOB, JOB]
    assert len(configs) == 2
    assert [each["metadata"]["name"] for each in configs.of_job(JOB)] == ["one"]
    assert ("ns", "one") in configs
    assert ("ns", "none") not in configs


def test_what_is_handed_out_may_be_changed() -> None:
    configs, _ = store()
    configs.told(document("one", 1, data={"a": "1"}))
    first = configs.get("ns", "one")
    assert first is not None
    first["data"]["a"] = "spoilt"

    again = configs.get("ns", "one")
    assert again is not None
    assert again["data"] == {"a": "1"}


def test_an_older_state_never_replaces_a_newer_one() -> None:
    configs, _ = store()
    configs.put(document("one", 5, data={"a": "mine"}))
    configs.told(document("one", 4, data={"a": "before"}))
    configs.put(document("one", 3, data={"a": "long ago"}))

    found = configs.get("ns", "one")
    assert found is not None
    assert found["data"] == {"a": "mine"}


def test_a_write_of_ones_own_tells_nobody_and_neither_does_its_echo() -> None:
    configs, told = store()
    configs.put(document("one", 5))
    configs.told(document("one", 5))

    assert told == []
    assert configs.of_job(JOB)


def test_what_others_changed_before_a_write_of_ones_own_is_told_all_the_same() -> None:
    configs, told = store()
    configs.told(document("one", 3))
    configs.put(document("one", 5))
    told.clear()

    configs.told(document("one", 4))
    assert told == [JOB]

    told.clear()
    # The watch broke before it told of 4; the list has 5, which is one's own.
    configs.put(document("one", 7))
    configs.restate(document("one", 7), "7")
    assert told == [JOB]


def test_a_deletion_is_told_and_spares_a_successor() -> None:
    configs, told = store()
    configs.told(document("one", 3))
    configs.put(document("two", 9))
    told.clear()

    configs.discard(document("one", 4))
    configs.discard(document("one", 4))
    configs.discard(document("two", 8))

    assert told == [JOB]
    assert configs.get("ns", "one") is None
    assert configs.get("ns", "two") is not None
    assert [each["metadata"]["name"] for each in configs.of_job(JOB)] == ["two"]


def test_the_answer_to_a_write_does_not_bring_back_what_was_deleted_meanwhile() -> None:
    configs, _ = store()
    configs.told(document("one", 99))
    configs.discard(document("one", 101))
    configs.put(document("one", 100))
    assert configs.get("ns", "one") is None

    configs.told(document("two", 102))
    configs.keep_only("ns", (), "104")
    configs.put(document("two", 103))
    assert configs.get("ns", "two") is None

    # Made anew under its old name it is another object.
    again = document("one", 105)
    again["metadata"]["uid"] = "another"
    configs.put(again)
    assert configs.get("ns", "one") is not None


def test_deletions_are_remembered_up_to_a_bound() -> None:
    configs, _ = store()
    for number in range(MAX_GONE + 1):
        configs.told(document(f"config-{number}", 1))
        configs.discard(document(f"config-{number}", 3))
    configs.put(document("config-0", 2))
    configs.put(document("config-1", 2))
    assert ("ns", "config-0") in configs, "forgotten: there were too many since"
    assert ("ns", "config-1") not in configs


def test_a_list_finds_deletions_in_its_own_namespace_only() -> None:
    configs, told = store()
    elsewhere = document("far", 1, job="distant")
    elsewhere["metadata"]["namespace"] = "other"
    for each in (document("kept", 1), document("gone", 2), elsewhere):
        configs.told(each)
    told.clear()

    configs.restate(document("kept", 1), "5")
    configs.keep_only("ns", {("ns", "kept")}, "5")

    assert told == [JOB]
    assert configs.get("ns", "gone") is None
    assert configs.get("other", "far") is not None

    configs.keep_only("", {("ns", "kept")}, "6")
    assert configs.get("other", "far") is None
    assert told == [JOB, JobKey("other", "distant")]


def test_a_list_holds_even_when_versions_begin_again() -> None:
    configs, told = store()
    configs.told(document("one", 900, data={"a": "lost with the backup"}))
    told.clear()

    configs.restate(document("one", 7, data={"a": "restored"}), "8")
    found = configs.get("ns", "one")
    assert found is not None
    assert found["data"] == {"a": "restored"}
    assert told == [JOB]


def test_what_was_written_since_a_list_was_made_stays() -> None:
    configs, _ = store()
    configs.told(document("one", 3, data={"a": "before"}))
    configs.put(document("one", 10, data={"a": "ours"}))
    configs.put(document("made", 11))

    configs.restate(document("one", 3, data={"a": "before"}), "9")
    configs.keep_only("ns", {("ns", "one")}, "9")

    found = configs.get("ns", "one")
    assert found is not None
    assert found["data"] == {"a": "ours"}
    assert ("ns", "made") in configs

    configs.keep_only("ns", {("ns", "one")}, "12")
    assert ("ns", "made") not in configs


def test_an_object_that_changes_its_job_tells_both() -> None:
    configs, told = store()
    configs.told(document("one", 1))
    told.clear()

    configs.told(document("one", 2, job="another"))

    assert told == [JOB, JobKey("ns", "another")]
    assert configs.of_job(JOB) == []


def test_a_job_is_its_own_and_children_are_found_in_all_stores() -> None:
    told: list[JobKey] = []
    stores = Stores.make(told.append)
    stores.vaco_jobs.told(document("run", 1, job=""))
    assert told == [JOB]
    assert [each["kind"] for each in stores.vaco_jobs.of_job(JOB)] == ["VACOJob"]
    assert len({each.resource for each in stores.children()}) == 7


def test_phases_are_told_in_the_order_in_which_objects_became_known() -> None:
    configs, _ = store()
    configs.told(document("one", 1))
    configs.told(document("two", 2, status={"phase": "Pending"}))
    configs.told(document("one", 3, status={"phase": "Running"}))

    assert list(configs.phases()) == [(("ns", "one"), "Running"), (("ns", "two"), "Pending")]


def test_a_list_that_brings_nothing_new_tells_nobody_however_things_are_kept() -> None:
    configs, told = store()
    configs.told(document("one", 1, data={"a": "1"}))
    # From now on objects are compressed against this one, which has more to refer to.
    configs.told(document("two", 2, data={"b": "x" * 1000}))
    told.clear()

    configs.restate(document("one", 1, data={"a": "1"}), "2")
    assert told == []

    configs.restate(document("one", 1, data={"a": "from another etcd"}), "2")
    assert told == [JOB]


def test_what_nobody_reads_is_not_kept() -> None:
    pod = document(
        "pod",
        1,
        spec={"nodeName": "n1", "containers": [{"name": "actor", "env": [{"name": "X"}]}]},
        status={
            "phase": "Running",
            "startTime": "2026-01-31T12:00:00Z",
            "podIPs": [{"ip": "1"}],
            "containerStatuses": [{"name": "actor", "ready": True, "restartCount": 1}],
        },
    )
    pod["metadata"]["managedFields"] = [{"manager": "kubelet"}]
    pod["metadata"]["annotations"] = {LAST_APPLIED: "{}", "cost": "1"}
    kept = trim(PODS, pod)

    assert "managedFields" not in kept["metadata"]
    assert kept["metadata"]["annotations"] == {"cost": "1"}
    assert kept["spec"] == {"nodeName": "n1"}
    assert kept["status"] == {
        "phase": "Running",
        "containerStatuses": [{"name": "actor", "restartCount": 1}],
    }
    assert "managedFields" in pod["metadata"], "what was given is not changed"
    # Of other objects all fields are kept: they are compared with what was applied.
    assert trim(VACO_JOBS, document("run", 1, spec={"a": 1}))["spec"] == {"a": 1}
