"""The gateways that `edge` measures, each started anew for a repeat, in front of the same stand-in of a model."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO
from urllib.parse import urlsplit

import httpx

from stillhouse.embedded.control import start_in_background, stop_running
from stillhouse.embedded.ports import free_port
from stillhouse.embedded.supervisor import Profile
from stillhouse.events import SERVICES
from tests.benchmarks.meta import ROOT
from tests.benchmarks.peers import HOME, PeerFailed, environment
from tests.benchmarks.processes import cpu_ns, tree

DELAY_MS = 5
LITELLM = ("litellm[proxy]==1.106.2",)
TENSORZERO = ("tensorzero==2026.6.0", "openai")
STAND_IN = Path(__file__).parent / "peers" / "upstream_stand_in.c"
START_S = 120.0

TASK_FILE = """
[task]
name = "bench"
kind = "generate"

[teacher]
kind = "openai"
base_url = "http://127.0.0.1:{port}/v1"
model = "stand-in"
api_key_env = "STILLHOUSE_BENCH_NO_KEY"
usd_per_call = 0.002
max_concurrency = 1024
"""
# What its documentation recommends for production, without its database; costs from its own copy of the price list.
LITELLM_FILE = """
model_list:
  - model_name: bench
    litellm_params:
      model: openai/stand-in
      api_base: http://127.0.0.1:{port}/v1
      api_key: none
general_settings:
  master_key: sk-bench
  dangerously_permit_weak_or_unset_master_key: true
litellm_settings:
  set_verbose: false
  json_logs: true
  telemetry: false
"""
LITELLM_ENVIRONMENT = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    "LITELLM_TELEMETRY": "False",
}
TENSORZERO_FILE = """
[gateway]
observability.enabled = false

[models.bench]
routing = ["stand_in"]

[models.bench.providers.stand_in]
type = "openai"
model_name = "stand-in"
api_base = "http://127.0.0.1:{port}/v1/"
api_key_location = "none"
"""


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where to ask, how, and the processes whose CPU time counts: `roots` by the name under which it is stated."""

    port: int
    model: str
    roots: Mapping[str, int]
    path: str = "/v1/chat/completions"
    headers: Mapping[str, str] = field(default_factory=dict)

    def cpu_s(self) -> dict[str, float]:
        """CPU time so far of each root with all its descendants."""
        return {name: sum(map(cpu_ns, tree(root))) / 1e9 for name, root in self.roots.items()}

    async def load(self, *, rate: float, seconds: float, patience_s: float) -> dict[str, object]:
        """What the generator says, with the CPU time that was spent meanwhile."""
        job = {
            "port": self.port,
            "path": self.path,
            "headers": dict(self.headers),
            "model": self.model,
            "rate": rate,
            "seconds": seconds,
            "patience_s": patience_s,
        }
        generator = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.benchmarks.edge_load",
            json.dumps(job),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
        )
        before = self.cpu_s()
        said, _ = await generator.communicate()
        spent = {name: after - before[name] for name, after in self.cpu_s().items()}
        if generator.returncode != 0:
            raise RuntimeError(f"the generator ended with status {generator.returncode}; its words are above")
        return {**json.loads(said), "cpu_s": spent}


@dataclass(frozen=True, slots=True)
class Process:
    """A process that said something."""

    pid: int
    line: str


@asynccontextmanager
async def upstream_alone() -> AsyncIterator[tuple[int, int]]:
    """Port and process of the stand-in, compiled first. Raises `PeerFailed` without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise PeerFailed("the stand-in of a model is a C program, and there is no C compiler; install gcc or clang")
    program = HOME / "upstream" / "upstream_stand_in"
    program.parent.mkdir(parents=True, exist_ok=True)
    await asyncio.to_thread(subprocess.run, [compiler, "-O2", "-o", str(program), str(STAND_IN)], check=True)
    port = free_port()
    async with _running("upstream", [str(program), str(port), str(DELAY_MS)], {}) as process:
        yield port, process.pid


@asynccontextmanager
async def alone(upstream: int, pid: int) -> AsyncIterator[Gateway]:
    """The stand-in itself."""
    yield Gateway(upstream, "stand-in", {"upstream_alone": pid})


@asynccontextmanager
async def stillhouse(upstream: int) -> AsyncIterator[Gateway]:
    """The embedded profile as `stillhouse up` starts it; the router's share is stated by itself."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "tasks").mkdir()
        (folder / "tasks" / "bench.toml").write_text(TASK_FILE.format(port=upstream), encoding="utf-8")
        home = folder / "home"
        profile = Profile(
            home=home, tasks=folder / "tasks", root=ROOT, services=SERVICES, kafka=None, own_redis=False, port=None
        )
        state = await asyncio.to_thread(start_in_background, profile, lambda _: None)
        try:
            router = state.services["router"].pid
            assert router is not None
            assert state.edge_port is not None
            roots = {"stillhouse": router, "stillhouse_all_services": state.pid}
            yield Gateway(state.edge_port, "bench", roots)
        finally:
            await asyncio.to_thread(stop_running, home)


@asynccontextmanager
async def litellm(upstream: int) -> AsyncIterator[Gateway]:
    """LiteLLM's proxy, one worker."""
    python = environment("litellm", LITELLM)
    port = free_port()
    with TemporaryDirectory() as scratch:
        settings = Path(scratch) / "litellm.yaml"
        settings.write_text(LITELLM_FILE.format(port=upstream), encoding="utf-8")
        command = [str(python.parent / "litellm"), "--config", str(settings), "--host", "127.0.0.1"]
        command += ["--port", str(port), "--num_workers", "1"]
        async with _running("litellm", command, LITELLM_ENVIRONMENT) as process:
            await _answers("litellm", f"http://127.0.0.1:{port}/health/liveliness")
            yield Gateway(port, "bench", {"litellm": process.pid}, headers={"authorization": "Bearer sk-bench"})


@asynccontextmanager
async def tensorzero(upstream: int) -> AsyncIterator[Gateway]:
    """TensorZero's gateway, embedded in a Python process that does nothing else."""
    python = environment("tensorzero", TENSORZERO)
    program = Path(__file__).parent / "peers" / "tensorzero_gateway.py"
    with TemporaryDirectory() as scratch:
        settings = Path(scratch) / "tensorzero.toml"
        settings.write_text(TENSORZERO_FILE.format(port=upstream), encoding="utf-8")
        async with _running("tensorzero", [str(python), str(program), str(settings)], {}, "http") as process:
            url = urlsplit(process.line)
            assert url.port is not None
            path = f"{url.path.rstrip('/')}/chat/completions"
            yield Gateway(url.port, "tensorzero::model_name::bench", {"tensorzero": process.pid}, path)


@asynccontextmanager
async def _running(name: str, command: list[str], more: Mapping[str, str], begins: str = "") -> AsyncIterator[Process]:
    """A process, from a line of it that begins with `begins` until it is stopped. Raises `PeerFailed`.

    What else it says goes to `.stillhouse/bench/<name>.log`.
    """
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with (HOME / f"{name}.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, env=kept | more, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log
        )
        assert process.stdout is not None
        copying = None
        try:
            try:
                line = await asyncio.wait_for(_line(process.stdout, begins, log), START_S)
            except TimeoutError:
                raise PeerFailed(f"{name} was not ready in {START_S:g} s; see {HOME / name}.log") from None
            if not line:
                raise PeerFailed(f"{name} ended before it was ready; see {HOME / name}.log")
            copying = asyncio.create_task(_copy(process.stdout, log))
            yield Process(process.pid, line.strip())
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()
            if copying is not None:
                await copying


async def _line(said: asyncio.StreamReader, begins: str, log: BinaryIO) -> str:
    """The first line that begins so; empty where there is none. What comes before goes to `log`."""
    while (line := (await said.readline()).decode()) and not line.startswith(begins):
        log.write(line.encode())
    return line


async def _copy(said: asyncio.StreamReader, log: BinaryIO) -> None:
    """A pipe that nobody reads would stop its writer."""
    while chunk := await said.read(65536):
        log.write(chunk)


async def _answers(name: str, url: str) -> None:
    """Wait until `url` is there. Raises `PeerFailed`."""
    async with httpx.AsyncClient(trust_env=False) as http:
        try:
            async with asyncio.timeout(START_S):
                while True:
                    with contextlib.suppress(httpx.TransportError):
                        if (await http.get(url)).status_code == 200:
                            return
                    await asyncio.sleep(0.2)
        except TimeoutError:
            raise PeerFailed(f"{name} was not ready in {START_S:g} s; see {HOME / name}.log") from None
