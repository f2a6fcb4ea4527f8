"""Logs: one JSON object a line, on standard error.

What is logged while a job is reconciled carries the job and a number of the reconcile, whoever logs
it: so all lines of one look at one job can be found together.
"""

import json
import logging
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final

from vaco_operator.cluster.store import JobKey

LOGGER: Final = "vaco_operator"
MAX_MESSAGE: Final = 8192
"""Characters: a document of the API that strayed into a message must not flood the logs."""

_of_reconcile: ContextVar[dict[str, str] | None] = ContextVar("of_reconcile", default=None)


def configure(level: str) -> None:
    """Log at `level` (`debug` to `error`) and above; of other libraries from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(LOGGER).setLevel(level.upper())


@contextmanager
def reconciling(key: JobKey) -> Iterator[None]:
    """Mark what is logged within as part of one look at a job."""
    token = _of_reconcile.set({"job": str(key), "reconcile": secrets.token_hex(4)})
    try:
        yield
    finally:
        _of_reconcile.reset(token)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage()[:MAX_MESSAGE],
            "logger": record.name,
            **(_of_reconcile.get() or {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)[-MAX_MESSAGE:]
        return json.dumps(line, ensure_ascii=False)
