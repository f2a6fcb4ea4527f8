"""Carries out plans: turns what is to be into as few requests as there are differences.

A child is written when it is new, when it should be another than the one written last, or when
somebody changed it since (`projection`); otherwise nothing is asked, so a job at rest costs no
request. After a start nothing is remembered, and every child is written once, which the server
takes for what it is: no change.

A new child is applied with a version that no object can have, which the server takes for a creation
and refuses if there is an object of that name: what belongs to somebody else is never taken over.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from vaco_operator.cluster.api import KubeApi
from vaco_operator.cluster.api_errors import (
    ApiError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    QuotaExceededError,
    UnavailableError,
)
from vaco_operator.cluster.desired import child_of, is_there
from vaco_operator.cluster.observed import Child, Observed
from vaco_operator.cluster.pods import controller_of
from vaco_operator.cluster.projection import digest, projection
from vaco_operator.cluster.resources import DEPLOYMENTS, JOBS, SECRETS, Document
from vaco_operator.cluster.steps import Deletion, Patch, Plan
from vaco_operator.cluster.store import JobKey, Store, Stores
from vaco_operator.cluster.troubles import API_UNAVAILABLE, QUOTA_EXCEEDED, name_conflict
from vaco_operator.status import Trouble

_LOG = logging.getLogger(__name__)

_MAKE_PODS: Final = (JOBS, DEPLOYMENTS)
WISHES_AT_ONCE: Final = 8
NO_VERSION: Final = "1"
"""No object has it: etcd counts all writes, and the first was not of one of ours."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A child that the API server would not take, change or delete, and why."""

    child: Child
    trouble: Trouble


@dataclass(slots=True)
class Done:
    """What became of a plan.

    Attributes:
        wrote: what was patched, deleted or applied, in order.
        refused: what was not, in order.
        conflict: a patch or deletion that met another object than the one it was decided on, if any
            did: what was seen was not so any more. The job has to be looked at again.

    """

    wrote: list[Child] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    conflict: ConflictError | None = None

    @property
    def unanswered(self) -> bool:
        """Whether somebody did not answer: the next may not either, and a worker waits for both."""
        return any(each.trouble.reason == API_UNAVAILABLE for each in self.refused)


@dataclass(slots=True)
class _Applied:
    """What is remembered of a child: what it was to be, what it became, and when it was last so."""

    wanted: bytes
    became: bytes
    version: str


class Applier:
    """Writes children of jobs, and remembers what became of them.

    Args:
        api: is asked.
        stores: get to know what it answers.

    """

    def __init__(self, api: KubeApi, stores: Stores) -> None:
        self._api = api
        self._stores = {store.resource: store for store in (stores.vaco_jobs, *stores.children())}
        self._applied: dict[JobKey, dict[Child, _Applied]] = {}

    def forget(self, key: JobKey) -> None:
        """Forget a job."""
        self._applied.pop(key, None)

    async def carry_out(self, key: JobKey, uid: str, plan: Plan, observed: Observed) -> Done:
        """Patch, delete and apply what a plan says.

        What is refused is for the user or the cluster's owner to mend: a quota, a policy, a webhook
        that does not answer. It is told, and the rest goes on as far as it can; where somebody did
        not answer, at the next look, which leaves that out for a while.

        Args:
            key: of the job.
            uid: of the job: whose children are its own.
            plan: what is to be done.
            observed: what it was decided on.

        Raises:
            ApiError: a request failed for now; what comes after it was not tried.

        """
        done = Done()
        await self._wish(key, [patch for patch in plan.patches if patch.wish], done)
        await self._patch(key, [patch for patch in plan.patches if not patch.wish], done)
        await self._delete(key, plan.deletions, done)
        for group in _groups(plan.children):
            if done.unanswered:
                break
            outcomes = await asyncio.gather(
                *(self._ensure(key, uid, document, observed) for document in group),
                return_exceptions=True,
            )
            can_go_on = True
            for document, outcome in zip(group, outcomes, strict=True):
                if isinstance(outcome, BaseException):
                    can_go_on &= self._can_go_on(key, document, outcome, observed, done)
                elif outcome:
                    done.wrote.append(child_of(document))
            if not can_go_on:
                # What follows needs it.
                break
        return done

    async def _wish(self, key: JobKey, wishes: Sequence[Patch], done: Done) -> None:
        """Patch what nothing depends on, some at once, until one of them fails."""
        for begin in range(0, len(wishes), WISHES_AT_ONCE):
            some = wishes[begin : begin + WISHES_AT_ONCE]
            if not all(await asyncio.gather(*(self._grant(key, wish, done) for wish in some))):
                return

    async def _grant(self, key: JobKey, wish: Patch, done: Done) -> bool:
        """Patch, and return whether another wish may be granted."""
        try:
            await self._send(key, wish, done)
        except (NotFoundError, ConflictError):
            # It is gone, or another; that is no matter of the others.
            return True
        except ApiError as error:
            _LOG.info("%s: %s could not be patched: %s", key, wish.name, error)
            return False
        return True

    async def _patch(self, key: JobKey, patches: Sequence[Patch], done: Done) -> None:
        for patch in patches:
            if done.unanswered:
                return
            child = Child(patch.resource, patch.name)
            try:
                await self._send(key, patch, done)
            except NotFoundError:
                # It is gone, which the store will hear.
                continue
            except ConflictError as error:
                done.conflict = done.conflict or error
            except _REFUSALS as error:
                trouble = _trouble(error, child, key)
                if trouble is not None:
                    _note(done, key, child, trouble)

    async def _send(self, key: JobKey, patch: Patch, done: Done) -> None:
        if patch.applied:
            metadata = {"name": patch.name, "namespace": key.namespace}
            metadata |= patch.change.get("metadata", {})
            document = {**patch.change, "metadata": metadata}
            answer = await self._api.apply(patch.resource, document, patch.subresource)
        else:
            answer = await self._api.patch(
                patch.resource, key.namespace, patch.name, patch.change, patch.subresource
            )
        done.wrote.append(Child(patch.resource, patch.name))
        self._stores[patch.resource].put(answer)

    async def _delete(self, key: JobKey, deletions: Sequence[Deletion], done: Done) -> None:
        for deletion in deletions:
            if done.unanswered:
                return
            child = Child(deletion.resource, deletion.name)
            try:
                await self._api.delete(
                    deletion.resource,
                    key.namespace,
                    deletion.name,
                    uid=deletion.uid,
                    propagation=deletion.propagation,
                    grace_seconds=deletion.grace_seconds,
                )
            except ConflictError as error:
                done.conflict = done.conflict or error
                continue
            except _REFUSALS as error:
                trouble = _trouble(error, child, key)
                if trouble is not None:
                    _note(done, key, child, trouble)
                continue
            done.wrote.append(child)

    def _can_go_on(
        self,
        key: JobKey,
        document: Document,
        error: BaseException,
        observed: Observed,
        done: Done,
    ) -> bool:
        """Note why a child was not written; returns whether what follows can do without.

        Raises:
            BaseException: the error, if it is no refusal.

        """
        if not isinstance(error, _REFUSALS):
            raise error
        child = child_of(document)
        trouble = _trouble(error, child, key)
        if trouble is None:
            return False
        _note(done, key, child, trouble)
        self._applied.get(key, {}).pop(child, None)
        return is_there(child, observed)

    async def _ensure(self, key: JobKey, uid: str, document: Document, observed: Observed) -> bool:
        """Write a child unless it is as it should be; returns whether it was written."""
        child = child_of(document)
        live = observed.live.get(child)
        known = self._applied.setdefault(key, {})
        wanted = digest(document)
        if live is not None and _is_as_left(known.get(child), wanted, document, live):
            return False
        store = self._stores.get(child.resource)
        answer = await self._write(key, uid, child, document, live, store)
        if store is not None:
            store.put(answer)
            became = digest(projection(answer, document))
            known[child] = _Applied(wanted, became, answer["metadata"]["resourceVersion"])
        return True

    async def _write(
        self,
        key: JobKey,
        uid: str,
        child: Child,
        document: Document,
        live: Document | None,
        store: Store | None,
    ) -> Document:
        if child.resource == SECRETS:
            # It cannot be seen whether there is one; its type, which never changes, is ours alone.
            return await self._api.apply(child.resource, document)
        if live is not None:
            # This one, and none that somebody made in its place.
            return await self._api.apply(
                child.resource, _with(document, uid=live["metadata"]["uid"])
            )
        try:
            return await self._api.apply(
                child.resource, _with(document, resourceVersion=NO_VERSION)
            )
        except ConflictError:
            there = await self._api.get(child.resource, key.namespace, child.name)
            if controller_of(there) != uid:
                raise _TakenError from None
            # Made a moment ago, by a request whose answer was lost.
            if store is not None:
                store.put(there)
            return await self._api.apply(
                child.resource, _with(document, uid=there["metadata"]["uid"])
            )


def _groups(documents: Sequence[Document]) -> Iterator[list[Document]]:
    """Split children into those that are written at once, each group after the one before.

    What pods need does not need each other. Then come the learner's Job and the actors' Deployment,
    one after the other.
    """
    pods_need = [each for each in documents if child_of(each).resource not in _MAKE_PODS]
    if pods_need:
        yield pods_need
    yield from ([each] for each in documents if child_of(each).resource in _MAKE_PODS)


class _TakenError(Exception):
    """The name of a child belongs to somebody else's object."""


_REFUSALS: Final = (ForbiddenError, InvalidError, UnavailableError, _TakenError)


def _trouble(
    error: ForbiddenError | InvalidError | UnavailableError | _TakenError, child: Child, key: JobKey
) -> Trouble | None:
    """Say what is the matter; None: nothing, as all of the namespace goes.

    Raises:
        UnavailableError: it is not this child's matter, but the API server's.

    """
    if isinstance(error, _TakenError):
        return name_conflict(str(child), key.name)
    if isinstance(error, InvalidError):
        return _invalid(error, child, key)
    if isinstance(error, ForbiddenError):
        return None if _namespace_goes(error) else _forbidden(error)
    if error.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        raise error
    # Most likely a webhook for this kind of object. If it is the server itself, the status cannot
    # be written either, and the job comes back with a back-off.
    return Trouble(API_UNAVAILABLE, f"{child} cannot be written: {error.message}")


def _note(done: Done, key: JobKey, child: Child, trouble: Trouble) -> None:
    _LOG.warning("%s: %s was refused: %s", key, child, trouble.message)
    done.refused.append(Refused(child, trouble))


def _is_as_left(known: _Applied | None, wanted: bytes, document: Document, live: Document) -> bool:
    if known is None or known.wanted != wanted:
        return False
    version = live["metadata"]["resourceVersion"]
    if known.version != version:
        if digest(projection(live, document)) != known.became:
            return False
        known.version = version
    return True


def _with(document: Document, **metadata: Any) -> Document:
    return {**document, "metadata": {**document["metadata"], **metadata}}


def _namespace_goes(error: ApiError) -> bool:
    causes = error.details.get("causes") or ()
    return any(cause.get("reason") == "NamespaceTerminating" for cause in causes)


def _forbidden(error: ForbiddenError) -> Trouble:
    reason = QUOTA_EXCEEDED if isinstance(error, QuotaExceededError) else "Forbidden"
    return Trouble(reason, error.message)


def _invalid(error: InvalidError, child: Child, key: JobKey) -> Trouble:
    causes = error.details.get("causes") or ()
    if child.resource == SECRETS and any(cause.get("field") == "type" for cause in causes):
        return name_conflict(str(child), key.name)
    return Trouble("InvalidChild", error.message)
