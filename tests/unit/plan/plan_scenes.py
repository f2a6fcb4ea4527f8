"""Scenes for plans: documents as the API server has them, put into real stores, and one look.

`Scene.carry_out` stands in for the API server: it stores what a plan applies, patches and deletes.
What controllers and kubelets do then (pods, conditions) each test arranges itself.
"""

from __future__ import annotations

import copy
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from vaco.job import API_VERSION, KIND, VACOJobStatus
from vaco.v1 import learner_pb2 as pb
from vaco_operator.cluster import labels
from vaco_operator.cluster.credentials import ROOT_KEY_BYTES
from vaco_operator.cluster.desired import child_of
from vaco_operator.cluster.observed import Answer, Moment, Observed, observe, read_status
from vaco_operator.cluster.plan import plan
from vaco_operator.cluster.resources import Document
from vaco_operator.cluster.settings import Settings
from vaco_operator.cluster.status_write import document_of
from vaco_operator.cluster.steps import Memory, Plan, World
from vaco_operator.cluster.store import Store, Stores

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
NAME, NAMESPACE, UID = "pole", "research", "uid-of-the-job"
SETTINGS = Settings(namespace="vaco", learner_image="learner:1", actor_image="actor:1")
WORLD = World(SETTINGS, bytes(ROOT_KEY_BYTES))


class Scene:
    """A job, what there is of it, and what the operator remembers."""

    def __init__(self, **spec: Any) -> None:
        self.stores = Stores.make(lambda _: None)
        self.memory = Memory()
        self.seconds = 0.0
        self.answer: Answer | None = None
        self.world = WORLD
        self._versions = count(10)
        self.job: Document = {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {
                "name": NAME,
                "namespace": NAMESPACE,
                "uid": UID,
                "generation": 1,
                "creationTimestamp": written(NOON),
                "resourceVersion": "1",
            },
            "spec": {
                "task": {"environment": "CartPole-v1"},
                "stop": {"envSteps": 100_000},
                "actors": {"replicas": 2, "minReplicas": 1, "maxReplicas": 8},
                **spec,
            },
        }

    # The time.

    @property
    def now(self) -> Moment:
        """The moment it is in the scene."""
        return Moment(NOON + timedelta(seconds=self.seconds), 1000.0 + self.seconds)

    def after(self, seconds: float) -> Scene:
        """Let time go by."""
        self.seconds += seconds
        return self

    # Looking.

    @property
    def observed(self) -> Observed:
        """What there is."""
        return observe(self.stores, self.job, self.answer)

    def look(self) -> Plan:
        """Make one plan; nothing is carried out."""
        return plan(self.job, self.observed, self.memory, self.now, self.world)

    def step(self) -> Plan:
        """Make one plan and carry it out."""
        decided = self.look()
        self.carry_out(decided)
        return decided

    def carry_out(self, decided: Plan) -> None:
        """Store what a plan says, as the API server would, and remember."""
        for patch in decided.patches:
            document = self.document(patch.resource.kind, patch.name)
            merge(document, patch.change)
            self.put(document)
        for deletion in decided.deletions:
            self.delete(deletion.resource.kind, deletion.name, deletion.grace_seconds)
        for document in decided.children:
            resource, name = child_of(document)
            if resource.kind != "Secret":
                live = self._store(resource.kind).get(NAMESPACE, name) or {}
                self.put({**live, **document, "metadata": {**live.get("metadata", {}),
                                                           **document["metadata"]}})  # fmt: skip
        if decided.status is not None:
            self.job["status"] = document_of(decided.status)
        self.memory = decided.memory

    @property
    def status(self) -> VACOJobStatus:
        """The status as it is written."""
        return read_status(self.job.get("status")) or VACOJobStatus()

    # Arranging.

    def put(self, document: Document) -> Document:
        """Put an object into its store."""
        metadata = document["metadata"]
        metadata.setdefault("namespace", NAMESPACE)
        metadata.setdefault("uid", f"uid-{document['kind']}-{next(self._versions)}")
        metadata.setdefault("creationTimestamp", written(self.now.wall))
        metadata["resourceVersion"] = str(next(self._versions))
        if document["kind"] == "Job" and not document["spec"].get("suspend"):
            document.setdefault("status", {}).setdefault("startTime", written(self.now.wall))
        self._store(document["kind"]).told(copy.deepcopy(document))
        return document

    def document(self, kind: str, name: str) -> Document:
        """Get an object that there must be."""
        found = self._store(kind).get(NAMESPACE, name)
        assert found is not None, f"there is no {kind} {name}"
        return found

    def find(self, kind: str, name: str) -> Document | None:
        """Get an object, if there is one."""
        return self._store(kind).get(NAMESPACE, name)

    def delete(self, kind: str, name: str, grace: int | None = None) -> None:
        """Have an object told to go: pods and Jobs stay for their grace."""
        document = self.find(kind, name)
        if document is None:
            return
        if kind in ("Pod", "Job") and grace != 0:
            seconds = 30 if grace is None else grace
            gone_by = written(self.now.wall + timedelta(seconds=seconds))
            document["metadata"].setdefault("deletionTimestamp", gone_by)
            document["metadata"].setdefault("deletionGracePeriodSeconds", seconds)
            self.put(document)
        else:
            self.remove(kind, name)

    def remove(self, kind: str, name: str) -> None:
        """Have an object be gone."""
        document = self.document(kind, name)
        document["metadata"]["resourceVersion"] = str(next(self._versions))
        self._store(kind).discard(document)

    def change(self, **spec: Any) -> Scene:
        """Change the job's spec, as a person does."""
        merge(self.job["spec"], spec)
        self.job["metadata"]["generation"] += 1
        return self

    def condition(self, kind: str, name: str, **condition: str) -> None:
        """Give a Job or a Deployment a condition that holds."""
        document = self.document(kind, name)
        conditions = document.setdefault("status", {}).setdefault("conditions", [])
        conditions.append({"status": "True", **condition})
        self.put(document)

    def learner_pod(self, name: str = "pole-learner-a", **how: Any) -> str:
        """Have the learner's Job make a pod; returns its uid."""
        job = self.document("Job", f"{NAME}-learner")
        return self.pod(
            name,
            "learner",
            owner=how.pop("owner", job["metadata"]["uid"]),
            attempt=how.pop("attempt", job["metadata"]["labels"][labels.ATTEMPT]),
            **how,
        )

    def actor_pods(self, *names: str, **how: Any) -> None:
        """Have the actors' Deployment make pods."""
        for name in names:
            self.pod(name, "actor", owner="uid-of-the-replica-set", **how)

    def pod(
        self,
        name: str,
        component: labels.Component,
        *,
        owner: str,
        attempt: str = "",
        phase: str = "Running",
        ready: bool = True,
        ip: str = "10.0.0.1",
        **rest: Any,
    ) -> str:
        """Put a pod; `rest`: its container's status, `conditions`, `annotations`, `node`."""
        pod_labels = labels.child_labels(NAME, component)
        if attempt:
            pod_labels[labels.ATTEMPT] = attempt
        conditions = [{"type": "Ready", "status": str(ready)}, *rest.pop("conditions", ())]
        metadata = {
            "name": name,
            "labels": pod_labels,
            "annotations": rest.pop("annotations", {}),
            "ownerReferences": [{"uid": owner, "controller": True}] if owner else [],
        }
        before = self.find("Pod", name)
        if before is not None:
            metadata = {**before["metadata"], **metadata}
        node = rest.pop("node", "node-1")
        container = {"name": component, "ready": ready, "restartCount": 0, **rest}
        status = {
            "phase": phase,
            "podIP": ip,
            "conditions": conditions,
            "containerStatuses": [container],
        }
        document = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status}
        if node:
            document["spec"] = {"nodeName": node}
        return str(self.put(document)["metadata"]["uid"])

    def hear(self, *, pod: str = "", every: float = 5, **said: Any) -> None:
        """Have the learner answer now, asked every so many seconds; `said`: its status."""
        learner = self.observed.learner
        status = pb.GetStatusResponse(
            **{"job_uid": UID, "phase": pb.LEARNER_PHASE_TRAINING, "incarnation": 1} | said
        )
        uid = pod or (learner.uid if learner else "")
        self.answer = Answer(status, uid, self.now.monotonic, every)

    def running(self, actors: int = 2) -> Scene:
        """Bring the job to where it trains with so many actors, all connected."""
        self.job["spec"]["actors"]["replicas"] = actors
        self.step()
        self.learner_pod()
        names = [f"pole-actors-{i}" for i in range(actors)]
        self.actor_pods(*names)
        self.hear(version=5, env_steps=1000, checkpoint_version=4, actors=connected(*names))
        self.step()
        assert self.status.phase == "Running"
        return self

    def _store(self, kind: str) -> Store:
        stores = (self.stores.vaco_jobs, *self.stores.children())
        return next(store for store in stores if store.resource.kind == kind)


def written(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def merge(document: Document, change: Document) -> None:
    """Merge as the API server merges: null removes."""
    for name, value in change.items():
        if isinstance(value, dict) and isinstance(document.get(name), dict):
            merge(document[name], value)
        elif value is None:
            document.pop(name, None)
        else:
            document[name] = copy.deepcopy(value)


def connected(*names: str, **of_all: Any) -> list[pb.ActorAccount]:
    return [pb.ActorAccount(actor_id=name, connected=True, **of_all) for name in names]


def truth(status: VACOJobStatus | None, kind: str) -> tuple[str, str]:
    """Status and reason of a condition."""
    assert status is not None
    (found,) = [c for c in status.conditions if c.type == kind]
    return found.status, found.reason


def applied(decided: Plan, kind: str, name: str = "") -> Document | None:
    """The child of that kind that a plan applies."""
    found = [c for c in decided.children if c["kind"] == kind]
    found = [c for c in found if not name or c["metadata"]["name"] == name]
    return found[0] if found else None


def reasons(decided: Plan) -> list[str]:
    return [note.reason for note in decided.notes]
