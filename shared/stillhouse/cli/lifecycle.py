"""`stillhouse up`, `down` and `status`: the embedded profile."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated

import typer

from stillhouse.cli._common import HOME, TASKS, AsJson, Home, TasksFolder, console, fail, show_json, show_table


def up(
    home: Home = HOME,
    tasks: TasksFolder = TASKS,
    port: Annotated[int | None, typer.Option(help="Of the broker, on 127.0.0.1; any free one by default.")] = None,
    foreground: Annotated[bool, typer.Option("--foreground", "-f", help="Stay, and run until Ctrl-C.")] = False,
    service: Annotated[list[str] | None, typer.Option(help="Only this service; may be repeated.")] = None,
) -> None:
    """Start broker, Valkey and services on this machine; return when all are ready. `stillhouse down` stops them."""
    from stillhouse.embedded.broker import EmbeddedError
    from stillhouse.embedded.control import start_in_background
    from stillhouse.embedded.supervisor import Profile, checkout_root
    from stillhouse.embedded.supervisor_main import kafka_of_environment, supervise
    from stillhouse.events import SERVICES
    from stillhouse.tasks import TaskFileError, load_tasks

    out = console()
    for name in service or ():
        if name not in SERVICES:
            fail(f"There is no service {name!r}; services are {', '.join(SERVICES)}.")
    try:
        load_tasks(tasks)
        profile = Profile(
            home=home,
            tasks=tasks,
            root=checkout_root(),
            services=tuple(service) if service else SERVICES,
            kafka=kafka_of_environment() if os.environ.get("STILLHOUSE_KAFKA__BOOTSTRAP_SERVERS") else None,
            own_redis=bool(os.environ.get("STILLHOUSE_REDIS__URL")),
            port=port,
        )
        if foreground:
            asyncio.run(supervise(profile, lambda line: out.print(line, soft_wrap=True, markup=False)))
            return
        with out.status("Starting") as status:

            def on_line(line: str) -> None:
                out.print(line, soft_wrap=True, markup=False)
                status.update(f"Starting: {line[:60].rstrip()}" if line != "ready" else "Ready")

            start_in_background(profile, on_line)
        out.print(f"Up in {home}. `stillhouse status` shows it, `stillhouse down` stops it.", soft_wrap=True)
    except (EmbeddedError, TaskFileError) as error:
        fail(str(error))


def down(home: Home = HOME) -> None:
    """Stop what `up` started here: services finish what they do (15 s at most), then Valkey and the broker."""
    from stillhouse.embedded.broker import EmbeddedError
    from stillhouse.embedded.control import stop_running

    out = console()
    try:
        with out.status("Stopping"):
            stopped = stop_running(home)
    except EmbeddedError as error:
        fail(str(error))
    out.print("Stopped." if stopped else f"Nothing is up in {home}.", soft_wrap=True)


def status(home: Home = HOME, as_json: AsJson = False) -> None:
    """Show what runs here and whether it is ready. Ends with 3 where nothing runs, 1 where a service is not ready."""
    from stillhouse.embedded.control import service_statuses
    from stillhouse.embedded.state import running

    state = running(home)
    if state is None:
        if as_json:
            show_json({"up": False})
            raise typer.Exit(3)
        fail(f"Nothing is up in {home}; `stillhouse up` starts it.", 3)
    services = service_statuses(state)
    if as_json:
        show_json(
            {
                "up": True,
                **state.model_dump(exclude={"services", "run_id"}),
                "services": {
                    found.name: {
                        "pid": found.pid,
                        "http_port": found.http_port,
                        "restarts": found.restarts,
                        "ready": found.ready,
                        "health": found.health,
                    }
                    for found in services
                },
            }
        )
    else:
        rows: list[list[object]] = []
        kind = "embedded, memory only" if state.embedded else "yours"
        rows.append(["kafka", _pid(state.broker_pid), state.bootstrap_servers, kind])
        redis = state.redis_url or "as in STILLHOUSE_REDIS__URL"
        rows.append(["redis", _pid(state.redis_pid), redis, "embedded" if state.redis_url else "yours"])
        if state.edge_port is not None:
            router = state.services.get("router")
            edge = f"http://127.0.0.1:{state.edge_port}/v1"
            rows.append(["edge", _pid(router.pid if router else None), edge, "OpenAI-compatible, in the router"])
        for found in services:
            again = f", restarted {found.restarts} times" if found.restarts else ""
            address = f"http://127.0.0.1:{found.http_port}/metrics"
            rows.append([found.name, _pid(found.pid), address, found.health + again])
        show_table(["part", "pid", "address", "state"], rows, "")
    if not all(found.ready for found in services):
        raise typer.Exit(1)


def _pid(pid: int | None) -> str:
    return "–" if pid is None else str(pid)
