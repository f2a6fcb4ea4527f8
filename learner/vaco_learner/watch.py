"""The weights' way out: each actor's stream begins with the newest version and skips to the newest.

All streams read the same snapshot. A frame is a copy of a piece of it, made when the stream can
take it; so what is in memory of a version is the snapshot and a frame or two per stream.
"""

from collections.abc import AsyncIterator
from typing import TypeAlias

import grpc
from grpc import aio
from vaco.v1 import weights_pb2
from vaco.weights import behind_what_is_held, weights_frames

from vaco_learner.hub import Hub
from vaco_learner.snapshots import Snapshots

Context: TypeAlias = aio.ServicerContext[weights_pb2.WatchWeightsRequest, bytes]


class WeightServicer:
    """Serves the weights of one job.

    Args:
        job_uid: of the job.
        hub: knows the newest version.
        snapshots: hold the versions.

    """

    def __init__(self, job_uid: str, hub: Hub, snapshots: Snapshots) -> None:
        self._job_uid = job_uid
        self._hub = hub
        self._snapshots = snapshots

    async def WatchWeights(  # noqa: N802 - as the service is defined
        self, request: weights_pb2.WatchWeightsRequest, context: Context
    ) -> AsyncIterator[bytes]:
        """Yield versions other than the one known, always the newest, until the job is over."""
        if request.job_uid != self._job_uid:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"this is the learner of job {self._job_uid}, not of {request.job_uid[:253]}",
            )
        known = (request.known_incarnation, request.known_version)
        while (published := await self._hub.newer_than(*known)) is not None:
            header = behind_what_is_held(published.header, request)
            if published.snapshot is None:
                for frame in weights_frames(header, b""):
                    yield frame
            elif (
                lease := self._snapshots.lease(published.snapshot, published.publication)
            ) is None:
                self._hub.withdraw(published)
                continue
            else:
                try:
                    for frame in weights_frames(header, lease.snapshot.memory):
                        if lease.lost:
                            break
                        yield frame
                        lease.moved()
                finally:
                    self._snapshots.end(lease)
                if lease.lost:
                    continue
            known = (published.incarnation, published.version)
