"""Serving the edge in the router's own event loop: it shares teachers, students and budgets with the topic."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import structlog
import uvicorn
from starlette.applications import Starlette

from stillhouse.telemetry.http import PortTaken

GRACE_S = 5

log = structlog.get_logger()


class _Server(uvicorn.Server):
    """A server that leaves signals to the service: the service decides how it drains."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        """Install no handlers."""
        yield


async def serve(app: Starlette, host: str, port: int) -> None:
    """Serve until cancelled; then no new connection is taken, and open ones have a moment. Raises `PortTaken`."""
    # asyncio sends without delay (TCP_NODELAY) only where a socket is said to be TCP, and what is accepted inherits
    # that: otherwise an answer's body waits 40 ms for the client's word on its head.
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise PortTaken(
            f"{host}:{port} cannot be listened on ({error.strerror or error}); "
            "set STILLHOUSE_ROUTER_EDGE_PORT to a free port, or to 0 for any."
        ) from None
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    server = _Server(config)
    log.info("edge_listens", host=host, port=listener.getsockname()[1])
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        await asyncio.shield(serving)
    finally:
        # Not waited for: what is being answered is the intake's to finish, and that is drained next.
        server.should_exit = True
