"""Free ports on 127.0.0.1."""

from __future__ import annotations

import socket

from stillhouse.embedded.broker import EmbeddedError


def free_port(wanted: int | None = None, option: str = "--port") -> int:
    """A port that nobody listens on: `wanted`, or any. Raises `EmbeddedError` where `wanted` is taken.

    It is only probed, not held: another process may take it before it is used, and then the start fails and says so.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind(("127.0.0.1", wanted or 0))
        except OSError:
            raise EmbeddedError(f"Port {wanted} on 127.0.0.1 is taken; name another one with {option}.") from None
        return int(probe.getsockname()[1])
