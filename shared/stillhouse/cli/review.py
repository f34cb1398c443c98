"""`stillhouse review ...`: answers that wait for a person, and what people say about them."""

from __future__ import annotations

import getpass
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stillhouse.cli._common import (
    HOME,
    TASKS,
    AsJson,
    Home,
    OneTask,
    TasksFolder,
    Tenant,
    console,
    fail,
    run,
    sentence_of,
    show_json,
    when,
)
from stillhouse.cli.connect import publish_events, settings_of_running

if TYPE_CHECKING:
    from stillhouse.events import Event, ExampleReviewed, ReviewResolved
    from stillhouse.review import Case, Said
    from stillhouse.settings import Settings
    from stillhouse.tasks import Task

app = typer.Typer(no_args_is_help=True, help="Answers that wait for a person, and what people say about them.")

CaseName = Annotated[str, typer.Argument(metavar="ID", help="The case, how its id begins, or any request's id.")]
Reviewer = Annotated[str | None, typer.Option(help="Who says so; the user of this machine by default.")]
Minutes = Annotated[float | None, typer.Option(min=0, max=1440, help="Time it took; the task's default if not said.")]
Note = Annotated[str, typer.Option(help="Why. Personal data is taken out by rule before it is kept.")]
Blind = Annotated[
    bool, typer.Option("--blind", help="Without what teacher and students said, so that it sways nobody.")
]


@app.command("next")
def next_(
    task: Annotated[str | None, typer.Argument(help="Only this task; all by default.")] = None,
    tenant: Tenant = "default",
    blind: Blind = False,
    home: Home = HOME,
    tasks: TasksFolder = TASKS,
    as_json: AsJson = False,
) -> None:
    """Show the next case. Randomly drawn ones come first: only they measure, all others teach."""
    from rich.markup import escape

    desk = _Desk(home, tasks, tenant, task)
    cases = desk.waiting()
    if as_json:
        show_json({"waiting": len(cases), "case": _as_json(cases[0], blind) if cases else None})
        return
    if not cases:
        console().print("No case waits for a person.")
        return
    case = cases[0]
    reasons = ", ".join(f"{count} {reason}" for reason, count in Counter(each.reason for each in cases).most_common())
    out = console()
    out.print(
        f"[bold]{case.case_id}[/bold]  {case.tenant}/{case.task}, {case.reason}, {when(case.time)}", soft_wrap=True
    )
    out.print(f"\n{escape(case.text)}\n", soft_wrap=True)
    if not blind:
        said = f"teacher   {escape(case.teacher_output)}  (confidence {case.confidence:.2f})"
        out.print(said, soft_wrap=True)
        for output in case.student_outputs:
            out.print(f"student   {escape(output)}", soft_wrap=True)
    if labels := desk.task_of(case).labels:
        out.print(f"labels    {escape(', '.join(labels))}", soft_wrap=True)
    out.print(f"\n{len(cases)} wait: {reasons}.", soft_wrap=True)


@app.command()
def approve(
    case: CaseName,
    reviewer: Reviewer = None,
    minutes: Minutes = None,
    note: Note = "",
    task: OneTask = None,
    tenant: Tenant = "default",
    home: Home = HOME,
    tasks: TasksFolder = TASKS,
) -> None:
    """The teacher's answer is right."""
    from stillhouse.review import Said

    _one(_Desk(home, tasks, tenant, task), Said(case, verdict="approve", minutes=minutes, note=note), reviewer)


@app.command()
def correct(
    case: CaseName,
    label: Annotated[str, typer.Option(help="What is right. Where the teacher said the same, it is approved.")],
    reviewer: Reviewer = None,
    minutes: Minutes = None,
    note: Note = "",
    task: OneTask = None,
    tenant: Tenant = "default",
    home: Home = HOME,
    tasks: TasksFolder = TASKS,
) -> None:
    """The answer is another: it wins over the teacher's, for this text, from the next training on."""
    from stillhouse.review import Said

    _one(_Desk(home, tasks, tenant, task), Said(case, label=label, minutes=minutes, note=note), reviewer)


@app.command()
def flag(
    case: CaseName,
    note: Note,
    reviewer: Reviewer = None,
    minutes: Minutes = None,
    task: OneTask = None,
    tenant: Tenant = "default",
    home: Home = HOME,
    tasks: TasksFolder = TASKS,
) -> None:
    """Something is wrong with this case: no student learns from this text."""
    from stillhouse.review import Said

    _one(_Desk(home, tasks, tenant, task), Said(case, verdict="flag", minutes=minutes, note=note), reviewer)


@app.command()
def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Written anew; it holds the texts of the cases.")],
    format_: Annotated[
        Literal["argilla", "label-studio", "jsonl"], typer.Option("--format", help="Who is to read it.")
    ] = "jsonl",
    task: OneTask = None,
    tenant: Tenant = "default",
    blind: Blind = False,
    home: Home = HOME,
    tasks: TasksFolder = TASKS,
    as_json: AsJson = False,
) -> None:
    """Write all waiting cases to a file that Argilla, Label Studio or a script can read."""
    from stillhouse.review.files import dump
    from stillhouse.review.label_studio import config

    desk = _Desk(home, tasks, tenant, task)
    cases = desk.waiting()
    try:
        file.write_text(dump(cases, format_, blind=blind), encoding="utf-8")
    except OSError as error:
        fail(f"{file}: cannot be written ({error.strerror}).")
    if as_json:
        show_json({"file": str(file), "cases": len(cases)})
        return
    console().print(f"{len(cases)} cases in {file}. Erasing does not reach this file: remove it when it is done.")
    if format_ == "label-studio" and cases:
        labels = sorted({label for case in cases for label in desk.task_of(case).labels})
        console().print(f"The labelling configuration that belongs to it:\n\n{config(labels)}", markup=False)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="From Argilla, Label Studio, or JSON lines.")],
    reviewer: Reviewer = None,
    task: OneTask = None,
    tenant: Tenant = "default",
    home: Home = HOME,
    tasks: TasksFolder = TASKS,
    as_json: AsJson = False,
) -> None:
    """Take what people said from a file. The same file again changes nothing."""
    from stillhouse.review import cases_named
    from stillhouse.review.files import load

    try:
        verdicts = load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file}: cannot be read ({error}).")
    except ValueError as error:
        fail(f"{file}: {error}.")
    desk = _Desk(home, tasks, tenant, task)
    named = {said.case_id for said in verdicts}
    cases = {case_id: case for key in desk.tasks for case_id, case in cases_named(desk.store, key, named).items()}
    counts: Counter[str] = Counter(taken=0, known=0, unknown_case=0, unknown_label=0)
    events: list[Event] = []
    for said in verdicts:
        case = cases.get(said.case_id)
        if case is None:
            counts["unknown_case"] += 1
        elif said.label is not None and not _fits(said.label, desk.task_of(case)):
            counts["unknown_label"] += 1
        else:
            new = desk.say(case, said, reviewer or said.reviewer or who())
            counts["taken" if new else "known"] += 1
            events += new
    run(publish_events(desk.settings, events), desk.settings)
    if as_json:
        show_json({"file": str(file), **counts})
        return
    console().print(
        f"{counts['taken']} taken, {counts['known']} known already, {counts['unknown_case']} about cases that are not "
        f"there (any more), {counts['unknown_label']} with labels that the task does not have.",
        soft_wrap=True,
    )


def who() -> str:
    """The user of this machine, as far as it has a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "cli"


class _Desk:
    """What every command needs: the tasks, the store, and what was said that the store does not have yet."""

    def __init__(self, home: Path, tasks: Path, tenant: str, task: str | None) -> None:
        from stillhouse.store import Store

        self.settings = settings_of_running(home)
        self.tasks = _tasks_of(tasks, tenant, task)
        self.store = Store(home / "store")
        self._reviews: dict[str, dict[str, Any]] = {}
        for key in self.tasks:
            self._reviews |= {row["review_id"]: row for row in self.store.reviews(key).to_pylist()}
        self._reviews |= _reviews_in_log(self.settings)

    def task_of(self, case: Case) -> Task:
        return self.tasks[f"{case.tenant}/{case.task}"]

    def waiting(self) -> list[Case]:
        from stillhouse.review import waiting

        said = {row["case_id"] for row in self._reviews.values()}
        found = [waiting(self.store, key, task.review.keep_days, said) for key, task in self.tasks.items()]
        # What measures comes first, whichever task it is of.
        return sorted((case for cases in found for case in cases), key=lambda case: case.drawn != "random")

    def say(self, case: Case, said: Said, reviewer: str) -> tuple[ExampleReviewed, ReviewResolved] | tuple[()]:
        """The events of a verdict; none where this person said so before."""
        from pydantic import ValidationError

        from stillhouse.review import verdict_events

        history = [row for row in self._reviews.values() if row["case_id"] == case.case_id]
        try:
            events = verdict_events(case, said, reviewer, history)
        except ValidationError as error:
            fail(sentence_of(error))
        except ValueError as error:
            fail(f"{case.case_id}: {error}.")
        if events is None:
            return ()
        self._reviews[events[0].id] = _row(events[0])
        return events


def _one(desk: _Desk, said: Said, reviewer: str | None) -> None:
    from stillhouse.review import find_case

    try:
        case = find_case(desk.store, list(desk.tasks), said.case_id)
    except LookupError as error:
        fail(str(error))
    task = desk.task_of(case)
    if said.label is not None and not _fits(said.label, task):
        fail(f"{case.tenant}/{case.task} has no label {said.label!r}; it has {', '.join(task.labels)}.")
    events = desk.say(case, said, reviewer or who())
    if not events:
        console().print("You said so before; nothing changed.")
        return
    run(publish_events(desk.settings, events), desk.settings)
    done = {
        "approve": f"approved: {case.teacher_output}",
        "correct": f"{case.teacher_output} corrected to {said.label}",
        "flag": "flagged: it teaches nobody",
    }[events[0].verdict]
    console().print(f"{case.case_id}  {done}.", soft_wrap=True, markup=False)


def _fits(label: str, task: Task) -> bool:
    """Whether it can be an answer of the task: one of its labels, or any text where it generates."""
    return not task.labels or label in task.labels


def _tasks_of(folder: Path, tenant: str, name: str | None) -> dict[str, Task]:
    from stillhouse.tasks import TaskFileError, load_tasks

    try:
        declared = load_tasks(folder)
    except TaskFileError as error:
        fail(str(error))
    mine = {key: task for key, task in declared.items() if task.tenant == tenant and name in (None, task.name)}
    if not mine:
        wanted = f"{tenant}/{name or '*'}"
        fail(f"{folder} declares no task {wanted!r}; known are {', '.join(declared) or 'none'}.")
    return mine


def _reviews_in_log(settings: Settings) -> dict[str, dict[str, Any]]:
    """What was said lately: the observer may not have written it yet."""
    from stillhouse.cli.reading import events_of, read_records
    from stillhouse.events import ExampleReviewed

    records = run(read_records(settings.kafka, (ExampleReviewed.TYPE,)), settings)
    return {event.id: _row(event) for event in events_of(records) if isinstance(event, ExampleReviewed)}


def _row(event: ExampleReviewed) -> dict[str, Any]:
    return {**event.model_dump(), "review_id": event.id}


def _as_json(case: Case, blind: bool) -> dict[str, Any]:
    from dataclasses import asdict

    hidden = {"teacher_output", "confidence", "student_outputs"} if blind else set()
    return {name: value for name, value in asdict(case).items() if name not in hidden}
