"""The demo from beginning to end: plan, start, play and watch, report, stop."""

from __future__ import annotations

import asyncio
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from stillhouse.client import Client
from stillhouse.demo.figures import curves, missing, report
from stillhouse.demo.player import Player, Script, Tally
from stillhouse.demo.report import HTML_FILE, JSON_FILE, summary, write_report
from stillhouse.demo.source import Plan, plan_data, plan_sample, write_task
from stillhouse.demo.view import View
from stillhouse.demo.watcher import State, Watcher, watching
from stillhouse.embedded.broker import EmbeddedError
from stillhouse.embedded.control import start_in_background, stop_running
from stillhouse.embedded.profile import running_settings
from stillhouse.embedded.state import is_locked
from stillhouse.embedded.supervisor import Profile, checkout_root
from stillhouse.tasks import Task

EXAMPLE: Final = Path("deploy/tasks/manga-support.toml")
MARKER: Final = ".stillhouse-demo"
# What a new demo keeps of the one before: reports until new ones replace them, and the encoder, which no run changes.
KEPT: Final = frozenset({MARKER, JSON_FILE, HTML_FILE, "encoders"})
SAMPLE_LIMIT_S: Final = 900.0
DATA_LIMIT_S: Final = 3600.0
DRAIN_S: Final = 15.0  # for the watcher to see the last answers


@dataclass(frozen=True, slots=True)
class Options:
    """What the user chose. `data` None: the generated sample."""

    home: Path
    data: Path | None = None
    keep: bool = False
    rate: float = 60.0
    seed: int = 0


def run_demo(options: Options, console: Console) -> int:
    """Play the demo and write its report; 0 where all of the loop was seen and nothing was lost, else 1.

    Raises `EmbeddedError` and `DataError` (one sentence each), `OSError`. The profile is stopped however it ends.
    """

    def say(line: str) -> None:
        console.print(line, soft_wrap=True, markup=False, highlight=False)

    plan = plan_sample(options.seed) if options.data is None else plan_data(options.data, options.seed)
    prepare_home(options.home)
    root = checkout_root()
    task = write_task(plan, options.home / "tasks", root / EXAMPLE)
    say(f"Data: {plan.origin}.")
    for line in _intentions(plan, task):
        say(line)
    # A polite kill ends it as Ctrl-C does: with its profile stopped.
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    begun = time.monotonic()
    profile = Profile(home=options.home, tasks=options.home / "tasks", root=root)
    try:
        start_in_background(profile, say)
        say(f"Ready after {time.monotonic() - begun:.0f} s; requests begin, {options.rate:g} a second.")
        lacking = asyncio.run(_play(options, plan, task, console))
    finally:
        if options.keep:
            say(f"Left running; `stillhouse down --home {options.home}` stops it.")
        else:
            stop(options.home)
    if lacking is None:
        say(f"All of the loop was seen, in {minutes(time.monotonic() - begun)}.")
        return 0
    say(f"Not everything was reached: {lacking}.")
    return 1


def prepare_home(home: Path) -> None:
    """Empty the demo's own folder, but for its last report. Raises `EmbeddedError` where it is in use or another's.

    A folder is the demo's where it holds the marker that the demo wrote; anything else is left as it is.
    """
    if home.exists() and not home.is_dir():
        raise EmbeddedError(f"{home} is not a folder; name another one with --home.")
    if is_locked(home):
        raise EmbeddedError(
            f"A profile is up in {home.resolve()}; `stillhouse down --home {home}` stops it, or name another folder "
            "with --home."
        )
    if home.is_dir():
        inside = sorted(home.iterdir())
        if inside and not (home / MARKER).exists():
            raise EmbeddedError(
                f"{home.resolve()} holds things that the demo did not write, and the demo empties its folder; name "
                "another one with --home."
            )
        for path in inside:
            if path.name in KEPT:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    try:
        home.mkdir(parents=True, exist_ok=True)
        (home / MARKER).touch()
    except OSError as error:
        raise EmbeddedError(f"{home} cannot be made ({error.strerror}); name another folder with --home.") from None


async def _play(options: Options, plan: Plan, task: Task, console: Console) -> str | None:
    """Play, watch, show; write the report even where the play was cut short. What was not reached, or None."""
    settings = running_settings(options.home)
    state, tally = State(task.key), Tally()
    script = Script(plan, options.rate, SAMPLE_LIMIT_S if plan.sample else DATA_LIMIT_S)
    view = View(console, plan, task, state, tally)
    unreached: str | None = "it was stopped"
    async with watching(settings.kafka, state) as watcher, Client(settings, source="/demo") as client:
        player = Player(client, plan, script, state, tally)
        following = asyncio.create_task(watcher.follow())
        showing = asyncio.create_task(view.show())
        playing = asyncio.create_task(player.play())
        try:
            await asyncio.wait({playing, following, showing}, return_when=asyncio.FIRST_COMPLETED)
            for task_ in (following, showing):
                if task_.done():
                    task_.result()  # neither ends by itself
            unreached = await playing
        finally:
            for running in (playing, following, showing):
                running.cancel()
            await asyncio.gather(playing, following, showing, return_exceptions=True)
            await player.stop()
            if tally.sent:
                await drain(watcher, tally)
                figures = report(state, tally, plan, task)
                unreached = unreached or missing(figures)
                write_report(options.home, figures, curves(state, tally, task), task, unreached)
    if not console.is_terminal:
        view.print_news()
    else:
        for at, text in state.news:
            console.print(f"{at:%H:%M:%S}  {text}", soft_wrap=True, markup=False, highlight=False)
    console.print()
    for name, value in summary(figures):
        console.print(f"{name:24}{value}", soft_wrap=True, markup=False, highlight=False)
    console.print()
    console.print(f"Report: {options.home / JSON_FILE}, {options.home / HTML_FILE}", soft_wrap=True, markup=False)
    return unreached


async def drain(watcher: Watcher, tally: Tally) -> None:
    """Wait until the watcher has seen every answer that the client has, and what comes along with the last ones."""
    deadline = asyncio.get_running_loop().time() + DRAIN_S
    quiet = 0
    while quiet < 5 and asyncio.get_running_loop().time() < deadline:
        taken = await watcher.take(timeout_ms=200)
        state = watcher.state
        quiet = quiet + 1 if not taken and state.by_teacher + state.by_student >= tally.answered else 0


def _intentions(plan: Plan, task: Task) -> list[str]:
    sizes, price = plan.sizes, task.teacher
    late = ", ".join(plan.late[:6]) + (", ..." if len(plan.late) > 6 else "")
    return [
        f"Teacher: fitted on {len(plan.seed):,} labelled messages that are not sent; ${price.usd_per_call:g} a call, "
        f"{price.price_source}.",
        f"Sizes for a demo: a student after {sizes.min_examples:,} recorded answers, {100 * sizes.pi:.0f} % of the "
        f"requests audited while it is live. Arrives late: {late}.",
    ]


def stop(home: Path) -> None:
    """Stop the demo's profile, also where it was just starting. Raises `EmbeddedError`."""
    try:
        stop_running(home)
    except EmbeddedError:
        # It was just starting when the demo was ended: it becomes ready, or gives up, within seconds.
        time.sleep(2.0)
        stop_running(home)


def minutes(seconds: float) -> str:
    """Seconds as people say them."""
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"
