"""Free ports on 127.0.0.1."""

from __future__ import annotations

import random
import socket
from typing import Final

from stillhouse.embedded.broker import EmbeddedError

# Below the ports that the kernel gives to outgoing connections (32768 and up): those are taken at any moment.
OURS: Final = range(20_000, 32_000)
ATTEMPTS: Final = 50


def free_port(wanted: int | None = None, option: str = "--port") -> int:
    """A port that nobody listens on: `wanted`, or any. Raises `EmbeddedError` where `wanted` is taken.

    It is only probed, not held: another process may take it before it is used, and then the start fails and says so.
    """
    if wanted is not None:
        if not is_free(wanted):
            raise EmbeddedError(f"Port {wanted} on 127.0.0.1 is taken; name another one with {option}.")
        return wanted
    for _ in range(ATTEMPTS):
        port = random.choice(OURS)
        if is_free(port):
            return port
    raise EmbeddedError(f"No free port on 127.0.0.1 among {ATTEMPTS} that were tried from {OURS.start} on.")


def is_free(port: int) -> bool:
    """Whether nobody listens on `port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
