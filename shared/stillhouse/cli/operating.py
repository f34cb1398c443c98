"""`stillhouse train`, `route ...` and `teacher fit`: what an operator orders."""

from __future__ import annotations

import getpass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from stillhouse.cli._common import (
    HOME,
    TASKS,
    AsJson,
    Home,
    OneTask,
    Reason,
    TaskName,
    TasksFolder,
    Tenant,
    console,
    fail,
    run,
    show_json,
)
from stillhouse.cli.connect import publish_command, settings_of_running


class RouteAction(StrEnum):
    """What `route set` can order."""

    TEACHER = "teacher"
    PIN = "pin"
    UNPIN = "unpin"
    PROMOTE = "promote"
    ROLLBACK = "rollback"


route = typer.Typer(no_args_is_help=True, help="Take students out of a task, keep them out, or let them in again.")
teacher = typer.Typer(no_args_is_help=True, help="Teachers of this machine.")


def train(
    task: OneTask = None,
    reason: Reason = "asked for on the command line",
    architecture: Annotated[
        str | None, typer.Option(help="One of the task's candidates; the cheapest by default.")
    ] = None,
    tenant: Tenant = "default",
    follow: Annotated[bool, typer.Option("--follow", help="Stay and show how training goes.")] = False,
    reproduce: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Train the student of this MLflow run (or this student) again, and compare."),
    ] = None,
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """Ask for a student now, whatever the budget policy says. `stillhouse students` shows what came of it.

    With --reproduce RUN nothing is asked for: the recorded student is trained again on this machine, beside the
    platform, and compared with the first. Exit status 0: bit for bit the same; 2: not; 1: it could not be trained.
    """
    if reproduce is not None:
        _reproduce(reproduce, home, as_json)
        return
    if task is None:
        fail("Name the task with --task, or a recorded run with --reproduce.")
    from stillhouse.events import TrainingRequested

    settings = settings_of_running(home)

    async def ask() -> str:
        event = TrainingRequested(
            tenant=tenant, task=task, requested_by=_who(), reason=reason, architecture=architecture
        )
        await publish_command(settings, event)
        return event.id

    event_id = run(ask(), settings)
    console().print(f"Asked for a student of {tenant}/{task} (event {event_id}).", soft_wrap=True)
    if follow:
        from stillhouse.cli.following import follow as follow_job

        if not follow_job(settings.home, event_id, console()):
            raise typer.Exit(1)


def _reproduce(run: str, home: Path, as_json: bool) -> None:
    from rich.console import Console

    from stillhouse.cli.reproduce import reproduce

    try:
        found = reproduce(run, home, Console(stderr=True, highlight=False))
    except ValueError as error:
        fail(f"{error}.")
    if as_json:
        show_json(found.as_json())
    else:
        for sentence in found.sentences():
            console().print(sentence, soft_wrap=True, markup=False)
    if not found.bit_exact:
        raise typer.Exit(2)


@route.command("teacher")
def route_teacher(task: TaskName, reason: Reason, tenant: Tenant = "default", home: Home = HOME) -> None:
    """Take all students out of a task: the teacher answers. Newly gated students may come in again."""
    _route("teacher", task, reason, tenant, home)


@route.command("pin")
def route_pin(task: TaskName, reason: Reason, tenant: Tenant = "default", home: Home = HOME) -> None:
    """Take all students out of a task, and let none in until `unpin`."""
    _route("pin_teacher", task, reason, tenant, home)


@route.command("unpin")
def route_unpin(task: TaskName, reason: Reason, tenant: Tenant = "default", home: Home = HOME) -> None:
    """Let gated students in again."""
    _route("unpin", task, reason, tenant, home)


@route.command("set")
def route_set(
    task: Annotated[str, typer.Argument(help="The task's name.")],
    action: Annotated[
        RouteAction,
        typer.Option(
            help="teacher: take all students out; pin: and let none in; unpin: lift that; promote: the candidate one "
            "stage up without its gate; rollback: back to the student that was live before, else to the teacher."
        ),
    ],
    reason: Reason,
    tenant: Tenant = "default",
    home: Home = HOME,
) -> None:
    """Order a change of who serves a task. Who ordered it and why is kept with the route."""
    _route("pin_teacher" if action is RouteAction.PIN else action.value, task, reason, tenant, home)


@teacher.command("fit")
def teacher_fit(
    task: OneTask = None, tenant: Tenant = "default", tasks: TasksFolder = TASKS, home: Home = HOME
) -> None:
    """Fit teachers from their seed sets now, rather than when the router first starts. What is fitted stays."""
    from rich.progress import Progress

    from stillhouse.models.encoder import FitProgress
    from stillhouse.models.port import ModelError
    from stillhouse.models.teacher import fit_teacher
    from stillhouse.tasks import TaskFileError, load_tasks

    try:
        declared = load_tasks(tasks)
    except TaskFileError as error:
        fail(str(error))
    wanted = declared if task is None else {key: one for key, one in declared.items() if key == f"{tenant}/{task}"}
    if not wanted:
        fail(f"{tasks} declares no task {f'{tenant}/{task}'!r}; known are {', '.join(declared) or 'none'}.")
    out = console()
    for key, one in wanted.items():
        with Progress(console=out, transient=True) as progress:
            bar = progress.add_task(key, total=None)

            def on_progress(at: FitProgress, bar: object = bar, progress: Progress = progress, key: str = key) -> None:
                progress.update(bar, description=f"{key}: {at.phase}", completed=at.done, total=at.total)  # type: ignore[arg-type]

            try:
                folder = fit_teacher(one, home, on_progress)
            except ModelError as error:
                fail(str(error))
            except OSError as error:
                fail(f"The teacher of {key} cannot be written ({error}); free space, or name another --home.")
        out.print(f"{key}: {folder}", soft_wrap=True)


def _route(action: str, task: str, reason: str, tenant: str, home: Home) -> None:
    from stillhouse.events import RouteRequested

    settings = settings_of_running(home)

    async def order() -> None:
        order = {"action": action, "requested_by": _who(), "reason": reason}
        event = RouteRequested.model_validate({"tenant": tenant, "task": task, **order})
        await publish_command(settings, event)

    run(order(), settings)
    console().print(f"Ordered for {tenant}/{task}: {action}. `stillhouse routes` shows when it holds.", soft_wrap=True)


def _who() -> str:
    try:
        return f"cli:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user may have no name
        return "cli"
