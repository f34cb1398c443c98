"""Small things that a supervisor of processes needs: pauses, log files, process groups, leftovers of a killed run."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Final

from stillhouse.embedded.state import State

MAX_LOG_BYTES: Final = 50_000_000
STEADY_SECONDS: Final = 60.0
MAX_PAUSE: Final = 30.0
RUN_ID: Final = "STILLHOUSE_RUN_ID"  # in every child's environment, so that leftovers of a killed run are known


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


def end_leftovers(state: State, wait: float = 5.0) -> list[int]:
    """End the processes of a run whose supervisor was killed; their pids.

    Only processes that carry that run's id in their environment are touched, for pids are used again. Where there is
    no `/proc` to read it from, nothing is ended.
    """
    pids = [state.broker_pid, state.redis_pid, *(service.pid for service in state.services.values())]
    left = [pid for pid in pids if pid is not None and _belongs(pid, state.run_id)]
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGTERM)
    deadline = time.monotonic() + wait
    while any(_belongs(pid, state.run_id) for pid in left) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in left:
        if _belongs(pid, state.run_id):
            end_group(pid)
    return left


def _belongs(pid: int, run_id: str) -> bool:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return f"{RUN_ID}={run_id}".encode() in environment.split(b"\0")
