"""What the API server refuses, by what can be done about it.

`KubeApi` has retried what is worth retrying before it raises any of these, and for a reconcile what
it can without waiting long. A reconcile lets them pass: the key comes back with a back-off. What
the user of a job can mend (`QuotaExceededError`, `InvalidError`, `ForbiddenError`) belongs in the
job's conditions, in the server's own words.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any


class ApiError(Exception):
    """A request that failed.

    Attributes:
        status: HTTP's; 0 when there was no answer.
        reason: the API's own CamelCase word (`AlreadyExists`), or ours (`Timeout`).
        message: a sentence, the server's where it gave one.
        details: the `details` of the Status document: name, kind, causes.
        retry_after: seconds that the server asks to wait; None: it does not say.

    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        details: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{status or 'no answer'} {reason}: {message}")
        self.status = status
        self.reason = reason
        self.message = message
        self.details = details or {}
        self.retry_after = retry_after


class NotFoundError(ApiError):
    """404: there is no such object, namespace or resource."""


class ConflictError(ApiError):
    """409: the object has changed since it was read."""


class AlreadyExistsError(ApiError):
    """409: there is an object of that name."""


class GoneError(ApiError):
    """410: the resource version is too old to list or watch from."""


class InvalidError(ApiError):
    """400 or 422: the document is not one the API accepts; `details` names the fields."""


class ForbiddenError(ApiError):
    """403: a role, an admission policy or a namespace that is going away forbids it."""


class QuotaExceededError(ForbiddenError):
    """403: a ResourceQuota has no room for it; the message says which."""


class UnavailableError(ApiError):
    """The server could not answer: 429, 5xx, or no answer at all.

    Also 401: it does not know the operator (any more), whose token somebody renews. That is no
    trouble of the job that the request was about.
    """


def api_error(
    status: int, document: Mapping[str, Any], retry_after: float | None = None
) -> ApiError:
    """Return the error that an answer means.

    Args:
        status: HTTP's, not 2xx.
        document: the Status that came as the body; empty if it was none.
        retry_after: of the header, in seconds.

    """
    reason = str(document.get("reason") or "") or _phrase(status)
    message = str(document.get("message") or "") or "the server gave no message"
    details = document.get("details")
    details = details if isinstance(details, Mapping) else {}
    kind = _kind(status, reason, message)
    return kind(status, reason, message, details, retry_after)


def _kind(status: int, reason: str, message: str) -> type[ApiError]:
    if status == HTTPStatus.CONFLICT:
        return AlreadyExistsError if reason == "AlreadyExists" else ConflictError
    if status == HTTPStatus.FORBIDDEN:
        return QuotaExceededError if "exceeded quota" in message else ForbiddenError
    passing = (HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS)
    if status in passing or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return UnavailableError
    kinds: dict[int, type[ApiError]] = {
        HTTPStatus.NOT_FOUND: NotFoundError,
        HTTPStatus.GONE: GoneError,
        HTTPStatus.BAD_REQUEST: InvalidError,
        HTTPStatus.UNPROCESSABLE_ENTITY: InvalidError,
    }
    return kinds.get(status, ApiError)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase.replace(" ", "")
    except ValueError:
        return "Unknown"
