"""Whether this process is alive and ready, as the kubelet asks over HTTP, and its metrics.

`/livez` fails when a restart would help: a worker has been on one job for too long, a reflector has
heard nothing from the API server for too long (which it would, if only a refusal), or the event
loop is late. A loop that is stuck altogether does not answer at all. `/readyz` tells whether the
stores are filled, as `Coverage` says; a replica that does not lead is ready too.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, NoReturn

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from vaco.errors import UserError

_LOG = logging.getLogger(__name__)

LAG_EVERY_SECONDS: Final = 1.0
MAX_LAG_SECONDS: Final = 10.0

Check = Callable[[], Iterable[str]]
"""Returns what is wrong, in a sentence each; nothing: all is well."""


class LoopLag:
    """Measures how late the event loop is.

    Args:
        told: of each measurement, in seconds.

    """

    def __init__(self, told: Callable[[float], None]) -> None:
        self._told = told
        self._lag = 0.0

    async def run(self) -> NoReturn:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_EVERY_SECONDS
            await asyncio.sleep(LAG_EVERY_SECONDS)
            self._lag = loop.time() - due
            self._told(self._lag)

    def check(self) -> Iterable[str]:
        """Say if it was late when it was last measured."""
        if self._lag > MAX_LAG_SECONDS:
            yield f"the event loop is {self._lag:.1f} s late"


class HealthServer:
    """Answers /livez, /readyz and /metrics.

    Args:
        live: what would be mended by a restart.
        ready: what this replica waits for.
        registry: the metrics.

    """

    def __init__(
        self, live: Iterable[Check], ready: Iterable[Check], registry: CollectorRegistry
    ) -> None:
        self._checks: Mapping[str, tuple[Check, ...]] = {
            "/livez": tuple(live),
            "/readyz": tuple(ready),
        }
        self._registry = registry
        self._told: dict[str, str] = {}
        application = web.Application()
        application.router.add_get("/livez", self._health)
        application.router.add_get("/readyz", self._health)
        application.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)

    async def start(self, listen: str, address_file: Path | None) -> str:
        """Listen, and return the address as host:port.

        Args:
            listen: host:port; the hosts 0.0.0.0 and [::]: every address, of either family; port
                0: any, which may be another for each family.
            address_file: gets the address; None: nobody asks.

        Raises:
            UserError: the address cannot be had.

        """
        host, colon, port = listen.rpartition(":")
        if not colon or not port.isdigit():
            raise UserError("--listen", f"`{listen}` is not host:port", "Such as 0.0.0.0:8080.")
        await self._runner.setup()
        # A pod may have addresses of one family only, and the kubelet asks at the pod's.
        everywhere = host in ("0.0.0.0", "[::]")  # noqa: S104 - compared
        site = web.TCPSite(self._runner, None if everywhere else host.strip("[]"), int(port))
        try:
            await site.start()
        except OSError as error:
            raise UserError("--listen", f"{listen} cannot be had: {error}") from None
        bound = self._runner.addresses[0]
        address = f"[{bound[0]}]:{bound[1]}" if ":" in bound[0] else f"{bound[0]}:{bound[1]}"
        if address_file is not None:
            # Whoever waits for the file never reads half of it.
            aside = address_file.with_suffix(".part")
            aside.write_text(address, encoding="utf-8")
            aside.replace(address_file)
        return address

    async def stop(self) -> None:
        """Answer no more."""
        await self._runner.cleanup()

    async def _health(self, request: web.Request) -> web.Response:
        problems = [said for check in self._checks[request.path] for said in check()]
        text = "\n".join(problems) or "ok"
        if self._told.get(request.path, "ok") != text:
            _LOG.warning("%s: %s", request.path, text.replace("\n", "; "))
        self._told[request.path] = text
        return web.Response(text=text + "\n", status=500 if problems else 200)

    async def _metrics(self, _request: web.Request) -> web.Response:
        text = generate_latest(self._registry)
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE_LATEST})
