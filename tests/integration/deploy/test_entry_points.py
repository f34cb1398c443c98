"""Every service starts with exactly what docker-compose.yml gives it, as far as that goes without Docker.

What differs: the names `kafka` and `redis` stand for local parts (and the embedded broker has to be named as one),
`0.0.0.0` for an address of 127.0.0.0/8 that only this service has, and paths of volumes for folders of the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import shlex
import signal
import sys
from pathlib import Path

import httpx
import pytest

from stillhouse.events import SERVICES
from tests.contracts.compose import COMPOSE, ROOT, environment, image_environment, last, stages

READY_S = 150.0  # the router fits its teacher first


def network_addresses(count: int) -> list[str]:
    """Loopback addresses that other runs on this machine are unlikely to have: each container has one of its own."""
    first, second = random.SystemRandom().choices(range(2, 250), k=2)
    return [f"127.{first}.{second}.{i + 1}" for i in range(count)]


def given(service: str, address: str, folders: dict[str, str], broker, valkey) -> dict[str, str]:
    """The environment of a container of `service`, with the replacements that are named above."""
    image = image_environment(stages()[COMPOSE["services"][service]["build"]["target"]])
    variables = image | environment(service)
    paths = [str(ROOT), str(ROOT / "shared")]  # /app, and the installed wheel
    assert variables["PYTHONPATH"] == "/app"
    variables |= {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(paths)}
    for name, value in variables.items():
        if name.startswith("STILLHOUSE_"):
            value = value.replace("kafka:9092", broker.bootstrap_servers)
            value = value.replace("redis://redis:6379", valkey.url.rpartition("/")[0])
            value = value.replace("0.0.0.0", address)
            for inside, outside in folders.items():
                value = re.sub(rf"^{inside}(?=/|$)", outside, value)
            variables[name] = value
    return variables | ({"STILLHOUSE_KAFKA__EMBEDDED": "true"} if broker.embedded else {})


def volumes(service: str, tmp_path: Path) -> dict[str, str]:
    """Folder inside to folder here, for each volume: a bind mount's own, or a new one."""
    folders = {}
    for volume in COMPOSE["services"][service]["volumes"]:
        source, inside, *_ = volume.split(":")
        outside = ROOT / source if source.startswith(".") else tmp_path / "volumes" / source
        outside.mkdir(parents=True, exist_ok=True)
        folders[inside] = str(outside.resolve())
    return folders


@contextlib.asynccontextmanager
async def container(service: str, variables: dict[str, str], log: Path):
    """The service's process, with its command; killed at the end if it is still there."""
    command = COMPOSE["services"][service].get("command")
    if command is None:
        command = shlex.split(re.sub(r'[\[\],"]', " ", last(stages()[service], "CMD")))
    words = {"python": [sys.executable], "stillhouse": [sys.executable, "-c", CLI]}
    command = [*words[command[0]], *command[1:]]
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            *command, env=variables, cwd=ROOT, stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


CLI = "import sys; sys.argv[0] = 'stillhouse'; from stillhouse.cli import main; main()"


def said(log: Path) -> str:
    return log.read_text()[-2000:]


async def ready(http: httpx.AsyncClient, address: str, process, log: Path) -> None:
    async with asyncio.timeout(READY_S):
        while True:
            assert process.returncode is None, said(log)
            with contextlib.suppress(httpx.HTTPError):
                if (await http.get(f"http://{address}:9100/health/ready")).status_code == 200:
                    return
            await asyncio.sleep(0.2)


# The router fits its teacher, which takes a minute on a busy machine.
OTHERS = tuple(service for service in SERVICES if service != "router")


@pytest.mark.parametrize("services", [OTHERS, pytest.param(("router",), marks=pytest.mark.slow)], ids=" ".join)
async def test_services_get_ready_with_what_compose_gives_them_and_stop_when_told(
    services, broker, valkey, tmp_path
) -> None:
    kafka = broker.settings
    variables = given("topics", "127.0.0.1", volumes("topics", tmp_path), kafka, valkey)
    log = tmp_path / "topics.log"
    async with container("topics", variables, log) as declare:
        assert await asyncio.wait_for(declare.wait(), 60) == 0, said(log)

    addresses = dict(zip(services, network_addresses(len(services)), strict=True))
    async with contextlib.AsyncExitStack() as stack:
        started = {}
        for service, address in addresses.items():
            variables = given(service, address, volumes(service, tmp_path), kafka, valkey)
            log = tmp_path / f"{service}.log"
            started[service] = (await stack.enter_async_context(container(service, variables, log)), log)
        async with httpx.AsyncClient(trust_env=False, timeout=8) as http, asyncio.TaskGroup() as group:
            for service, (process, log) in started.items():
                group.create_task(ready(http, addresses[service], process, log))
        for process, _ in started.values():
            process.send_signal(signal.SIGTERM)
        for service, (process, log) in started.items():
            assert await asyncio.wait_for(process.wait(), 30) == 0, (service, said(log))
