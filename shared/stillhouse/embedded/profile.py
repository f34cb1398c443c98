"""`stillhouse up`: broker and services of the embedded profile as child processes, until they are told to stop."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Final

from stillhouse.embedded.broker import EmbeddedBroker, EmbeddedError
from stillhouse.settings import Kafka, Settings

MIN_FREE_BYTES: Final = 500_000_000
DRAIN_SECONDS: Final = 20.0
SERVICES: Final = ("router",)


def state_file(home: Path) -> Path:
    """Where a running profile says how to reach it."""
    return home / "run" / "state.json"


def running_settings(home: Path) -> Settings:
    """Settings that reach the profile running in `home`, or what the environment names where none runs."""
    try:
        state = json.loads(state_file(home).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Settings(home=home)
    return Settings(home=home, kafka=Kafka(bootstrap_servers=state["bootstrap_servers"], embedded=True))


async def run(home: Path, tasks: Path, port: int | None, say: Callable[[str], None], stop: asyncio.Event) -> None:
    """Start everything, say so, run until `stop`, then stop everything. Raises `EmbeddedError`."""
    with _only_one(home):
        _enough_disk(home)
        broker = EmbeddedBroker(_port(port), home / "logs" / "broker.log")
        await broker.start()
        say(f"broker   {broker.settings.bootstrap_servers} (memory only: for development, not for production)")
        try:
            async with _services(home, tasks, broker, say):
                _write_state(home, broker)
                say("ready    Ctrl-C stops")
                await stop.wait()
        finally:
            state_file(home).unlink(missing_ok=True)
            await broker.stop()


@asynccontextmanager
async def _services(home: Path, tasks: Path, broker: EmbeddedBroker, say: Callable[[str], None]) -> AsyncIterator[None]:
    environment = os.environ | {
        "STILLHOUSE_HOME": str(home),
        "STILLHOUSE_TASKS": str(tasks),
        "STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS": broker.settings.bootstrap_servers,
        "STILLHOUSE_KAFKA__EMBEDDED": "true",
    }
    keepers = [asyncio.create_task(_keep(name, home / "logs" / f"{name}.log", environment, say)) for name in SERVICES]
    try:
        yield
    finally:
        for keeper in keepers:
            keeper.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)


async def _keep(name: str, log_file: Path, environment: dict[str, str], say: Callable[[str], None]) -> None:
    """Run a service; start it again when it ends, each time a little later (at most 30 s)."""
    pause = 0.5
    while True:
        with log_file.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                f"services.{name}",
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C is for the parent alone; it tells its children in its own order.
                start_new_session=True,
            )
        say(f"{name:8} pid {process.pid}, log {log_file}")
        try:
            code = await process.wait()
        except asyncio.CancelledError:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), DRAIN_SECONDS)
            except TimeoutError:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
            raise
        say(f"{name:8} ended with code {code}; starts again in {pause:g} s. Why: last line of {log_file}")
        await asyncio.sleep(pause)
        pause = min(30.0, pause * 2)


def _write_state(home: Path, broker: EmbeddedBroker) -> None:
    state = {"pid": os.getpid(), "bootstrap_servers": broker.settings.bootstrap_servers, "broker_pid": broker.pid}
    target = state_file(home)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_suffix(".tmp")
    draft.write_text(json.dumps(state), encoding="utf-8")
    os.replace(draft, target)


def _enough_disk(home: Path) -> None:
    free = shutil.disk_usage(home).free
    if free < MIN_FREE_BYTES:
        raise EmbeddedError(
            f"{home.resolve()} has {free // 1_000_000} MB of disk left; {MIN_FREE_BYTES // 1_000_000} MB are "
            "needed. Free some, or name another folder with --home."
        )


def _only_one(home: Path) -> IO[str]:
    home.mkdir(parents=True, exist_ok=True)
    lock = (home / "up.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise EmbeddedError(
            f"Stillhouse is already up in {home.resolve()}; stop that one, or name another folder with --home."
        ) from None
    return lock


def _port(wanted: int | None) -> int:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", wanted or 0))
        except OSError:
            raise EmbeddedError(f"Port {wanted} on 127.0.0.1 is taken; name another one with --port.") from None
        return int(probe.getsockname()[1])
