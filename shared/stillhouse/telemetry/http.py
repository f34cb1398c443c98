"""Metrics and health over HTTP, in the service's own event loop: a loop that hangs fails its liveness probe."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Mapping

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

READY_TIMEOUT_S = 5.0


class PortTaken(Exception):
    """The address cannot be listened on; the message says which and how to mend it."""


class _Server(uvicorn.Server):
    """A server that leaves signals to the service: the service decides how it drains."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        """Install no handlers."""
        yield


class HttpServer:
    """Serves `/metrics`, `/health/live` and `/health/ready`.

    `live` says whether the process is worth keeping; `ready` names each thing the service waits for and whether it
    is there. 200 when all hold, else 503 with the names. `/health/ready` answers in at most 5 s.
    """

    def __init__(
        self,
        host: str,
        port: int,
        live: Callable[[], bool],
        ready: Callable[[], Awaitable[Mapping[str, bool]]],
        registry: CollectorRegistry | None = None,
    ) -> None:
        self._host = host
        self._wanted = port
        self._live = live
        self._ready = ready
        self._registry = registry if registry is not None else REGISTRY
        self._socket: socket.socket | None = None
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port listened on; the wanted one before `start`."""
        return int(self._socket.getsockname()[1]) if self._socket is not None else self._wanted

    async def start(self) -> None:
        """Listen. Raises `PortTaken`."""
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self._host, self._wanted))
        except OSError as error:
            listener.close()
            raise PortTaken(
                f"{self._host}:{self._wanted} cannot be listened on ({error.strerror or error}); "
                "set STILLHOUSE_TELEMETRY__HTTP_PORT to a free port, or to 0 for any."
            ) from None
        self._socket = listener
        routes = [
            Route("/metrics", self._metrics),
            Route("/health/live", self._liveness),
            Route("/health/ready", self._readiness),
        ]
        config = uvicorn.Config(Starlette(routes=routes), log_config=None, access_log=False, lifespan="off")
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started:
            if self._serving.done():
                await self._serving
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Finish what is being answered and stop listening. Safe to repeat."""
        server, serving, listener = self._server, self._serving, self._socket
        self._server = self._serving = self._socket = None
        if server is not None and serving is not None:
            server.should_exit = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(serving, 5)
        if listener is not None:
            listener.close()

    async def _metrics(self, _: Request) -> Response:
        return Response(generate_latest(self._registry), headers={"content-type": CONTENT_TYPE_LATEST})

    async def _liveness(self, _: Request) -> Response:
        live = self._live()
        return JSONResponse({"live": live}, status_code=200 if live else 503)

    async def _readiness(self, _: Request) -> Response:
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                checks = dict(await self._ready())
        except Exception as error:  # a check that cannot be made is a reason not to be ready, not a reason to hang
            checks = {type(error).__name__: False}
        ready = all(checks.values())
        # The pid tells whoever asks a port whether it is still the process that they mean.
        said = {"ready": ready, "checks": checks, "pid": os.getpid()}
        return JSONResponse(said, status_code=200 if ready else 503)
