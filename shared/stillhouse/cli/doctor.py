"""`stillhouse doctor`: what is wrong with the platform here, and what to do about it."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillhouse.cli._common import HOME, AsJson, Home, console, show_json, show_table
from stillhouse.cli.connect import settings_of_running

if TYPE_CHECKING:
    from aiokafka.admin import AIOKafkaAdminClient

    from stillhouse.cli.checks import Finding
    from stillhouse.settings import Settings


def doctor(
    home: Home = HOME,
    tasks: Annotated[
        Path | None, typer.Option(envvar="STILLHOUSE_TASKS", help="Folder of task files; by default that of `up`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look at broker, topics, lag, clocks, disk, packages and models. Ends with 1 where something is wrong."""
    from dataclasses import asdict

    # What the client library would log is said by a finding.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    settings = settings_of_running(home)
    found = examine(settings if tasks is None else settings.model_copy(update={"tasks": tasks}))
    wrong = [one for one in found if one.state == "wrong"]
    if as_json:
        show_json({"well": not wrong, "findings": [asdict(one) for one in found]})
    else:
        show_table(["part", "what", "state", "found"], [[one.part, one.what, one.state, one.said] for one in found], "")
        out = console()
        for one in found:
            if one.mend:
                out.print(f"\n{one.state}  {one.part}, {one.what}\n  {one.mend}", soft_wrap=True, markup=False)
    if wrong:
        raise typer.Exit(1)


def examine(settings: Settings) -> list[Finding]:
    """Every finding, in the order in which to read them: what stands below first. Takes some seconds."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from stillhouse.cli.checks import Finding, check_disk, check_packages, check_teachers, pinned
    from stillhouse.embedded.broker import EmbeddedError
    from stillhouse.embedded.supervisor import checkout_root
    from stillhouse.tasks import TaskFileError, load_tasks

    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    extras = {"train": "router, trainer and validator"}
    if "STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS" not in os.environ:
        extras["embedded"] = "`stillhouse up`"
    try:
        needed = requires("stillhouse") or []
        packages = check_packages(pinned(checkout_root()), needed, installed, extras)
    except (PackageNotFoundError, EmbeddedError):
        said = "Stillhouse is not installed as a package here, so what it needs is not known"
        packages = [Finding("packages", "stillhouse", "warn", said, "Run `make venv` in the checkout.")]
    found = asyncio.run(_over_the_network(settings))
    found += check_disk(settings.home)
    found += packages
    try:
        declared = load_tasks(settings.tasks)
    except TaskFileError as error:
        found.append(Finding("models", "tasks", "wrong", str(error), "Mend the file; no service starts with it."))
    else:
        found += check_teachers(declared, settings.home)
    return found


async def _over_the_network(settings: Settings) -> list[Finding]:
    from aiokafka.errors import KafkaError

    from stillhouse.cli.checks import (
        Finding,
        check_artefacts,
        check_broker,
        check_lag,
        check_record_times,
        check_redis,
        check_topics,
        with_admin,
    )
    from stillhouse.cli.lives import latest_routes
    from stillhouse.cli.reading import events_of, read_records
    from stillhouse.events import SERVICES, RouteChanged

    kafka, found = settings.kafka, list[Finding]()

    async def look(admin: AIOKafkaAdminClient) -> None:
        found.extend(await check_broker(admin, kafka))
        found.extend(await check_topics(admin))
        found.extend(await check_lag(admin, kafka, SERVICES))

    try:
        await with_admin(settings, look)
        found.extend(await check_record_times(kafka))
        routes = latest_routes(events_of(await read_records(kafka, [RouteChanged.TYPE])))
        found.extend(await asyncio.to_thread(check_artefacts, routes))
    except (KafkaError, OSError, TimeoutError) as error:
        mend = "`stillhouse up` starts one, or name yours in STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS."
        said = f"does not answer ({type(error).__name__}); topics, lag, clocks and routes were not looked at"
        if any(one.part == "broker" for one in found):
            said = f"stopped answering ({type(error).__name__})"
        found.append(Finding("broker", kafka.bootstrap_servers, "wrong", said, mend))
    return [*found, *await check_redis(settings.redis.url.get_secret_value())]
