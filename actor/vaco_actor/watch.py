"""The way of the weights: versions from the learner into the mailbox.

A stream brings version after version. After a large one, or one that is a file, the stream is
closed, and the next is asked for when this one is loaded: so one buffer is enough, and what comes
then is the newest. Shards that are here outlive the stream that brought them.
"""

import asyncio
import logging
import threading
from typing import Any

from grpc import aio
from vaco.channels import aio_channel
from vaco.errors import UserError
from vaco.incoming_weights import Arriving, WeightsAssembler
from vaco.v1 import weights_pb2 as pb
from vaco.weights import SPARE_BYTES, MalformedWeights, Weights, new_buffer, weights_stream
from vaco.weights_volume import WeightsVolume

from vaco_actor.backoff import Backoff
from vaco_actor.ending import PERMANENT, Ending, Outcome
from vaco_actor.fetch import fetch
from vaco_actor.mailbox import Mailbox
from vaco_actor.stream import Learner

_LOG = logging.getLogger(__name__)


class _OtherSpacesError(Exception):
    """The weights are for other spaces, or another model, than ours."""


class ReceiveBuffers:
    """Gives the memory that versions arrive in: for large ones always the same."""

    def __init__(self) -> None:
        self._large = memoryview(b"")

    def take(self, size: int) -> memoryview:
        """Return a buffer of `size` bytes; a large one that was given before is written again."""
        if size <= SPARE_BYTES:
            return new_buffer(size)
        if len(self._large) != size:
            self._large = memoryview(b"")
            self._large = new_buffer(size)
        return memoryview(self._large)


class WeightsWatch:
    """Fills a mailbox. Lives in the link's event loop, on a channel of its own.

    Args:
        learner: Where it is.
        job_uid: Of the job.
        actor_id: Of this actor.
        spaces_json: What our policy is built for; other weights are refused.
        mailbox: Where versions go.
        backoff: How long to wait between two streams.
        volume: Where files of weights are; None: the job has none.

    """

    def __init__(
        self,
        learner: Learner,
        job_uid: str,
        actor_id: str,
        spaces_json: str,
        mailbox: Mailbox,
        backoff: Backoff,
        volume: WeightsVolume | None = None,
    ) -> None:
        self._learner = learner
        self._job_uid = job_uid
        self._actor_id = actor_id
        self._spaces_json = spaces_json
        self._mailbox = mailbox
        self._backoff = backoff
        self._volume = volume
        self._assembler = WeightsAssembler(mailbox.max_bytes, ReceiveBuffers().take)
        self._loaded = asyncio.Event()
        self._used_shards = 0

    def wake(self) -> None:
        """Have the mailbox looked at; to be called in the event loop."""
        self._loaded.set()

    async def run(self) -> Ending:
        """Watch until there is a reason not to."""
        while True:
            try:
                await self._attempt()
            except _OtherSpacesError as error:
                return Ending(Outcome.REFUSED, str(error))
            except UserError as error:
                # Read well when we started; somebody is renewing it.
                _LOG.warning("credentials cannot be used: %s", error)
            except MalformedWeights as error:
                _LOG.warning("weights that must not be used: %s", error)
            except OSError as error:
                _LOG.warning("weights that cannot be read: %s", error)
            except aio.AioRpcError as error:
                if error.code() in PERMANENT:
                    return Ending(Outcome.REFUSED, error.details() or error.code().name)
                _LOG.warning("no weights: %s: %s", error.code().name, error.details())
            delay = self._backoff.delay()
            if delay is None:
                return Ending(Outcome.LOST, f"no weights from {self._learner.target} any more")
            await asyncio.sleep(delay)

    async def _attempt(self) -> None:
        """Read streams over one channel until one ends by itself."""
        async with aio_channel(self._learner.target, self._learner.security) as channel:
            stream = weights_stream(channel)
            goes_on = True
            while goes_on:
                await self._room()
                call = stream(self._request())
                try:
                    goes_on = await self._follow(call)
                finally:
                    call.cancel()

    async def _room(self) -> None:
        """Wait until another version may come."""
        while True:
            self._loaded.clear()
            if self._mailbox.has_room:
                return
            await self._loaded.wait()

    @property
    def _held_shards(self) -> int:
        arriving = self._assembler.arriving
        return 0 if arriving is None else arriving.shards

    def _request(self) -> pb.WatchWeightsRequest:
        newest, arriving = self._mailbox.newest, self._assembler.arriving
        return pb.WatchWeightsRequest(
            job_uid=self._job_uid,
            actor_id=self._actor_id,
            known_incarnation=newest.incarnation if newest else 0,
            known_version=newest.version if newest else 0,
            held_incarnation=arriving.header.incarnation if arriving else 0,
            held_version=arriving.header.version if arriving else 0,
            held_shards=self._held_shards,
        )

    async def _follow(self, call: Any) -> bool:
        """Read one stream; return whether we end it, to open another."""
        self._assembler.restart()
        async for message in call:
            weights = self._assembler.add(message)
            arriving = self._assembler.arriving
            if arriving is not None:
                self._check_spaces(arriving.header.spaces_json)
                self._note_use_of_held(arriving.header.first_shard)
                if arriving.header.file:
                    await self._fetch(arriving)
                    weights = self._assembler.finish()
            if weights is not None:
                # Asked before it is delivered: then it may be loaded, and released, at any time.
                alone = arriving is not None or len(weights.payload) > SPARE_BYTES
                self._deliver(weights)
                if alone:
                    return True
        return False

    async def _fetch(self, arriving: Arriving) -> None:
        """Read a file, in a thread: it takes as long as the disk does."""
        if self._volume is None:
            raise MalformedWeights("file", "given, but the manifest names no place for files")
        given_up = threading.Event()
        try:
            await asyncio.to_thread(fetch, self._volume, arriving, given_up)
        finally:
            given_up.set()

    def _note_use_of_held(self, shards: int) -> None:
        """Count as a success that the learner goes on behind more shards than the last time.

        Only then were they worth something: the version they are of may be gone by now.
        """
        if shards > self._used_shards:
            self._backoff.succeeded()
        self._used_shards = shards

    def _check_spaces(self, spaces_json: str) -> None:
        if spaces_json != self._spaces_json:
            raise _OtherSpacesError(
                f"the learner's policy is made for {spaces_json}, and this actor has "
                f"{self._spaces_json}"
            )

    def _deliver(self, weights: Weights) -> None:
        self._backoff.succeeded()
        if not self._mailbox.offer(weights):
            _LOG.warning(
                "passed over version %d of the learner's incarnation %d, which is old",
                weights.version,
                weights.incarnation,
            )
