"""The writing demo from beginning to end: plan, start, play and watch, report, stop."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from stillhouse.cli.following import describe
from stillhouse.client import Client
from stillhouse.demo.figures import curves, report
from stillhouse.demo.player import Tally
from stillhouse.demo.report import HTML_FILE, JSON_FILE, summary, write_report
from stillhouse.demo.run import drain, minutes, prepare_home, stop
from stillhouse.demo.view import View
from stillhouse.demo.watcher import State, watching
from stillhouse.demo.writing.play import WritingPlayer
from stillhouse.demo.writing.source import Sizing, WritingPlan, plan_writing, write_task
from stillhouse.embedded.control import start_in_background
from stillhouse.embedded.profile import running_settings
from stillhouse.embedded.supervisor import Profile, checkout_root
from stillhouse.environments.environment import PURPOSE, python_of
from stillhouse.tasks import Task

LIMIT_S: Final = 4500.0
LOOK_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the user chose. `data` None: the authored sample."""

    home: Path
    data: Path | None = None
    keep: bool = False
    seed: int = 0
    sizing: Sizing = field(default_factory=Sizing)


def run_writing_demo(options: Options, console: Console) -> int:
    """Play the demo and write its report; 0 where a student served and nothing was lost, else 1.

    Raises `EmbeddedError`, `DataError` and `ModelError` (one sentence each), `OSError`.
    """

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, markup=False, highlight=False)

    plan = plan_writing(options.data, options.seed, options.sizing)
    prepare_home(options.home)
    task = write_task(plan, options.home / "tasks", options.sizing)
    say(f"Data: {plan.plan.origin}.")
    say(
        f"Teacher: recorded. It replays {len(plan.taught) + len(plan.rest):,} answers of a file, and stands in for the "
        f"model that gave them; ${task.teacher.usd_per_call:g} a call, {task.teacher.price_source}."
    )
    say(f"Student: {options.sizing.base}, taught {len(plan.taught):,} answers; judged on answers that it never saw.")
    for name in ("serving", "quantising"):
        say(f"Environment for {PURPOSE[name]}: {python_of(name, say).parent.parent}")
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    begun = time.monotonic()
    try:
        start_in_background(Profile(home=options.home, tasks=options.home / "tasks", root=checkout_root()), say)
        say(f"Ready after {time.monotonic() - begun:.0f} s; requests begin.")
        lacking = asyncio.run(_play(options, plan, task, console))
    finally:
        if options.keep:
            say(f"Left running; `stillhouse down --home {options.home}` stops it.")
        else:
            stop(options.home)
    if lacking is None:
        say(f"A student was taught, proven and served, in {minutes(time.monotonic() - begun)}.")
        return 0
    say(f"Not everything was reached: {lacking}.")
    return 1


async def _play(options: Options, plan: WritingPlan, task: Task, console: Console) -> str | None:
    settings = running_settings(options.home)
    state, tally = State(task.key), Tally()
    view = View(console, plan.plan, task, state, tally)
    unreached: str | None = "it was stopped"
    figures: dict[str, Any] = {}
    async with watching(settings.kafka, state) as watcher, Client(settings, source="/demo") as client:
        player = WritingPlayer(client, plan, state, tally, served=options.sizing.served, limit_s=LIMIT_S)
        following = asyncio.create_task(watcher.follow())
        showing = asyncio.create_task(view.show())
        telling = asyncio.create_task(_tell_progress(options.home, state, console))
        playing = asyncio.create_task(player.play())
        try:
            await asyncio.wait({playing, following, showing, telling}, return_when=asyncio.FIRST_COMPLETED)
            for endless in (following, showing, telling):
                if endless.done():
                    endless.result()
            unreached = await playing
        finally:
            running = (playing, following, showing, telling)
            for one in running:
                one.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await player.stop()
            if tally.sent:
                await drain(watcher, tally)
                figures = report(state, tally, plan.plan, task)
                unreached = unreached or missing(figures)
                write_report(options.home, figures, curves(state, tally, task), task, unreached)
    view.print_news()
    console.print()
    for name, value in summary(figures):
        console.print(f"{name:24}{value}", soft_wrap=True, markup=False, highlight=False)
    console.print()
    console.print(f"Report: {options.home / JSON_FILE}, {options.home / HTML_FILE}", soft_wrap=True, markup=False)
    return unreached


def missing(figures: dict[str, Any]) -> str | None:
    """What the report does not show; None where a student served and nothing was lost."""
    if not any(student["live_at"] for student in figures["students"]):
        return "no student went live"
    if not figures["served_by"]["student"]:
        return "no request was answered by a student"
    if figures["lost"]:
        return f"{figures['lost']} requests were lost"
    if figures["answered"] != figures["requests"]:
        return f"{figures['requests'] - figures['answered']} requests were answered with an error"
    return None


async def _tell_progress(home: Path, state: State, console: Console) -> None:
    """Say how far training is, until cancelled: it takes minutes, and nothing else happens meanwhile."""
    told = ""
    while True:
        await asyncio.sleep(LOOK_S)
        if not state.training:
            continue
        for path in (home / "jobs").glob("*/progress.json"):
            try:
                now = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            line = f"{describe(now)}, {100 * now['fraction']:.0f} %"
            if line != told:
                told = line
                console.print(line, soft_wrap=True, markup=False, highlight=False)
