"""The weights' way out: each actor's stream begins with the newest version and skips to the newest.

All streams send the same messages, which the publisher made once per version.
"""

from collections.abc import AsyncIterator
from typing import TypeAlias

import grpc
from grpc import aio
from vaco.v1 import weights_pb2, weights_pb2_grpc

from vaco_learner.hub import Hub

Context: TypeAlias = aio.ServicerContext[
    weights_pb2.WatchWeightsRequest, weights_pb2.WatchWeightsResponse
]


class WeightServicer(weights_pb2_grpc.WeightServiceServicer):
    """Serves the weights of one job.

    Args:
        job_uid: of the job.
        hub: knows the newest version.

    """

    def __init__(self, job_uid: str, hub: Hub) -> None:
        self._job_uid = job_uid
        self._hub = hub

    async def WatchWeights(  # noqa: N802 - as the service is defined
        self, request: weights_pb2.WatchWeightsRequest, context: Context
    ) -> AsyncIterator[weights_pb2.WatchWeightsResponse]:
        """Yield versions other than the one known, always the newest, until the job is over."""
        if request.job_uid != self._job_uid:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"this is the learner of job {self._job_uid}, not of {request.job_uid[:253]}",
            )
        known = (request.known_incarnation, request.known_version)
        while (published := await self._hub.newer_than(*known)) is not None:
            for frame in published.frames:
                yield frame
            known = (published.incarnation, published.version)
