"""`stillhouse dlq list` and `replay`: records that a service put aside, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from stillhouse.cli._common import HOME, AsJson, Home, console, fail, run, show_json, show_table
from stillhouse.cli.connect import settings_of_running

if TYPE_CHECKING:
    from stillhouse.cli.reading import RawRecord
    from stillhouse.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Dead letters: records that a service put aside, and why.")

PREFIX = "dlq_"  # of the headers that a service adds; the others are the record's own

Service = Annotated[str | None, typer.Option(help="Only what this service put aside; all by default.")]


@app.command("list")
def list_(service: Service = None, home: Home = HOME, as_json: AsJson = False) -> None:
    """Show dead letters, oldest first. Their contents stay where they are: they may hold what must not be shown."""
    from datetime import UTC, datetime

    settings = settings_of_running(home)
    found = run(_read(settings, service), settings)
    rows = [
        {
            "letter": name(record),
            "time": datetime.fromtimestamp(record.time_ms / 1000, UTC).isoformat(timespec="seconds"),
            "origin": _added(record, "origin"),
            "reason": _added(record, "reason"),
            "key": (record.key or b"").decode(errors="replace"),
            "bytes": len(record.value or b""),
        }
        for record in found
    ]
    if as_json:
        show_json(rows)
        return
    show_table(
        ["letter", "time", "origin", "bytes", "reason"],
        [[row[column] for column in ("letter", "time", "origin", "bytes", "reason")] for row in rows],
        "No dead letters.",
    )


@app.command()
def replay(
    letter: Annotated[list[str] | None, typer.Argument(help="Letters as `dlq list` names them: router/0.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All of them, or all of --service.")] = False,
    service: Service = None,
    home: Home = HOME,
) -> None:
    """Send dead letters to the topic that they came from, as they were. They stay in the list until they expire."""
    if bool(letter) == all_:
        fail("Name the letters to replay (`stillhouse dlq list` shows them), or give --all.")
    settings = settings_of_running(home)
    found = {name(record): record for record in run(_read(settings, service), settings)}
    missing = [wanted for wanted in letter or () if wanted not in found]
    if missing:
        fail(f"There is no dead letter {missing[0]!r}; `stillhouse dlq list` shows them.")
    chosen = [found[wanted] for wanted in letter] if letter else list(found.values())
    lost = [record for record in chosen if origin_topic(record) is None]
    if lost:
        fail(f"The dead letter {name(lost[0])!r} does not say where it came from, so it cannot be replayed.")
    run(_send(settings, chosen), settings)
    console().print(f"{len(chosen)} replayed.")


def name(record: RawRecord) -> str:
    """How people name a dead letter: `<service>/<offset>`."""
    return f"{record.topic.removeprefix('dlq.')}/{record.offset}"


def origin_topic(record: RawRecord) -> str | None:
    """The topic that a dead letter was put aside from; None where it does not say, or names none of ours."""
    from stillhouse.events import BY_NAME

    topic = (_added(record, "origin") or "").split("/")[0]
    return topic if topic in BY_NAME else None


async def _read(settings: Settings, service: str | None) -> list[RawRecord]:
    from stillhouse.cli.reading import read_records
    from stillhouse.events import SERVICES

    if service is not None and service not in SERVICES:
        fail(f"There is no service {service!r}; services are {', '.join(SERVICES)}.")
    return await read_records(settings.kafka, [f"dlq.{each}" for each in ([service] if service else SERVICES)])


async def _send(settings: Settings, records: list[RawRecord]) -> None:
    from aiokafka import AIOKafkaProducer

    from stillhouse.bus import producer_options

    producer = AIOKafkaProducer(**producer_options(settings.kafka))
    try:
        await producer.start()
        for record in records:
            own = [(header, value) for header, value in record.headers if not header.startswith(PREFIX)]
            await producer.send_and_wait(origin_topic(record), record.value, key=record.key, headers=own)
    finally:
        await producer.stop()


def _added(record: RawRecord, what: str) -> str | None:
    found = next((value for header, value in record.headers if header == PREFIX + what), None)
    return None if found is None else found.decode(errors="replace")
