"""What a learner leaves behind where its container's orchestrator looks: its last status.

Kubernetes keeps 4096 bytes of a container's termination message with the pod, so the operator can
read how a learner ended although nobody answers any more and its run directory is out of reach.
"""

import json
import logging
from pathlib import Path
from typing import Any, Final

from google.protobuf import json_format
from vaco.v1 import learner_pb2 as pb

_LOG = logging.getLogger(__name__)

MAX_BYTES: Final = 4096
_CUT: Final = "..."


def last_words(status: pb.GetStatusResponse) -> bytes:
    """Return a status as JSON of at most `MAX_BYTES` bytes.

    What is too much goes in this order: the actors, then the end of the message.
    """
    document: dict[str, Any] = json_format.MessageToDict(status)
    told = _encode(document)
    if len(told) > MAX_BYTES:
        document.pop("actors", None)
        told = _encode(document)
    while len(told) > MAX_BYTES and (message := document["message"].removesuffix(_CUT)):
        # A character takes twelve bytes at most, so no more are cut than must be.
        cut = -(-(len(told) - MAX_BYTES) // 12)
        document["message"] = message[:-cut] + _CUT
        told = _encode(document)
    return told


class TerminationLog:
    """The file that the orchestrator reads.

    Args:
        path: of the file, which is there already in a container; None: nobody reads it.

    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def write(self, status: pb.GetStatusResponse, message: str | None = None) -> None:
        """Leave `status`, with another message where one is given; a failure is only logged."""
        if self._path is None:
            return
        said = pb.GetStatusResponse()
        said.CopyFrom(status)
        if message is not None:
            said.message = message
        try:
            # In place: in a container the file is a mount of its own.
            self._path.write_bytes(last_words(said))
        except OSError as error:
            _LOG.warning("the last words cannot be written: %s", error)


def _encode(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
