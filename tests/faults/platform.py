"""The platform as processes: broker, Valkey and every service by its entry point; killed and started at will."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from pydantic import SecretStr
from redis.asyncio import Redis as Connection

from stillhouse.bus.redis import connect_redis
from stillhouse.embedded.broker import EmbeddedBroker
from stillhouse.embedded.ports import free_port
from stillhouse.embedded.valkey import EmbeddedValkey
from stillhouse.events import SERVICES
from stillhouse.settings import Redis, Settings
from stillhouse.store import Store

ROOT = Path(__file__).parents[2]
PATIENCE_S = 240.0  # for anything that must happen: machines that run tests are busy


async def until(
    holds: Callable[[], Awaitable[object] | object], what: str, seconds: float = PATIENCE_S, every: float = 0.1
) -> None:
    """Wait until `holds()` is true; fail with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        value = holds()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(every)


@dataclass
class Member:
    """One service process. Where it ends by itself or is killed, its keeper starts it again, unless `gone`."""

    name: str  # as in the log: router, router-2, ...
    service: str
    port: int
    process: asyncio.subprocess.Process | None = None
    keeper: asyncio.Task[None] | None = None
    gone: bool = False
    ends: list[int] = field(default_factory=list)  # exit status of every process so far

    @property
    def pid(self) -> int | None:
        return self.process.pid if self.process is not None and self.process.returncode is None else None


class Platform:
    """Everything on this machine, under one folder."""

    def __init__(self, folder: Path, tasks: Path, extra: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.tasks = tasks
        self.extra = extra or {}
        self.broker = EmbeddedBroker(free_port(), folder / "broker.log")
        self.valkey = EmbeddedValkey(folder / "valkey", free_port(), folder / "valkey.log")
        self.members: dict[str, Member] = {}

    @property
    def settings(self) -> Settings:
        return Settings(
            home=self.home,
            tasks=self.tasks,
            kafka=self.broker.settings,
            redis=Redis(url=SecretStr(self.valkey.url)),
        )

    @property
    def store(self) -> Store:
        return Store(self.home / "store")

    @contextlib.asynccontextmanager
    async def redis(self) -> AsyncIterator[Connection]:
        connection = connect_redis(self.settings.redis)
        try:
            yield connection
        finally:
            await connection.aclose()

    async def start(self, services: tuple[str, ...] = SERVICES) -> None:
        await asyncio.gather(self.broker.start(timeout=60), self.valkey.start(timeout=60))
        for service in services:
            self.add(service)
        await self.ready()

    def add(self, service: str, name: str | None = None) -> Member:
        """Start a process of `service`, and keep it."""
        member = Member(name or service, service, free_port())
        self.members[member.name] = member
        member.keeper = asyncio.create_task(self._keep(member))
        return member

    async def ready(self, *names: str, seconds: float = PATIENCE_S) -> None:
        """Wait until the named members (default: all) say that they are ready, by the process that runs now."""
        waiting = set(names or self.members)

        async def all_ready() -> bool:
            for name in sorted(waiting):
                if await self.is_ready(name):
                    waiting.discard(name)
            return not waiting

        await until(all_ready, f"ready: {waiting}", seconds)

    async def is_ready(self, name: str) -> bool:
        said = await self.health(name)
        return bool(said.get("ready")) and said.get("pid") == self.members[name].pid

    async def health(self, name: str) -> dict[str, object]:
        with contextlib.suppress(httpx.HTTPError, ValueError):
            async with httpx.AsyncClient(trust_env=False, timeout=6) as http:
                reply = await http.get(f"http://127.0.0.1:{self.members[name].port}/health/ready")
                return dict(reply.json())
        return {}

    async def metric(self, name: str, line: str) -> float:
        """The value of the sample that begins with `line` (name and labels as exposed); 0 where there is none."""
        async with httpx.AsyncClient(trust_env=False, timeout=6) as http:
            text = (await http.get(f"http://127.0.0.1:{self.members[name].port}/metrics")).text
        return sum(float(sample.rpartition(" ")[2]) for sample in text.splitlines() if sample.startswith(line))

    async def kill(self, name: str, *, back: bool = True) -> None:
        """kill -9 of the service and its model workers; back: wait until a new process runs (not: is ready)."""
        member = self.members[name]
        member.gone = not back
        pid, ended = member.pid, len(member.ends)
        assert pid is not None, f"{name} does not run"
        os.kill(pid, signal.SIGKILL)
        await until(lambda: len(member.ends) > ended and (not back or member.pid), f"{name} killed and back")

    async def terminate(self, name: str, *, back: bool = False, seconds: float = 60) -> tuple[int, float]:
        """SIGTERM; the exit status, and how long it took."""
        member = self.members[name]
        member.gone = not back
        pid, ended, begun = member.pid, len(member.ends), time.monotonic()
        assert pid is not None, f"{name} does not run"
        os.kill(pid, signal.SIGTERM)
        await until(lambda: len(member.ends) > ended, f"{name} ended", seconds, every=0.02)
        return member.ends[-1], time.monotonic() - begun

    async def restart_broker(self, down_s: float = 0.0) -> None:
        """kill -9 of the broker; a new, empty one after `down_s`, its topics declared: what the supervisor does."""
        assert self.broker.pid is not None
        os.kill(self.broker.pid, signal.SIGKILL)
        await self.broker.ended()
        await asyncio.sleep(down_s)  # how long the outage is
        await self.broker.start(timeout=60)

    async def restart_valkey(self) -> None:
        """kill -9 of Valkey; a new one reads what the old one had written out."""
        assert self.valkey.pid is not None
        os.kill(self.valkey.pid, signal.SIGKILL)
        await self.valkey.ended()
        await self.valkey.start(timeout=60)

    async def power_cut(self) -> None:
        """kill -9 of everything at once; then all of it again, in no order."""
        running = [member for member in self.members.values() if member.pid is not None]
        broker, valkey = self.broker.pid, self.valkey.pid
        assert broker is not None
        assert valkey is not None
        for pid in (*(member.pid for member in running), broker, valkey):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # type: ignore[arg-type]
        await asyncio.gather(self.broker.ended(), self.valkey.ended())
        await asyncio.gather(self.broker.start(timeout=60), self.valkey.start(timeout=60))

    async def flush_redis(self) -> None:
        async with self.redis() as redis:
            await redis.flushall()

    async def stop(self) -> None:
        """End everything, quickly."""
        for member in self.members.values():
            member.gone = True
            if member.pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(member.pid, signal.SIGKILL)
        await asyncio.gather(*(m.keeper for m in self.members.values() if m.keeper), return_exceptions=True)
        for part in (self.valkey, self.broker):
            if part.pid is not None:
                os.kill(part.pid, signal.SIGKILL)
                await part.ended()

    def log(self, name: str) -> str:
        path = self.folder / "logs" / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    async def _keep(self, member: Member) -> None:
        log_file = self.folder / "logs" / f"{member.name}.log"
        log_file.parent.mkdir(parents=True, exist_ok=True)
        while not member.gone:
            with log_file.open("ab") as log:
                member.process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    f"services.{member.service.replace('-', '_')}",
                    env=self._environment(member),
                    cwd=ROOT,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            status = await member.process.wait()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(member.process.pid, signal.SIGKILL)  # as the supervisor does
            member.ends.append(status)
            if not member.gone:
                await asyncio.sleep(0.3)  # as a supervisor does

    def _environment(self, member: Member) -> dict[str, str]:
        return dict(os.environ) | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "shared")]),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",
            "NO_PROXY": "127.0.0.1",
            "STILLHOUSE_HOME": str(self.home),
            "STILLHOUSE_TASKS": str(self.tasks),
            "STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS": self.broker.settings.bootstrap_servers,
            "STILLHOUSE_KAFKA__EMBEDDED": "true",
            "STILLHOUSE_REDIS__URL": self.valkey.url,
            "STILLHOUSE_TELEMETRY__HTTP_PORT": str(member.port),
            "STILLHOUSE_OBSERVER_PAUSE_S": "0.2",
            "STILLHOUSE_TRAINER_LEASE_S": "4",
            "STILLHOUSE_TRAINER_EVALUATE_S": "0.5",
            "STILLHOUSE_VALIDATOR_LEASE_S": "4",
            "STILLHOUSE_VALIDATOR_CHECK_S": "0.5",
            **self.extra,
        }


def copy_models(fitted: Path, home: Path) -> None:
    """Give a new home the encoder and the teachers of another, so that nothing is fitted again."""
    home.mkdir(parents=True, exist_ok=True)
    for name in ("encoders", "teachers"):
        shutil.copytree(fitted / name, home / name)
