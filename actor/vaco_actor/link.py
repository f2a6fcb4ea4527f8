"""The actor's line to the learner: a thread of its own, with an event loop in it.

    rollout thread --fragments, results--> Outbox --> TrajectoryStream --> learner
    rollout thread <--newest weights----- Mailbox <-- WeightsWatch <------ learner

Each of the two streams reconnects by itself; the first that has a reason to end ends the line. The
environments must exist before the line does: some fork worker processes, and gRPC's threads do not
survive that.
"""

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from vaco.v1 import trajectory_pb2 as pb
from vaco.vital import Pulse
from vaco.weights_volume import WeightsVolume

from vaco_actor.backoff import Backoff, BackoffSettings
from vaco_actor.ending import Ending
from vaco_actor.mailbox import Mailbox
from vaco_actor.outbox import Outbox
from vaco_actor.stream import Learner, TrajectoryStream
from vaco_actor.watch import WeightsWatch

_BEAT_SECONDS: Final = 1.0


class Link:
    """Starts with `start`, ends by itself, or with `close`.

    Args:
        learner: Where the learner is.
        hello: What we introduce ourselves with.
        outbox: What to send.
        mailbox: Where weights go.
        ended: Called in the link's thread when it is over, however it ended.
        backoff: How long to wait for a learner that is away.
        pulse: Of the link's thread.
        volume: Where weights are if the learner announces them as files; None: they are in the
            stream.

    """

    def __init__(
        self,
        learner: Learner,
        hello: pb.Hello,
        outbox: Outbox,
        mailbox: Mailbox,
        ended: Callable[[], None],
        backoff: BackoffSettings,
        pulse: Pulse,
        volume: WeightsVolume | None = None,
    ) -> None:
        self._volume = volume
        self._learner = learner
        self._hello = hello
        self._outbox = outbox
        self._mailbox = mailbox
        self._ended = ended
        self._backoff = backoff
        self._pulse = pulse
        self._stream: TrajectoryStream | None = None
        self._ending: Ending | None = None
        self._crash: BaseException | None = None
        # The newest one counts: the learner asks again only when it has given up an older one.
        self._evaluations: deque[pb.EvaluationRequest] = deque(maxlen=1)
        self._stop: Callable[[], None] | None = None
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._main, name="link", daemon=True)

    @property
    def connected(self) -> bool:
        """Whether the learner has let us in and the stream is open."""
        return self._stream is not None and self._stream.connected

    def start(self) -> None:
        """Connect, and stay connected."""
        self._thread.start()
        self._started.wait()

    def join(self, seconds: float) -> Ending | None:
        """Wait for the end of the line; return it, None when it has not come.

        Raises:
            Exception: What the link's thread died of.

        """
        self._thread.join(seconds)
        if self._crash is not None:
            raise self._crash
        return self._ending

    def close(self) -> None:
        """Hang up; what was not sent is lost."""
        if self._stop is not None:
            self._stop()
        self._thread.join()

    def take_evaluation(self) -> pb.EvaluationRequest | None:
        """Return the evaluation that the learner asks for, once."""
        try:
            return self._evaluations.popleft()
        except IndexError:
            return None

    def _main(self) -> None:
        try:
            self._ending = asyncio.run(self._run())
        except Exception as error:
            self._crash = error
        finally:
            self._started.set()
            self._ended()

    async def _run(self) -> Ending | None:
        loop = asyncio.get_running_loop()
        stream = TrajectoryStream(
            self._learner,
            self._hello,
            self._outbox,
            self._mailbox,
            self._new_backoff(),
            self._evaluations.append,
        )
        self._stream = stream
        watch = WeightsWatch(
            self._learner,
            self._hello.job_uid,
            self._hello.actor_id,
            self._hello.spaces_json,
            self._mailbox,
            self._new_backoff(),
            self._volume,
        )
        self._mailbox.set_wake(lambda: _call_soon(loop, watch.wake))
        closed = asyncio.Event()
        tasks = [
            asyncio.create_task(stream.run()),
            asyncio.create_task(watch.run()),
        ]
        waiter = asyncio.create_task(closed.wait())
        beating = asyncio.create_task(self._beat())
        self._stop = lambda: _call_soon(loop, closed.set)
        self._outbox.set_wake(lambda: _call_soon(loop, stream.wake))
        self._started.set()
        try:
            await asyncio.wait({*tasks, waiter}, return_when=asyncio.FIRST_COMPLETED)
            done = [task for task in tasks if task.done()]
            return done[0].result() if done else None
        finally:
            self._outbox.set_wake(None)
            self._mailbox.set_wake(None)
            for task in (*tasks, waiter, beating):
                task.cancel()
            await asyncio.gather(*tasks, waiter, beating, return_exceptions=True)
            self._pulse.rest()

    async def _beat(self) -> None:
        while True:
            self._pulse.beat()
            await asyncio.sleep(_BEAT_SECONDS)

    def _new_backoff(self) -> Backoff:
        return Backoff(self._backoff, time.monotonic, random.Random())  # noqa: S311 - jitter


def _call_soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)
