"""What the API server last told: one store for each watched resource.

A reflector puts objects in and takes them out; every change is told to a listener by the key of the
job it belongs to, which is all that a level-triggered operator needs to know. A reconcile reads its
job and the job's children from here and asks the API server nothing.

Objects are kept packed (`packing`), without what nobody reads. So whoever gets one gets a copy of
its own, and may change it. What is asked of all objects at once is kept beside them.
"""

import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from vaco_operator.cluster.labels import JOB
from vaco_operator.cluster.packing import Packed, Packer, text_of, unpack
from vaco_operator.cluster.resources import (
    CONFIG_MAPS,
    DEPLOYMENTS,
    JOBS,
    NETWORK_POLICIES,
    PODS,
    SERVICES,
    VACO_JOBS,
    VOLUME_CLAIMS,
    Document,
    Resource,
)
from vaco_operator.cluster.trim import trim

MAX_GONE: Final = 4096
"""How many deletions a store remembers: more than come while a write waits for its answer."""


class JobKey(NamedTuple):
    """The name of a VACOJob, and what the queue works on."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class _Entry(NamedTuple):
    job: JobKey | None
    version: int
    phase: str
    packed: Packed
    own: bool

    def is_same(self, other: "_Entry") -> bool:
        if self[:3] != other[:3] or self.own != other.own:
            return False
        return self.packed == other.packed or text_of(self.packed) == text_of(other.packed)


class Store:
    """The objects of one resource.

    Args:
        resource: of which they are.
        on_change: told the job whose object came, changed or went; called in the event loop, so it
            must not wait.

    """

    def __init__(self, resource: Resource, on_change: Callable[[JobKey], None]) -> None:
        self.resource = resource
        self._on_change = on_change
        self._packer = Packer()
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._told_version = 0
        self._gone: dict[str, None] = {}
        self._of_job: dict[JobKey, set[str]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, place: tuple[str, str]) -> bool:
        return place in self._entries

    def job_keys(self) -> Collection[JobKey]:
        """Return the jobs that something here belongs to; of VACOJobs: all jobs."""
        return tuple(self._of_job)

    def get(self, namespace: str, name: str) -> Document | None:
        """Return the object of that name; None: there is none."""
        entry = self._entries.get((namespace, name))
        return unpack(entry.packed) if entry else None

    def of_job(self, job: JobKey) -> list[Document]:
        """Return the objects that belong to a job, by name; of VACOJobs: the job itself."""
        names = sorted(self._of_job.get(job, ()))
        return [unpack(self._entries[job.namespace, name].packed) for name in names]

    def phases(self) -> Iterator[tuple[tuple[str, str], str]]:
        """Yield namespace and name of each object, and the phase that its status tells, if any.

        Those known for longest come first.
        """
        yield from ((place, entry.phase) for place, entry in self._entries.items())

    def put(self, document: Document) -> None:
        """Take what a write of a reconcile answered, unless a newer one is known.

        The next reconcile then does not see the object as it was before. The listener is not told:
        who wrote it knows, and the watch that tells of it later brings nothing new.
        """
        entry = self._entry(document, own=True)
        known = self._entries.get(_place(document))
        if known is None and document["metadata"]["uid"] in self._gone:
            # Its deletion was heard first: no watch would ever tell of it again.
            return
        if known is None or known.version < entry.version:
            self._set(_place(document), entry)

    def told(self, document: Document) -> None:
        """Take what a watch told, unless a newer one is known."""
        entry = self._entry(document)
        self._told_version = max(self._told_version, entry.version)
        known = self._entries.get(_place(document))
        if known is not None and known.version == entry.version:
            return
        if known is None or known.version < entry.version:
            self._set(_place(document), entry)
        # If not, somebody changed it before we wrote it, and whoever wrote may not have seen that.
        self._tell(entry.job)

    def discard(self, document: Document) -> None:
        """Forget an object that was deleted, unless there is a newer one of the same name."""
        known = self._entries.get(_place(document))
        if known is not None and known.version <= _version(document):
            self._lose(_place(document))

    def restate(self, document: Document, version: str) -> None:
        """Take an object out of a list of this version, which holds whatever was known before.

        So it does after etcd was restored from a backup, when versions begin again at a lower one.
        Only what a reconcile has written since the list was made stays.
        """
        if self._is_since(_place(document), int(version)):
            return
        entry = self._entry(document)
        # One of our own writes is never equal: what was changed before it may not have been seen.
        known = self._entries.get(_place(document))
        if known is None or not known.is_same(entry):
            self._set(_place(document), entry)
            self._tell(entry.job)

    def keep_only(self, namespace: str, places: Collection[tuple[str, str]], version: str) -> None:
        """Forget what a list of `namespace` (empty: of the whole cluster) did not have any more.

        Args:
            namespace: listed.
            places: what the list had.
            version: of the list; what a reconcile has made since stays.

        """
        gone = [
            place
            for place in self._entries
            if place not in places
            and (not namespace or place[0] == namespace)
            and not self._is_since(place, int(version))
        ]
        for place in gone:
            self._lose(place)
        self._told_version = int(version)

    def _is_since(self, place: tuple[str, str], version: int) -> bool:
        """Whether what is known is a write of ours that a list of this version cannot have."""
        known = self._entries.get(place)
        # A list from before what was told already is one of a restored etcd, which holds.
        return known is not None and known.own and known.version > version >= self._told_version

    def _entry(self, document: Document, *, own: bool = False) -> _Entry:
        phase = sys.intern(str((document.get("status") or {}).get("phase", "")))
        packed = self._packer.pack(trim(self.resource, document))
        return _Entry(self._job_of(document), _version(document), phase, packed, own)

    def _job_of(self, document: Document) -> JobKey | None:
        metadata = document["metadata"]
        name = metadata["name"]
        if self.resource != VACO_JOBS:
            name = (metadata.get("labels") or {}).get(JOB)
        # All objects of a job share the strings.
        return JobKey(*map(sys.intern, (metadata["namespace"], name))) if name else None

    def _set(self, place: tuple[str, str], entry: _Entry) -> None:
        before = self._entries.get(place)
        if before is not None and before.job != entry.job:
            self._unset(place)
        self._entries[place] = entry
        if entry.job is not None:
            self._of_job.setdefault(entry.job, set()).add(place[1])

    def _lose(self, place: tuple[str, str]) -> None:
        """Take out an object that was deleted, and remember that it was."""
        self._gone[unpack(self._entries[place].packed)["metadata"]["uid"]] = None
        if len(self._gone) > MAX_GONE:
            del self._gone[next(iter(self._gone))]
        self._unset(place)

    def _unset(self, place: tuple[str, str]) -> None:
        """Take an object out; its job is told."""
        entry = self._entries.pop(place)
        if entry.job is not None:
            names = self._of_job[entry.job]
            names.discard(place[1])
            if not names:
                del self._of_job[entry.job]
        self._tell(entry.job)

    def _tell(self, job: JobKey | None) -> None:
        if job is not None:
            self._on_change(job)


@dataclass(frozen=True, slots=True)
class Stores:
    """All that is watched."""

    vaco_jobs: Store
    jobs: Store
    deployments: Store
    pods: Store
    services: Store
    config_maps: Store
    network_policies: Store
    volume_claims: Store

    @classmethod
    def make(cls, on_change: Callable[[JobKey], None]) -> "Stores":
        """Make empty ones; `on_change` is told the job that something changed of."""
        return cls(
            vaco_jobs=Store(VACO_JOBS, on_change),
            jobs=Store(JOBS, on_change),
            deployments=Store(DEPLOYMENTS, on_change),
            pods=Store(PODS, on_change),
            services=Store(SERVICES, on_change),
            config_maps=Store(CONFIG_MAPS, on_change),
            network_policies=Store(NETWORK_POLICIES, on_change),
            volume_claims=Store(VOLUME_CLAIMS, on_change),
        )

    def children(self) -> tuple[Store, ...]:
        """Return the stores of what belongs to jobs."""
        return (
            self.jobs,
            self.deployments,
            self.pods,
            self.services,
            self.config_maps,
            self.network_policies,
            self.volume_claims,
        )


def _place(document: Document) -> tuple[str, str]:
    metadata = document["metadata"]
    return sys.intern(metadata["namespace"]), metadata["name"]


def _version(document: Document) -> int:
    """Return the resource version: a number that grows, as Kubernetes promises since 1.35."""
    return int(document["metadata"]["resourceVersion"])
