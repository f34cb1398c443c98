"""What every command shares: options, output as table or JSON, and errors as one sentence.

Nothing heavy is imported at the top of this package's files: `stillhouse --help` must not wait for a broker's client.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from rich.console import Console

    from stillhouse.settings import Settings

R = TypeVar("R")

HOME = Path(".stillhouse")
TASKS = Path("deploy/tasks")

Home = Annotated[Path, typer.Option(envvar="STILLHOUSE_HOME", help="Folder that the platform keeps its things in.")]
TasksFolder = Annotated[Path, typer.Option("--tasks", envvar="STILLHOUSE_TASKS", help="Folder of task files.")]
TaskName = Annotated[str, typer.Option("--task", help="The task's name.")]
OneTask = Annotated[str | None, typer.Option("--task", help="Only this task; all by default.")]
Tenant = Annotated[str, typer.Option(help="Owner of the task.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]
Reason = Annotated[str, typer.Option(help="Why; it is kept with the command.")]


class ShowByDefault(TyperGroup):
    """A group whose command `show` need not be named: `gate STUDENT` is `gate show STUDENT`."""

    default = "show"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # Any: typer carries a click of its own
        if args[0] not in (*self.commands, "--help") if args else not self.no_args_is_help:
            args = [self.default, *args]
        return super().parse_args(ctx, args)


def fail(sentence: str, code: int = 1) -> NoReturn:
    """End with one sentence on stderr."""
    typer.echo(sentence, err=True)
    sys.exit(code)


def console() -> Console:
    """Where people read. Colours only on a terminal, and never with NO_COLOR."""
    from rich.console import Console

    return Console(highlight=False)


def run(work: Coroutine[Any, Any, R], settings: Settings) -> R:
    """Run a command that talks to the log; what commonly goes wrong ends it with one sentence."""
    from aiokafka.errors import KafkaError
    from pydantic import ValidationError

    from stillhouse.bus import TooLarge

    # What the client library would log is said by the sentence below.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    try:
        return asyncio.run(work)
    except ExceptionGroup as group:  # of a TaskGroup: its first error is what went wrong
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
    except KeyboardInterrupt:
        sys.exit(130)
    except (TooLarge, ValidationError, KafkaError, ConnectionError) as single:
        error = single
    if isinstance(error, TooLarge):
        fail(str(error))
    if isinstance(error, ValidationError):
        fail(sentence_of(error))
    if isinstance(error, KafkaError | ConnectionError):
        fail(
            f"No broker at {settings.kafka.bootstrap_servers}. `stillhouse up` starts one, "
            "or name yours in STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS."
        )
    raise error


def sentence_of(error: Any) -> str:
    """The first thing that a pydantic `ValidationError` complains about."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the input"
    return f"{where}: {first['msg']}; got {str(first['input'])[:80]!r}."


def show_json(value: Any) -> None:
    """JSON on stdout, one document."""
    typer.echo(json.dumps(value, indent=2, default=str, ensure_ascii=False))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> None:
    """A table without frames, or `empty`. Columns whose every cell is a number stand right.

    On a terminal it is fitted to the width; into a pipe nothing is cut.
    """
    from rich.table import Table

    out = console()
    if not rows:
        out.print(empty, soft_wrap=True)
        return
    if not out.is_terminal:
        widest = [max(len(column), *(len(_cell(row[i])) for row in rows)) for i, column in enumerate(columns)]
        out.width = sum(widest) + 2 * len(columns) + 2
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        numbers = all(isinstance(row[index], int | float) or row[index] is None for row in rows)
        table.add_column(column, justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    out.print(table)


def when(time: datetime) -> str:
    """A time as people read it, in UTC."""
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def percent(share: float | None) -> str | None:
    """`0.973` as `97.3 %`."""
    return None if share is None else f"{100 * share:.1f} %"


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    from rich.markup import escape

    return escape(str(value))
