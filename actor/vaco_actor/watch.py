"""The way of the weights: a stream of versions from the learner into the mailbox."""

import asyncio
import logging

from grpc import aio
from vaco.channels import aio_channel
from vaco.errors import UserError
from vaco.v1 import weights_pb2 as pb
from vaco.v1 import weights_pb2_grpc
from vaco.weights import MalformedWeights, WeightsAssembler

from vaco_actor.backoff import Backoff
from vaco_actor.ending import PERMANENT, Ending, Outcome
from vaco_actor.mailbox import Mailbox
from vaco_actor.stream import Learner

_LOG = logging.getLogger(__name__)


class WeightsWatch:
    """Fills a mailbox. Lives in the link's event loop, on a channel of its own.

    Args:
        learner: Where it is.
        job_uid: Of the job.
        actor_id: Of this actor.
        spaces_json: What our policy is built for; other weights are refused.
        mailbox: Where versions go.
        backoff: How long to wait between two streams.

    """

    def __init__(
        self,
        learner: Learner,
        job_uid: str,
        actor_id: str,
        spaces_json: str,
        mailbox: Mailbox,
        backoff: Backoff,
    ) -> None:
        self._learner = learner
        self._job_uid = job_uid
        self._actor_id = actor_id
        self._spaces_json = spaces_json
        self._mailbox = mailbox
        self._backoff = backoff

    async def run(self) -> Ending:
        """Watch until there is a reason not to."""
        while True:
            try:
                ending = await self._attempt()
                if ending is not None:
                    return ending
            except UserError as error:
                # Read well when we started; somebody is renewing it.
                _LOG.warning("credentials cannot be used: %s", error)
            except MalformedWeights as error:
                _LOG.warning("weights that must not be used: %s", error)
            except aio.AioRpcError as error:
                if error.code() in PERMANENT:
                    return Ending(Outcome.REFUSED, error.details() or error.code().name)
                _LOG.warning("no weights: %s: %s", error.code().name, error.details())
            delay = self._backoff.delay()
            if delay is None:
                return Ending(Outcome.LOST, f"no weights from {self._learner.target} any more")
            await asyncio.sleep(delay)

    async def _attempt(self) -> Ending | None:
        """Read one stream to its end."""
        newest = self._mailbox.newest
        request = pb.WatchWeightsRequest(
            job_uid=self._job_uid,
            actor_id=self._actor_id,
            known_incarnation=newest.incarnation if newest else 0,
            known_version=newest.version if newest else 0,
        )
        assembler = WeightsAssembler()
        async with aio_channel(self._learner.target, self._learner.security) as channel:
            async for response in weights_pb2_grpc.WeightServiceStub(channel).WatchWeights(request):
                weights = assembler.add(response)
                if weights is None:
                    continue
                if weights.spaces_json != self._spaces_json:
                    return Ending(
                        Outcome.REFUSED,
                        f"the learner's policy is for other spaces: {weights.spaces_json}, and "
                        f"this environment has {self._spaces_json}",
                    )
                self._backoff.succeeded()
                if not self._mailbox.offer(weights):
                    _LOG.warning(
                        "passed over version %d of the learner's incarnation %d, which is old",
                        weights.version,
                        weights.incarnation,
                    )
        return None
