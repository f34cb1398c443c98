"""What a running profile says about itself in `<home>/run/`, and the lock that lets only one run in a folder."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import IO, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from stillhouse import files
from stillhouse.embedded.broker import EmbeddedError

Phase = Literal["starting", "ready", "stopping"]


class ServiceState(BaseModel):
    """One service's process. `pid` is None between a crash and the next start."""

    pid: int | None = None
    http_port: int
    restarts: int = 0


class State(BaseModel):
    """Everything another process needs in order to find the parts of a running profile. Holds no secrets."""

    model_config = ConfigDict(extra="ignore")

    pid: int
    run_id: str
    phase: Phase = "starting"
    tasks: str
    bootstrap_servers: str
    embedded: bool
    broker_pid: int | None = None
    cluster_id: str | None = None
    redis_url: str | None = None  # None: the one in the environment, which may hold a password
    redis_pid: int | None = None
    edge_port: int | None = None  # of the router's OpenAI-compatible edge
    services: dict[str, ServiceState] = {}


def state_file(home: Path) -> Path:
    """Where a running profile says how to reach it."""
    return home / "run" / "state.json"


def write_state(home: Path, state: State) -> None:
    """Replace the state file at once: a reader sees the old one or the new one."""
    target = state_file(home)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".tmp")
    draft.write_text(state.model_dump_json(indent=1), encoding="utf-8")
    os.replace(draft, target)


def read_state(home: Path) -> State | None:
    """The state file's content, though its profile may be long gone; None where there is none to read."""
    try:
        return State.model_validate_json(state_file(home).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValidationError):
        return None


def running(home: Path) -> State | None:
    """The state of the profile that runs in `home` now; None where none does."""
    if not is_locked(home):
        return None
    state = read_state(home)
    try:
        holder = _lock_file(home).read_text(encoding="utf-8").strip()
    except OSError:
        return None
    # The state may still be that of an earlier run, killed before it could remove it.
    return state if state is not None and str(state.pid) == holder else None


def lock(home: Path) -> IO[str]:
    """Hold the folder for as long as the returned file is open. Raises `EmbeddedError` where another one holds it.

    The kernel gives the lock back when its process ends, however it ends.
    """
    path = _lock_file(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a", encoding="utf-8")
    try:
        for attempt in (1, 2, 3, 4):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == 4:
                    raise
                time.sleep(0.05)  # `status` holds it for an instant, when it looks
    except BlockingIOError:
        file.close()
        raise EmbeddedError(
            f"Stillhouse is already up in {home.resolve()}; stop that one, or name another folder with --home."
        ) from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def is_locked(home: Path) -> bool:
    """Whether a profile runs in `home`."""
    return files.is_locked(_lock_file(home))


def _lock_file(home: Path) -> Path:
    return home / "run" / "up.lock"
