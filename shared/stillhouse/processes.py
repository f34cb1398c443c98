"""Small things that whoever supervises processes needs: pauses, log files, process groups, free ports."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import time
from pathlib import Path
from typing import Final

MAX_LOG_BYTES: Final = 50_000_000
STEADY_SECONDS: Final = 60.0
MAX_PAUSE: Final = 30.0
# Below the ports that the kernel gives to outgoing connections (32768 and up): those are taken at any moment.
OURS: Final = range(20_000, 32_000)
ATTEMPTS: Final = 50


class Pauses:
    """Seconds to wait before a process is started again: doubling, at most 30.

    They begin anew after it ran for a minute.
    """

    def __init__(self, first: float) -> None:
        self._first = first
        self._next = first
        self._begun = time.monotonic()

    def begun(self) -> None:
        """The process runs from now on."""
        self._begun = time.monotonic()

    def next(self) -> float:
        """How long to wait now."""
        if time.monotonic() - self._begun > STEADY_SECONDS:
            self._next = self._first
        pause = self._next
        self._next = min(MAX_PAUSE, pause * 2)
        self._begun = time.monotonic()
        return pause


def rotate(log_file: Path) -> None:
    """Put a log over 50 MB aside (one older one is kept)."""
    with contextlib.suppress(FileNotFoundError):
        if log_file.stat().st_size > MAX_LOG_BYTES:
            os.replace(log_file, log_file.with_suffix(".log.1"))


def last_line(log_file: Path) -> str:
    """The last line that says something, at most 300 characters."""
    try:
        with log_file.open("rb") as file:
            file.seek(max(0, log_file.stat().st_size - 8192))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return "it said nothing"
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "it said nothing")


def end_group(pid: int) -> None:
    """Kill what is left of the process group that `pid` led."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def unused_port() -> int:
    """A port on 127.0.0.1 that nobody listens on. Raises `OSError` where none is found.

    It is only probed, not held: another process may take it before it is used, and then the start fails and says so.
    """
    for _ in range(ATTEMPTS):
        port = random.choice(OURS)
        if is_free(port):
            return port
    raise OSError(f"no free port on 127.0.0.1 among {ATTEMPTS} that were tried from {OURS.start} on")


def is_free(port: int) -> bool:
    """Whether nobody listens on `port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
