"""Starting a supervisor in the background, and stopping it, from a process that ends before it does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stillhouse.embedded.broker import EmbeddedError
from stillhouse.embedded.state import State, is_locked, read_state, running
from stillhouse.embedded.supervisor import GRACE_SECONDS, READY_SECONDS, Profile, preflight
from stillhouse.embedded.supervisor_main import to_json
from stillhouse.models.vllm.ending import end_replicas
from stillhouse.processes import last_line, rotate

STAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ")


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One service as `status` shows it. `health`: ready, not ready (and why), or no answer."""

    name: str
    pid: int | None
    http_port: int
    restarts: int
    ready: bool
    health: str


def start_in_background(profile: Profile, on_line: Callable[[str], None]) -> State:
    """Start a supervisor that outlives this process; wait until everything is ready.

    `on_line` gets what the supervisor says meanwhile. Raises `EmbeddedError`; nothing runs then.
    """
    preflight(profile)
    log_file = profile.home / "logs" / "supervisor.log"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    rotate(log_file)
    with log_file.open("ab") as log:
        begin = log.tell()
        child = subprocess.Popen(
            [sys.executable, "-m", "stillhouse.embedded.supervisor_main", to_json(profile)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # the terminal's hang-up and Ctrl-C do not reach it
        )
    deadline = time.monotonic() + READY_SECONDS + 30
    with log_file.open("rb") as said:
        said.seek(begin)
        partial = ""
        try:
            while True:
                partial += said.read().decode(errors="replace")
                *lines, partial = partial.split("\n")
                for line in lines:
                    if (stamped := STAMP.match(line)) is not None:  # anything else is for a reader of the log
                        on_line(line[stamped.end() :])
                if child.poll() is not None:
                    raise EmbeddedError(last_line(log_file))
                state = read_state(profile.home)
                if state is not None and state.pid == child.pid and state.phase == "ready":
                    return state
                if time.monotonic() > deadline:
                    raise EmbeddedError(f"The profile did not get ready; see {log_file}.")
                time.sleep(0.05)
        except BaseException:
            if child.poll() is None:
                child.terminate()
                child.wait(GRACE_SECONDS + 15)
            raise


def stop_running(home: Path) -> bool:
    """Stop the profile that runs in `home` and wait until it is gone; False where none ran. Raises `EmbeddedError`."""
    state = running(home)
    if state is None:
        if is_locked(home):
            raise EmbeddedError("Stillhouse is just starting; try again in a moment.")
        return False
    try:
        os.kill(state.pid, signal.SIGTERM)
    except ProcessLookupError:
        return False
    deadline = time.monotonic() + GRACE_SECONDS + 15
    while is_locked(home):
        if time.monotonic() > deadline:
            raise EmbeddedError(f"The supervisor (pid {state.pid}) does not end; see {home / 'logs'}.")
        time.sleep(0.05)
    end_replicas(home)  # they would linger for whoever comes next
    return True


def service_statuses(state: State) -> list[ServiceStatus]:
    """Ask every service of a running profile how it is (2 s each at most)."""
    import httpx

    found = []
    with httpx.Client(timeout=2.0, trust_env=False) as http:
        for name, service in state.services.items():
            try:
                reply = http.get(f"http://127.0.0.1:{service.http_port}/health/ready")
                checks = reply.json().get("checks", {})
                missing = [check for check, holds in checks.items() if not holds]
                ready = reply.status_code == 200
                health = "ready" if ready else f"waits for {', '.join(missing)}"
            except (httpx.HTTPError, ValueError):
                ready, health = False, "does not answer"
            found.append(ServiceStatus(name, service.pid, service.http_port, service.restarts, ready, health))
    return found
