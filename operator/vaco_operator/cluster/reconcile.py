"""One look at one job: observe, plan, carry out, and at most one write of its status.

Everything is decided by `plan`, which is pure; here is the little around it that talks. A plan that
could not be carried out as a whole leaves nothing in memory, so the next look decides it again.

The status is written with the version of the job that was looked at: if somebody changed the job
meanwhile, it is not written, and the job is looked at again. Events are told when the status that
they follow from is written, so none is told twice. Numbers that only tell progress wait for their
turn, every 10 s.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

from vaco_operator.cluster.api_errors import AlreadyExistsError, NotFoundError
from vaco_operator.cluster.apply import Applier, Done
from vaco_operator.cluster.contract import Surroundings
from vaco_operator.cluster.credentials import derive, epoch_at, new_root_key
from vaco_operator.cluster.labels import JobIdentity, learner_host
from vaco_operator.cluster.learner_client import Acquaintance, LearnerClient
from vaco_operator.cluster.manifests.credentials_secret import read_root_key, root_secret
from vaco_operator.cluster.observed import Child, Moment, observe
from vaco_operator.cluster.plan import plan
from vaco_operator.cluster.pods import parse_time
from vaco_operator.cluster.resources import EVENTS, SECRETS, VACO_JOBS, Document
from vaco_operator.cluster.status_write import change, document_of, is_urgent
from vaco_operator.cluster.steps import Issued, Memory, Plan, World
from vaco_operator.cluster.store import JobKey
from vaco_operator.cluster.troubles import (
    Complaint,
    Inquiry,
    Refusal,
    put_off,
    refused,
)

_LOG = logging.getLogger(__name__)

PROGRESS_SECONDS: Final = 10.0
AFTER_A_WRITE_SECONDS: Final = 0.3
"""Own writes wake nobody; what follows from them is looked for soon after."""


@dataclass(slots=True)
class _Record:
    """What is remembered of one job."""

    uid: str
    memory: Memory = field(default_factory=Memory)
    status_written: float = float("-inf")


class Reconciler:
    """Brings jobs to where their manifests want them.

    Args:
        surroundings: what it works with.
        clock: tells wall and monotonic time.

    """

    def __init__(
        self,
        surroundings: Surroundings,
        clock: Callable[[], Moment] = lambda: Moment(datetime.now(UTC), time.monotonic()),
    ) -> None:
        self._with = surroundings
        self._api = surroundings.api.for_workers()
        self._clock = clock
        self._applier = Applier(self._api, surroundings.stores)
        self._learners = LearnerClient(surroundings.wake, surroundings.stores.pods.__contains__)
        self._records: dict[JobKey, _Record] = {}
        self._world: World | None = None
        self._lock = asyncio.Lock()

    async def reconcile(self, key: JobKey) -> float | None:
        """Look at a job once; see `contract.Reconciler`."""
        job = self._with.stores.vaco_jobs.get(*key)
        record = self._records.get(key)
        if record is not None and (job is None or job["metadata"]["uid"] != record.uid):
            self._forget(key)
            record = None
        if job is None:
            return None
        if record is None:
            record = self._records[key] = _Record(job["metadata"]["uid"])
        if self._world is None:
            self._world = World(self._with.settings, await self._root_key())
        return await self._look(key, job, record, self._world)

    async def close(self) -> None:
        """Ask no learner any more."""
        await self._learners.close()

    async def _look(
        self, key: JobKey, job: Document, record: _Record, world: World
    ) -> float | None:
        observed = observe(self._with.stores, job, self._learners.latest(key))
        now = self._clock()
        decided = plan(job, observed, record.memory, now, world)
        if decided.look_into is not None:
            complaint = await self._inquire(key, decided.look_into, now)
            record.memory = replace(record.memory, complaint=complaint)
            decided = plan(job, observed, record.memory, now, world)
        self._follow(key, job, decided, record.memory.issued, now, world)
        # Whatever becomes of this plan: pods that go are seen to go since now.
        record.memory = replace(record.memory, leaving=decided.memory.leaving)
        due_now = _not_put_off(decided, job, now)
        done = await self._applier.carry_out(key, record.uid, due_now, observed)
        refusals = _refusals(record.memory, done, job, now)
        if refusals != record.memory.refusals:
            # The status shall tell of it. What was made is known to the memory of the first plan.
            told = plan(job, observed, replace(record.memory, refusals=refusals), now, world)
            decided = replace(told, memory=replace(decided.memory, refusals=refusals))
        wait = await self._tell(key, job, record, decided, now)
        record.memory = replace(
            decided.memory,
            settled=None if done.wrote or done.refused else decided.memory.settled,
            issued=decided.memory.issued if _has_secret(done.wrote) else record.memory.issued,
        )
        if done.conflict is not None:
            # No change need follow that would tell when to look again: the queue knows.
            raise done.conflict
        due = (decided.requeue_after, wait, AFTER_A_WRITE_SECONDS if done.wrote else None)
        return min((seconds for seconds in due if seconds is not None), default=None)

    async def _tell(
        self, key: JobKey, job: Document, record: _Record, decided: Plan, now: Moment
    ) -> float | None:
        """Write the status, if it is time; returns the seconds until it is, if it is not."""
        if decided.status is None:
            return None
        before = job.get("status") or {}
        after = document_of(decided.status, before)
        difference = change(before, after)
        if not difference:
            return None
        wait = record.status_written + PROGRESS_SECONDS - now.monotonic
        if wait > 0 and not is_urgent(before, after):
            return wait
        version = job["metadata"]["resourceVersion"]
        try:
            answer = await self._api.patch_status(
                VACO_JOBS, key.namespace, key.name, difference, version
            )
        except NotFoundError:
            # It was deleted a moment ago, which the store has yet to hear.
            return None
        self._with.stores.vaco_jobs.put(answer)
        record.status_written = now.monotonic
        for note in decided.notes:
            self._with.recorder.record(job, note.kind, note.reason, note.message)
        return None

    def _follow(
        self,
        key: JobKey,
        job: Document,
        decided: Plan,
        issued: Issued | None,
        now: Moment,
        world: World,
    ) -> None:
        """Have the learner asked that there is now, and no other, as `issued` credentials allow."""
        address = decided.learner
        if address is None:
            self._learners.forget(key)
            return
        metadata = job["metadata"]
        created = parse_time(metadata["creationTimestamp"])
        identity = JobIdentity(key.name, key.namespace, metadata["uid"], created)
        # A learner that is there has credentials, if only of the epoch before: it takes ours.
        epoch = issued.epoch if issued is not None else epoch_at(created, now.wall)
        derived = partial(derive, world.root_key, identity, epoch, world.settings.cluster_domain)
        self._learners.follow(key, Acquaintance(address, learner_host(identity), epoch, derived))

    async def _inquire(self, key: JobKey, inquiry: Inquiry, now: Moment) -> Complaint:
        """Ask the events of the learner's Job why it makes no pod."""
        fields = f"involvedObject.uid={inquiry.job_uid},reason=FailedCreate"
        newest, message = inquiry.since, ""
        async for page in self._api.list_pages(EVENTS, key.namespace, fields=fields):
            for event in page["items"]:
                last = event.get("lastTimestamp") or event.get("eventTime")
                if last and parse_time(last) >= newest:
                    newest, message = parse_time(last), event.get("message", "")
        return Complaint(inquiry.job_uid, message, now.monotonic)

    def _forget(self, key: JobKey) -> None:
        self._records.pop(key, None)
        self._applier.forget(key)
        self._learners.forget(key)

    async def _root_key(self) -> bytes:
        """Read the root key of all credentials; the first operator of all draws it."""
        settings, api = self._with.settings, self._api
        async with self._lock:
            try:
                secret = await api.get(SECRETS, settings.namespace, settings.root_secret)
            except NotFoundError:
                _LOG.info("drawing a root key for the credentials of jobs")
                try:
                    secret = await api.create(SECRETS, root_secret(settings, new_root_key()))
                except AlreadyExistsError:
                    secret = await api.get(SECRETS, settings.namespace, settings.root_secret)
        return read_root_key(secret)


def _not_put_off(decided: Plan, job: Document, now: Moment) -> Plan:
    """Leave out changes and deletions that were refused too lately to be tried again."""
    refusals, generation = decided.memory.refusals, job["metadata"].get("generation")
    later = put_off(refusals, generation, now.monotonic)
    if not later:
        return decided
    return replace(
        decided,
        patches=tuple(p for p in decided.patches if Child(p.resource, p.name) not in later),
        deletions=tuple(d for d in decided.deletions if Child(d.resource, d.name) not in later),
    )


def _has_secret(written: list[Child]) -> bool:
    return any(child.resource == SECRETS for child in written)


def _refusals(memory: Memory, done: Done, job: Document, now: Moment) -> tuple[Refusal, ...]:
    """Return what is refused after a plan was carried out: now, or too lately to be tried again."""
    generation, known = job["metadata"].get("generation"), memory.refusals
    news = {
        each.child: refused(known, each.child, each.trouble, generation, now.monotonic)
        for each in done.refused
    }
    later = put_off(known, generation, now.monotonic)
    waiting = {each.child: each for each in known if each.child in later}
    both = waiting | news
    return tuple(both[child] for child in sorted(both, key=str))
