"""The `stillhouse` command."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)

Home = Annotated[Path, typer.Option(envvar="STILLHOUSE_HOME", help="Folder that the platform keeps its things in.")]


def main() -> None:
    """Entry point of the console script."""
    app()


@app.callback()
def _root() -> None:
    """Replaces expensive model calls by a cheap model that has been proven to give the same answers."""


@app.command()
def up(
    home: Home = Path(".stillhouse"),
    tasks: Annotated[Path, typer.Option(envvar="STILLHOUSE_TASKS", help="Folder of task files.")] = Path(
        "deploy/tasks"
    ),
    port: Annotated[int | None, typer.Option(help="Of the broker, on 127.0.0.1; any free one by default.")] = None,
) -> None:
    """Start the embedded broker and the services; run until Ctrl-C."""
    from rich.console import Console

    from stillhouse.embedded import profile
    from stillhouse.embedded.broker import EmbeddedError
    from stillhouse.tasks import TaskFileError, load_tasks

    console = Console(highlight=False)

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await profile.run(home, tasks, port, lambda line: console.print(line, soft_wrap=True), stop)

    try:
        load_tasks(tasks)
        asyncio.run(run())
    except (EmbeddedError, TaskFileError) as error:
        _fail(str(error))


@app.command()
def request(
    task: Annotated[str, typer.Option(help="The task's name.")],
    input: Annotated[str, typer.Option(help="The text to be answered.")],
    tenant: Annotated[str, typer.Option(help="Owner of the task.")] = "default",
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds to wait.")] = 60.0,
    home: Home = Path(".stillhouse"),
    as_json: Annotated[bool, typer.Option("--json", help="The whole completion event as JSON.")] = False,
) -> None:
    """Publish one request to the topic and wait for its answer."""
    from aiokafka.errors import KafkaError
    from pydantic import ValidationError
    from rich.console import Console

    from stillhouse.bus import TooLarge
    from stillhouse.client import Client, RequestFailed
    from stillhouse.embedded.profile import running_settings
    from stillhouse.events import InferenceCompleted

    settings = running_settings(home)

    async def ask() -> InferenceCompleted:
        async with Client(settings, source="/cli") as client:
            return await client.request(task=task, input=input, tenant=tenant, timeout=timeout)

    try:
        completed = asyncio.run(ask())
    except RequestFailed as error:
        if as_json:
            typer.echo(error.completed.model_dump_json())
        _fail(str(error))
    except TimeoutError:
        _fail(f"No answer within {timeout:g} s. Is a router running? `stillhouse up` starts one.")
    except TooLarge as error:
        _fail(str(error))
    except ValidationError as error:
        first = error.errors()[0]
        _fail(f"{'.'.join(map(str, first['loc']))}: {first['msg']}; got {str(first['input'])[:80]!r}.")
    except (KafkaError, ConnectionError):
        _fail(
            f"No broker at {settings.kafka.bootstrap_servers}. `stillhouse up` starts one, "
            "or name yours in STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS."
        )
    if as_json:
        typer.echo(completed.model_dump_json())
        return
    confidence = completed.teacher.confidence if completed.teacher else 0.0
    Console(highlight=False).print(
        f"{completed.output}   [dim]{completed.served_by} ({completed.reason}), confidence {confidence:.2f}, "
        f"{completed.latency_ms:.0f} ms, ${completed.cost_usd:.4f}[/dim]",
        soft_wrap=True,
    )


@app.command()
def docs() -> None:
    """Print the AsyncAPI 3 document of every topic, as JSON."""
    import json

    from stillhouse.bus.asyncapi import document

    typer.echo(json.dumps(document(), indent=1, ensure_ascii=False))


def _fail(sentence: str) -> None:
    typer.echo(sentence, err=True)
    sys.exit(1)
