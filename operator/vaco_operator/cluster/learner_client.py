"""What learners say, asked again and again beside the reconciles, which never wait for it.

For every learner that runs there is one task. Each question has a connection of its own: mutual TLS
with the operator's certificate of that job, and the job's token. A channel that stays open takes
105 KB, which is too much times a thousand jobs; a handshake takes 2 ms every few seconds. Bounded
are the calls under way at once, the questions in a second (with many jobs each is asked less
often), the time for each and the size of its answer. Of an answer what matters (`answers`) is kept
with the pod that gave it and the time it came, and the job is looked at again; what is believed of
it is the plan's to say (`hearing`).

The operator asks at the address of the learner's pod. Where it runs outside of the cluster and
cannot reach pods, or in a test whose pods are simulated, a file named by
VACO_LEARNER_ADDRESS_OVERRIDE_FILE says where learners are to be found instead: a JSON object of
`namespace/name`, or `*` for all others, to `host:port`. It is read anew before every question.
"""

from __future__ import annotations

import asyncio
import contextvars
import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

import grpc
from grpc import aio
from vaco.channels import CHANNEL_OPTIONS, hold_event_engine
from vaco.v1 import learner_pb2 as pb
from vaco.v1.learner_pb2_grpc import LearnerServiceStub

from vaco_operator.cluster.answers import cut_down
from vaco_operator.cluster.credentials import Credentials, KeyPair
from vaco_operator.cluster.labels import GRPC_PORT
from vaco_operator.cluster.observed import Answer
from vaco_operator.cluster.steps import LearnerAddress
from vaco_operator.cluster.store import JobKey
from vaco_operator.status import cannot_be_told

_LOG = logging.getLogger(__name__)

OVERRIDES: Final = "VACO_LEARNER_ADDRESS_OVERRIDE_FILE"
MAX_AT_ONCE: Final = 32
MAX_PER_SECOND: Final = 50
ANSWER_SECONDS: Final = 2.0
FIRST_SECONDS: Final = 0.5
GROWTH: Final = 1.5
MAX_SILENCE_SECONDS: Final = 30.0
"""Between two questions to a learner that has never answered: it may start for minutes."""
SOON_SECONDS: Final = 10.0
"""Between two questions to one that has answered and does not any more."""
MAX_ANSWER_BYTES: Final = 1 << 19
"""Room for the accounts of `MAX_ACTORS` actors: learners tell also of those that have left."""
_MAX_OVERRIDES_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Acquaintance:
    """A learner to ask.

    Attributes:
        address: of its pod.
        host: the name that its certificate is for.
        epoch: of the credentials.
        credentials: derives them.

    """

    address: LearnerAddress
    host: str
    epoch: int
    credentials: Callable[[], Credentials]

    def is_same(self, other: Acquaintance) -> bool:
        """Whether it is the same learner, asked in the same way."""
        return (self.address, self.host, self.epoch) == (other.address, other.host, other.epoch)


class _Proof(NamedTuple):
    """What is kept of a job's credentials: ours, and what the learner's are checked with."""

    authorities: bytes
    operator: KeyPair
    token: str


class LearnerClient:
    """Asks the learners it is told to follow.

    Args:
        wake: called with the job whose learner has answered.
        is_pod: whether there is a pod in that namespace of that name.
        overrides: file of other addresses; None: that of the environment, if it names one.
        clock: monotonic seconds.

    """

    def __init__(
        self,
        wake: Callable[[JobKey], None],
        is_pod: Callable[[tuple[str, str]], bool],
        overrides: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        named = os.environ.get(OVERRIDES)
        self._overrides = overrides or (Path(named) if named else None)
        self._wake = wake
        self._is_pod = is_pod
        self._clock = clock
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)
        self._followed: dict[JobKey, tuple[Acquaintance, asyncio.Task[None]]] = {}
        self._answers: dict[JobKey, Answer] = {}

    def latest(self, key: JobKey) -> Answer | None:
        """Return the newest answer of a job's learner."""
        return self._answers.get(key)

    def follow(self, key: JobKey, learner: Acquaintance) -> None:
        """Ask this learner from now on, and no other of the job."""
        known = self._followed.get(key)
        if known is not None and known[0].is_same(learner) and not known[1].done():
            return
        self.forget(key)
        # Not in the context of the reconcile that happens to begin it, whose logs bear its name.
        task = asyncio.create_task(self._ask_on(key, learner), context=contextvars.Context())
        self._followed[key] = (learner, task)

    def forget(self, key: JobKey) -> None:
        """Ask the job's learner no more, and forget what it said."""
        known = self._followed.pop(key, None)
        if known is not None:
            known[1].cancel()
        self._answers.pop(key, None)

    async def close(self) -> None:
        """Ask nobody any more."""
        tasks = [task for _, task in self._followed.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._followed.clear()

    async def _ask_on(self, key: JobKey, learner: Acquaintance) -> None:
        """Ask until cancelled."""
        derived = learner.credentials()
        proof = _Proof(derived.authorities, derived.operator, derived.token)
        del derived
        silence = FIRST_SECONDS
        while True:
            status = await self._ask(key, learner.host, self._target(key, learner), proof)
            if status is None:
                await asyncio.sleep(silence)
                longest = SOON_SECONDS if key in self._answers else MAX_SILENCE_SECONDS
                silence = min(longest, GROWTH * silence)
                continue
            silence = FIRST_SECONDS
            every = max(learner.address.every, len(self._followed) / MAX_PER_SECOND)
            self._answers[key] = Answer(status, learner.address.pod, self._clock(), every)
            self._wake(key)
            await asyncio.sleep(every)

    async def _ask(
        self, key: JobKey, host: str, target: str, proof: _Proof
    ) -> pb.GetStatusResponse | None:
        try:
            async with _channel(target, host, proof) as channel:
                # Who cannot be reached takes nobody's turn: a zone that fails has many of them.
                async with asyncio.timeout(ANSWER_SECONDS):
                    await channel.channel_ready()
                async with self._slots:
                    stub = LearnerServiceStub(channel)
                    status = await stub.GetStatus(pb.GetStatusRequest(), timeout=ANSWER_SECONDS)
        except TimeoutError:
            _LOG.debug("%s: no connection", key)
            return None
        except aio.AioRpcError as error:
            _LOG.debug("%s: no answer: %s %s", key, error.code().name, error.details())
            return None
        if problem := cannot_be_told(status):
            _LOG.debug("%s: an answer that is none: %s", key, problem)
            return None
        return cut_down(status, lambda name: self._is_pod((key.namespace, name)))

    def _target(self, key: JobKey, learner: Acquaintance) -> str:
        ip = learner.address.ip
        default = f"[{ip}]:{GRPC_PORT}" if ":" in ip else f"{ip}:{GRPC_PORT}"
        if self._overrides is None:
            return default
        try:
            with self._overrides.open("rb") as file:
                addresses = json.loads(file.read(_MAX_OVERRIDES_BYTES))
            return str(addresses.get(str(key), addresses.get("*", default)))
        except (OSError, ValueError, AttributeError):
            return default


def _channel(target: str, host: str, proof: _Proof) -> aio.Channel:
    hold_event_engine()
    tls = grpc.ssl_channel_credentials(
        proof.authorities, proof.operator.key, proof.operator.certificate
    )
    token = grpc.access_token_call_credentials(proof.token)
    # The pod is asked by its address, so that no other attempt's is; it proves its name.
    options = dict(CHANNEL_OPTIONS) | {
        "grpc.ssl_target_name_override": host,
        "grpc.max_receive_message_length": MAX_ANSWER_BYTES,
    }
    return aio.secure_channel(
        target, grpc.composite_channel_credentials(tls, token), options=tuple(options.items())
    )
