"""`stillhouse topics declare`: what a Kafka must have before the services start."""

from __future__ import annotations

import typer

from stillhouse.cli._common import HOME, Home, console, run
from stillhouse.cli.connect import settings_of_running

app = typer.Typer(no_args_is_help=True, help="The log's topics.")


@app.callback()
def _group() -> None:
    """The log's topics."""


@app.command()
def declare(home: Home = HOME) -> None:
    """Create every topic of the catalogue that is missing, with its partitions and cleanup. Safe to repeat."""
    from stillhouse.bus import declare_topics
    from stillhouse.events import CATALOGUE

    settings = settings_of_running(home)
    run(declare_topics(settings.kafka), settings)
    console().print(f"{len(CATALOGUE)} topics are declared at {settings.kafka.bootstrap_servers}.", soft_wrap=True)
