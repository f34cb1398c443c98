"""`stillhouse request` and `send`: publish requests and wait for their answers."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillhouse.cli._common import HOME, AsJson, Home, TaskName, Tenant, console, fail, run, sentence_of, show_json
from stillhouse.cli.connect import SOURCE, settings_of_running

if TYPE_CHECKING:
    from stillhouse.events import InferenceCompleted, InferenceRequested
    from stillhouse.settings import Settings


def request(
    task: TaskName,
    input: Annotated[str, typer.Option(help="The text to be answered.")],
    tenant: Tenant = "default",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait.")] = 60.0,
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """Publish one request to the topic and wait for its answer."""
    from stillhouse.client import Client, RequestFailed

    settings = settings_of_running(home)

    async def ask() -> InferenceCompleted:
        async with Client(settings, source=SOURCE) as client:
            return await client.request(task=task, input=input, tenant=tenant, timeout=timeout)

    try:
        completed = run(ask(), settings)
    except RequestFailed as error:
        if as_json:
            show_json(error.completed.model_dump(mode="json"))
        fail(str(error))
    except TimeoutError:
        fail(f"No answer within {timeout:g} s. Is a router running? `stillhouse status` tells.")
    if as_json:
        show_json(completed.model_dump(mode="json"))
        return
    answer = completed.student if completed.served_by == "student" else completed.teacher
    confidence = f", confidence {answer.confidence:.2f}" if answer is not None else ""
    console().print(
        f"{completed.output}   [dim]{completed.served_by} ({completed.reason}){confidence}, "
        f"{completed.latency_ms:.0f} ms, ${completed.cost_usd:.4f}[/dim]",
        soft_wrap=True,
    )


@dataclass(slots=True)
class Tally:
    """What became of the requests of one file. `lost`: neither answered nor refused in time."""

    sent: int = 0
    answered: int = 0
    lost: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    served_by: Counter[str] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        """Requests settled per second of wall time."""
        return (self.answered + sum(self.errors.values())) / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, object]:
        """For `--json`."""
        ordered = sorted(self.latencies_ms)
        return {
            "sent": self.sent,
            "answered": self.answered,
            "lost": self.lost,
            "errors": dict(self.errors),
            "served_by": dict(self.served_by),
            "seconds": round(self.seconds, 3),
            "per_second": round(self.per_second, 1),
            "latency_ms": {"p50": _quantile(ordered, 0.5), "p99": _quantile(ordered, 0.99)},
        }


def send(
    file: Annotated[Path, typer.Argument(help="JSON lines with `text` (or `input`), and optionally `group`.")],
    task: TaskName,
    tenant: Tenant = "default",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait for each answer.")] = 60.0,
    in_flight: Annotated[int, typer.Option(min=1, max=4096, help="Requests under way at once.")] = 64,
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """Publish every line of a file as a request and wait for all answers. Ends with 1 where any was lost."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    settings = settings_of_running(home)
    requests = list(read_requests(file, task, tenant, timeout))
    tally = Tally()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:,.0f}/s  student {task.fields[student]}  lost {task.fields[lost]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(), disable=as_json) as progress:
        bar = progress.add_task(f"{tenant}/{task}", total=len(requests), rate=0.0, student="0 %", lost=0)

        def on_change() -> None:
            settled = tally.answered + tally.lost + sum(tally.errors.values())
            share = f"{100 * tally.served_by['student'] / max(1, tally.answered):.0f} %"
            progress.update(bar, completed=settled, rate=tally.per_second, student=share, lost=tally.lost)

        run(_send_all(settings, requests, tally, timeout, in_flight, on_change), settings)
    if as_json:
        show_json(tally.as_json())
    else:
        counts = ", ".join(f"{count:,} by the {who}" for who, count in tally.served_by.most_common())
        errors = "".join(f", {count:,} {code}" for code, count in tally.errors.most_common())
        console().print(
            f"{tally.sent:,} sent, {tally.answered:,} answered{f' ({counts})' if counts else ''}{errors}, "
            f"{tally.lost:,} lost; {tally.per_second:,.0f} requests/s over {tally.seconds:.1f} s.",
            soft_wrap=True,
        )
    if tally.lost:
        raise typer.Exit(1)


def read_requests(file: Path, task: str, tenant: str, timeout: float) -> Iterator[InferenceRequested]:
    """One request per line that is not empty. Ends the command with a sentence naming the first bad line."""
    from pydantic import ValidationError

    from stillhouse.events import InferenceRequested

    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        fail(
            f"{file} cannot be read ({getattr(error, 'strerror', None) or error}); name a file of JSON lines in UTF-8."
        )
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text = row.get("input", row.get("text")) if isinstance(row, dict) else None
        except json.JSONDecodeError as error:
            fail(f"{file}:{number}: not JSON ({error.msg}); each line is an object with `text`.")
        if not isinstance(text, str) or not text:
            fail(f"{file}:{number}: no `text`; each line is an object with `text`.")
        try:
            group = row.get("group")
            deadline = min(600_000, max(1, int(timeout * 1000)))
            yield InferenceRequested(tenant=tenant, task=task, input=text, group=group, deadline_ms=deadline)
        except ValidationError as error:
            fail(f"{file}:{number}: {sentence_of(error)}")


async def _send_all(
    settings: Settings,
    requests: list[InferenceRequested],
    tally: Tally,
    timeout: float,
    in_flight: int,
    on_change: Callable[[], None],
) -> None:
    from stillhouse.bus import TooLarge
    from stillhouse.client import Client

    slots = asyncio.Semaphore(in_flight)
    begin = time.perf_counter()

    async with Client(settings, source=SOURCE) as client:

        async def one(asked: InferenceRequested) -> None:
            sent_at = time.perf_counter()
            try:
                async with asyncio.timeout(timeout):
                    completed = await (await client.submit(asked))
            except TimeoutError:
                tally.lost += 1
            except TooLarge:
                tally.errors["too_large"] += 1
            else:
                if completed.failure is not None:
                    if completed.failure.code == "lost":
                        tally.lost += 1
                    else:
                        tally.errors[completed.failure.code] += 1
                else:
                    tally.answered += 1
                    tally.served_by[completed.served_by or "nobody"] += 1
                    tally.latencies_ms.append(1000 * (time.perf_counter() - sent_at))
            finally:
                tally.seconds = time.perf_counter() - begin
                slots.release()
                on_change()

        async with asyncio.TaskGroup() as group:
            for asked in requests:
                await slots.acquire()
                tally.sent += 1
                group.create_task(one(asked))


def _quantile(ordered: list[float], share: float) -> float | None:
    """Nearest rank, milliseconds; None of nothing."""
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else None
