"""In which order a plan is carried out, and that what is refused of it holds up nothing else.

The API server here is a stand-in that does as it is told but for what it is to refuse; the real one
is in tests/cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from plan_scenes import NAME, NAMESPACE, SETTINGS, Scene, merge, truth, written
from vaco_operator.cluster.api_errors import (
    ApiError,
    ConflictError,
    ForbiddenError,
    UnavailableError,
)
from vaco_operator.cluster.apply import WISHES_AT_ONCE
from vaco_operator.cluster.contract import Surroundings
from vaco_operator.cluster.credentials import EPOCH
from vaco_operator.cluster.learner_client import Acquaintance, LearnerClient
from vaco_operator.cluster.manifests.credentials_secret import root_secret
from vaco_operator.cluster.reconcile import Reconciler
from vaco_operator.cluster.resources import Document, Resource
from vaco_operator.cluster.store import JobKey

DENIED = ForbiddenError(403, "Forbidden", "a policy says no")
MAKE_PODS = ["Job", "Deployment"]
WEBHOOK = UnavailableError(500, "InternalError", "failed calling webhook")
BUSY = UnavailableError(429, "TooManyRequests", "try again later", retry_after=1.0)
HANGS = UnavailableError(0, "Timeout", "no answer within 10 s")


class RefusingServer:
    """Stores what is written into a scene, but for a verb, a kind, or both that it refuses."""

    def __init__(self, scene: Scene, refuse: Mapping[str, ApiError]) -> None:
        self.scene = scene
        self.refuse = refuse
        self.asked: list[tuple[str, str]] = []

    async def get(self, *_: Any) -> Document:
        return root_secret(SETTINGS, bytes(32))

    async def apply(self, resource: Resource, document: Document, *_: str) -> Any:
        self._ask("apply", resource)
        name = document["metadata"]["name"]
        if resource.kind == "Secret":
            return document
        live = self.scene.find(resource.kind, name) or {"metadata": {}}
        merge(live, {**document, "kind": resource.kind})
        if live["metadata"].get("resourceVersion") == "1":
            live["metadata"]["creationTimestamp"] = written(self.scene.now.wall)
        return self.scene.put(live)

    async def patch(self, resource: Resource, *place_and_change: Any) -> Any:
        _, name, change, *_ = place_and_change
        self._ask("patch", resource)
        document = self.scene.document(resource.kind, name)
        merge(document, change)
        return self.scene.put(document)

    async def delete(self, resource: Resource, *place: str, **how: Any) -> None:
        self._ask("delete", resource)
        self.scene.delete(resource.kind, place[1], how["grace_seconds"])

    async def patch_status(self, *place_and_change: Any) -> Any:
        *_, status, _ = place_and_change
        merge(self.scene.job.setdefault("status", {}), status)
        return self.scene.put(self.scene.job)

    def _ask(self, verb: str, resource: Resource) -> None:
        self.asked.append((verb, resource.kind))
        for what in (verb, resource.kind, f"{verb} {resource.kind}"):
            if what in self.refuse:
                raise self.refuse[what]


class Silent:
    """Records no events."""

    def record(self, *_: Any) -> None: ...


class Stage:
    """A scene, looked at by a real reconciler."""

    def __init__(
        self,
        scene: Scene,
        refuse: Mapping[str, ApiError],
        server: type[RefusingServer] = RefusingServer,
    ) -> None:
        self.scene = scene
        self.server = server(scene, refuse)
        scene.put(scene.job)
        api: Any = SimpleNamespace(for_workers=lambda: self.server)
        within = Surroundings(SETTINGS, api, scene.stores, Silent(), lambda _: None)
        self._reconciler = Reconciler(within, clock=lambda: scene.now)

    def look(self, *pauses: float) -> list[float | None]:
        """Look once after each of the pauses."""

        async def looks() -> list[float | None]:
            due = []
            for pause in pauses:
                self.scene.after(pause)
                due.append(await self._reconciler.reconcile(JobKey(NAMESPACE, NAME)))
            await self._reconciler.close()
            return due

        return asyncio.run(looks())

    def count(self, verb: str, kind: str) -> int:
        return self.server.asked.count((verb, kind))


@pytest.mark.parametrize("error", [DENIED, WEBHOOK, BUSY, HANGS])
def test_costs_of_a_deletion_that_nobody_may_write_do_not_hold_up_a_scale_down(error):
    scene = Scene().running(4)
    scene.change(actors={"replicas": 1})
    stage = Stage(scene, {"patch Pod": error})
    stage.look(0, 1, 6)
    assert scene.document("Deployment", "pole-actors")["spec"]["replicas"] == 1
    assert truth(scene.status, "Failed")[0] == "False"
    assert error.message not in scene.status.message


def many_go(server: type[RefusingServer], refuse: Mapping[str, ApiError]) -> Stage:
    """A job that is to lose 19 of its 20 actors."""
    scene = Scene(actors={"minReplicas": 1, "maxReplicas": 20}).running(20)
    scene.change(actors={"maxReplicas": 1})
    return Stage(scene, refuse, server)


def test_costs_of_deletions_are_not_tried_on_when_one_cannot_be_written():
    stage = many_go(RefusingServer, {"patch Pod": WEBHOOK})
    stage.look(0)
    assert stage.count("patch", "Pod") == WISHES_AT_ONCE


class TogetherServer(RefusingServer):
    """Answers to a patch of a pod when there are as many as may be at once, and counts these."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.here = self.most = 0
        self.enough = asyncio.Event()

    async def patch(self, resource: Resource, *place_and_change: Any) -> Any:
        self.here += 1
        self.most = max(self.most, self.here)
        if self.here == WISHES_AT_ONCE:
            self.enough.set()
        async with asyncio.timeout(5):
            await self.enough.wait()
        self.here -= 1
        return await super().patch(resource, *place_and_change)


def test_costs_of_deletions_are_written_several_at_once_and_not_all():
    stage = many_go(TogetherServer, {})
    stage.look(0)
    assert stage.count("patch", "Pod") == 19
    assert stage.server.most == WISHES_AT_ONCE


@pytest.mark.parametrize(("error", "reason"), [(DENIED, "Forbidden"), (WEBHOOK, "ApiUnavailable")])
def test_a_child_that_cannot_be_written_is_named_in_the_status_and_tried_less_and_less(
    error, reason
):
    scene = Scene()
    stage = Stage(scene, {"Service": error})
    due = stage.look(0)
    assert truth(scene.status, "Progressing") == ("False", reason)
    assert error.message in scene.status.message
    assert due[0] <= 1
    stage.look(*[1.0] * 20)
    assert 4 <= stage.count("apply", "Service") <= 6
    assert scene.find("Job", "pole-learner") is None


def test_two_children_that_are_refused_are_put_off_each_by_itself():
    scene = Scene().running()
    scene.change(backoffLimit=2)
    kinds = ("NetworkPolicy", "Deployment")
    stage = Stage(scene, dict.fromkeys(kinds, DENIED))
    stage.look(*[0.5] * 40)
    # After 0, 1, 3, 7 and 15 seconds; there are two policies.
    assert stage.count("apply", "Deployment") <= 6
    assert stage.count("apply", "NetworkPolicy") <= 12


def test_a_deletion_that_is_refused_is_told_and_put_off():
    scene = Scene().running()
    scene.change(learner={"podTemplate": {"spec": {"priorityClassName": "high"}}})
    stage = Stage(scene, {"delete": DENIED})
    stage.look(*[0.5] * 20)
    assert "a policy says no" in scene.status.message
    assert stage.count("delete", "Job") <= 5


def test_a_deletion_that_meets_a_conflict_is_decided_anew_by_the_queue_and_the_rest_goes_on():
    scene = Scene().running()
    scene.change(learner={"podTemplate": {"spec": {"priorityClassName": "high"}}})
    stage = Stage(scene, {"delete": ConflictError(409, "Conflict", "not this one")})
    with pytest.raises(ConflictError):
        stage.look(0)
    assert scene.status.observed_generation == scene.job["metadata"]["generation"]
    assert scene.find("Job", "pole-learner") is not None
    stage.server.refuse = {}
    stage.look(1)
    assert stage.count("delete", "Job") == 2


def test_a_look_ends_at_the_first_that_does_not_answer_and_the_next_look_goes_on_behind_it():
    scene = Scene().running()
    scene.change(backoffLimit=2, actors={"replicas": 4})
    stage = Stage(scene, {"ConfigMap": WEBHOOK, "Job": WEBHOOK})
    stage.look(0)
    assert not set(MAKE_PODS) & {kind for _, kind in stage.server.asked}
    stage.look(0.1)
    assert stage.count("apply", "Job") == 1
    assert stage.count("apply", "Deployment") == 0
    stage.look(0.1)
    assert scene.document("Deployment", "pole-actors")["spec"]["replicas"] == 4


def test_a_look_deletes_nothing_more_once_a_deletion_was_not_answered():
    scene = Scene().running()
    for name in ("orphan-1", "orphan-2"):
        scene.pod(name, "learner", owner="")
    stage = Stage(scene, {"delete Pod": WEBHOOK})
    stage.look(0)
    assert stage.count("delete", "Pod") == 1
    assert stage.count("apply", "ConfigMap") == 0
    stage.look(0.1)
    assert stage.count("delete", "Pod") == 2


def test_a_job_ends_though_a_child_is_refused():
    scene = Scene().running()
    scene.change(backoffLimit=2)
    stage = Stage(scene, {"ConfigMap": WEBHOOK})
    stage.look(0)
    assert "ConfigMap pole-job" in scene.status.message
    scene.condition("Job", "pole-learner", type="Complete")
    stage.look(1)
    assert scene.status.phase == "Complete"


class MeetingServer(RefusingServer):
    """Answers to none of five requests before all five have come."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.all_are_here = asyncio.Barrier(5)

    async def apply(self, resource: Resource, document: Document, *_: str) -> Any:
        if resource.kind not in MAKE_PODS:
            async with asyncio.timeout(5):
                await self.all_are_here.wait()
        return await super().apply(resource, document)


def test_what_pods_need_is_written_at_once_and_what_makes_pods_after_it():
    scene = Scene()
    stage = Stage(scene, {}, MeetingServer)
    stage.look(0)
    kinds = [kind for _, kind in stage.server.asked]
    assert sorted(kinds[:5]) == [
        "ConfigMap", "NetworkPolicy", "NetworkPolicy", "Secret", "Service",
    ]  # fmt: skip
    assert kinds[5:] == MAKE_PODS


def test_what_makes_pods_is_not_written_when_what_they_need_is_refused():
    stage = Stage(Scene(), {"ConfigMap": DENIED})
    stage.look(0)
    assert not set(MAKE_PODS) & {kind for _, kind in stage.server.asked}
    assert stage.count("apply", "Service") == 1


# The Secret, which the operator cannot see.


@pytest.mark.parametrize("error", [DENIED, WEBHOOK])
def test_nothing_that_makes_pods_is_written_before_a_secret_that_is_refused(error):
    scene = Scene()
    stage = Stage(scene, {"Secret": error})
    for _ in range(20):
        stage.look(0.3)
        assert not set(MAKE_PODS) & {kind for _, kind in stage.server.asked}
        assert truth(scene.status, "Progressing")[0] == "False"
        assert error.message in scene.status.message
    # After 0, 1 and 3 seconds.
    assert stage.count("apply", "Secret") == 3
    stage.server.refuse = {}
    stage.look(2)
    assert [kind for _, kind in stage.server.asked[-2:]] == MAKE_PODS


def test_a_secret_that_is_refused_at_a_new_epoch_is_tried_until_it_is_written():
    scene = Scene().running()
    stage = Stage(scene, {})
    stage.look(0)
    stage.server.refuse = {"Secret": WEBHOOK}
    due = stage.look(EPOCH.total_seconds(), *[0.3] * 2)
    assert stage.count("apply", "Secret") == 2
    assert due[-1] == pytest.approx(0.4)
    # The pods have what they need: nothing else waits for it.
    scene.change(actors={"replicas": 4})
    scene.put(scene.job)
    stage.look(0.1, 0.1)
    assert scene.document("Deployment", "pole-actors")["spec"]["replicas"] == 4
    stage.server.refuse = {}
    refused = stage.count("apply", "Secret")
    stage.look(1, 1)
    assert stage.count("apply", "Secret") == refused + 1


def test_a_learner_is_asked_while_its_secret_cannot_be_renewed(monkeypatch):
    epochs: list[int] = []

    def follow(_client: LearnerClient, _key: JobKey, learner: Acquaintance) -> None:
        epochs.append(learner.epoch)

    monkeypatch.setattr(LearnerClient, "follow", follow)
    scene = Scene().running()
    # An operator that starts anew knows of no Secret, and asks nevertheless.
    stage = Stage(scene, {"Secret": WEBHOOK})
    stage.look(0)
    assert epochs == [0]
    stage.server.refuse = {}
    stage.look(1)
    stage.server.refuse = {"Secret": WEBHOOK}
    stage.look(EPOCH.total_seconds(), 0.3)
    assert set(epochs) == {0}
    stage.server.refuse = {}
    stage.look(1, 0.3)
    assert epochs[-1] == 1
