"""Leftovers of a killed run of the embedded profile."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Final

from stillhouse.embedded.state import State
from stillhouse.processes import end_group

RUN_ID: Final = "STILLHOUSE_RUN_ID"  # in every child's environment, so that leftovers of a killed run are known


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
