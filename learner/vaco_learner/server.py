"""The learner's server: a thread of its own with an event loop of its own.

    training thread                     ingest thread
    ---------------                     -------------
    take() <------- FragmentBuffer <--- TrajectoryServicer <=== actors
    publisher -- announce() ----------> WeightServicer     ===> actors
    acknowledge(), evaluate() --------> Hub
                                        LearnerService, health

Whatever goes to the right is one `call_soon_threadsafe` for many items. The server listens before
there is a policy; streams wait until `open`.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Final

from grpc import aio
from grpc_health.v1 import (  # type: ignore[import-untyped]
    health,
    health_pb2,
    health_pb2_grpc,
)
from vaco.channels import Security, TokenInterceptor, bind, server_options
from vaco.trajectory import add_trajectory_servicer
from vaco.v1 import (
    learner_pb2,
    learner_pb2_grpc,
    trajectory_pb2,
    weights_pb2,
)
from vaco.vital import Pulse
from vaco.weights import add_weight_servicer

from vaco_learner.admission import Settlement
from vaco_learner.contract_gate import ContractGate
from vaco_learner.control import Control
from vaco_learner.credits import Capacity
from vaco_learner.evaluation_desk import EvaluationOutcome
from vaco_learner.hub import Hub, Intake
from vaco_learner.ingest import TrajectoryServicer
from vaco_learner.progress import Progress
from vaco_learner.publisher import Published
from vaco_learner.session import Ending
from vaco_learner.snapshots import Snapshots
from vaco_learner.status import StatusFile, StatusServicer, StatusSource
from vaco_learner.watch import WeightServicer

START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.02

SERVICES: Final = (
    trajectory_pb2.DESCRIPTOR.services_by_name["TrajectoryService"].full_name,
    weights_pb2.DESCRIPTOR.services_by_name["WeightService"].full_name,
    learner_pb2.DESCRIPTOR.services_by_name["LearnerService"].full_name,
)


class LearnerServer:
    """Serves actors and whoever asks for the status.

    Args:
        job_uid: actors of another job are refused.
        address: host and port; port 0 lets the system choose.
        security: None: plain text, on loopback.
        capacity: how much may be in flight.
        gate: where the contract is agreed on.
        progress: where training is.
        status: what is served as the status.
        status_file: is kept current while the server runs.
        control: is told when an actor or this thread fails.
        pulse: of the ingest thread.
        on_evaluation: called, in the ingest thread, with the outcome of every evaluation.
        debug: whether to serve reflection.

    Attributes:
        serving: whether calls are answered.
        snapshots: hold the weights that are served.

    """

    def __init__(
        self,
        *,
        job_uid: str,
        address: str,
        security: Security | None,
        capacity: Capacity,
        gate: ContractGate,
        progress: Progress,
        status: StatusSource,
        status_file: StatusFile,
        control: Control,
        pulse: Pulse,
        on_evaluation: Callable[[EvaluationOutcome], None],
        debug: bool = False,
    ) -> None:
        self._job_uid = job_uid
        self._address = address
        self._security = security
        self._capacity = capacity
        self._gate = gate
        self._progress = progress
        self._status = status
        self._status_file = status_file
        self._control = control
        self._pulse = pulse
        self.serving = False
        self.snapshots = Snapshots()
        self._on_evaluation = on_evaluation
        self._debug = debug
        self._hub: Hub | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._ready = threading.Event()
        self._port = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ingest", daemon=True)

    @property
    def connected(self) -> int:
        """Open streams of actors."""
        return 0 if self._hub is None else len(self._hub.sessions)

    def start(self) -> str:
        """Start to listen; return host and port.

        Raises:
            UserError: it cannot listen there.
            TimeoutError: it does not come up.

        """
        self._thread.start()
        if not self._ready.wait(START_SECONDS):
            raise TimeoutError(f"the server did not start within {START_SECONDS:g} s")
        if self._error is not None:
            raise self._error
        return f"{self._address.rpartition(':')[0]}:{self._port}"

    def open(self, intake: Intake) -> None:
        """Let actors in."""
        self._call(Hub.open, intake)

    def announce(self, published: Published) -> None:
        """Serve a version."""
        self._call(Hub.announce, published)

    def acknowledge(self, settlements: Sequence[Settlement]) -> None:
        """Tell actors their fragments' fates."""
        self._call(Hub.acknowledge, settlements)

    def room_made(self) -> None:
        """Let the streams go on that waited for the buffer."""
        self._call(Hub.room_made)

    def evaluate(self, episodes: int, seed: int, env_steps: int) -> None:
        """Ask an actor for an evaluation."""
        self._call(lambda hub: hub.desk.request(episodes, seed, env_steps))

    def farewell(self) -> None:
        """Send the actors home."""
        self._call(Hub.farewell)

    def stop(self, ending: Ending) -> None:
        """End what streams are left, and the thread."""
        self._call(Hub.close, ending)
        if self._stopping is not None:
            self._call(lambda _hub, stopping=self._stopping: stopping.set())
        self._thread.join(_STOP_SECONDS + 1.0)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        """Run `function(hub, *arguments)` soon in the event loop; nothing if that has ended."""
        loop, hub = self._loop, self._hub
        if loop is None or hub is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop closed; why is in `control`
            loop.call_soon_threadsafe(function, hub, *arguments)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._error = error
            self._control.crash(error)
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._hub = Hub(self._capacity, self._on_evaluation)
        interceptors = [TokenInterceptor(self._security)] if self._security else []
        server = aio.server(options=server_options(), interceptors=interceptors)
        self._add_services(server, self._hub)
        health_servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
        self._port = bind(server, self._address, self._security)
        await server.start()
        for service in ("", *SERVICES):
            await health_servicer.set(service, health_pb2.HealthCheckResponse.SERVING)
        self.serving = True
        self._ready.set()
        keeper = asyncio.create_task(self._status_file.keep(self._pulse))
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({keeper, stopping}, return_when=asyncio.FIRST_COMPLETED)
        keeper.cancel()
        self._pulse.rest()
        self.serving = False
        await health_servicer.enter_graceful_shutdown()
        await server.stop(grace=0.5)
        if not stopping.done():
            keeper.result()

    def _add_services(self, server: aio.Server, hub: Hub) -> None:
        trajectories = TrajectoryServicer(
            self._job_uid, self._gate, hub, self._progress, self._control
        )
        add_trajectory_servicer(trajectories, server)
        add_weight_servicer(WeightServicer(self._job_uid, hub, self.snapshots), server)
        learner_pb2_grpc.add_LearnerServiceServicer_to_server(StatusServicer(self._status), server)
        if self._debug:
            _add_reflection(server)


def _add_reflection(server: aio.Server) -> None:
    from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

    reflection.enable_server_reflection((*SERVICES, reflection.SERVICE_NAME), server)
