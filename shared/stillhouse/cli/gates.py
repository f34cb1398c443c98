"""`stillhouse gate`: what the gates said about a student, and the gate of a file of judged cases."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stillhouse.cli._common import (
    HOME,
    TASKS,
    AsJson,
    Home,
    ShowByDefault,
    TasksFolder,
    Tenant,
    console,
    fail,
    run,
    show_json,
    show_table,
)
from stillhouse.cli.watching import gate as show

if TYPE_CHECKING:
    from stillhouse.quality.responses import Case, Findings
    from stillhouse.review.answers import Answered
    from stillhouse.tasks import Task
    from stillhouse.tasks.responses import ResponseGate

EXIT_CODES = {"passed": 0, "failed": 1, "undecided": 2}  # 3: the cases could not be judged


app = typer.Typer(
    cls=ShowByDefault,
    no_args_is_help=True,
    help="What the gates said about a student (gate STUDENT), and the gate of a file of cases (gate evaluate FILE).",
)
app.command(name="show", help="Show what the gates said about a student; `gate STUDENT` does the same.")(show)


@app.command()
def evaluate(
    cases: Annotated[Path, typer.Argument(help="JSONL: one case a line, with input, student and what was judged.")],
    conditions: Annotated[Path | None, typer.Option(help="TOML file of conditions, prices, comparator, judge.")] = None,
    task: Annotated[str | None, typer.Option(help="A declared task: its comparator, its floor, its price.")] = None,
    tenant: Tenant = "default",
    tasks: TasksFolder = TASKS,
    home: Annotated[Path, typer.Option(envvar="STILLHOUSE_HOME", help="Holds the encoder of `embedding`.")] = Path(
        ".stillhouse"
    ),
    report: Annotated[Path | None, typer.Option(help="Write the HTML report here.")] = None,
    as_json: AsJson = False,
) -> None:
    """Judge a file of cases, of answers in free words. Exit status 0: passed, 1: failed, 2: undecided, 3: bad input."""
    from stillhouse.quality.response_cases import read_cases
    from stillhouse.quality.responses import judge_responses
    from stillhouse.tasks.comparators import comparison_of

    try:
        gate = _gate(conditions, task, tenant, tasks)
        read = read_cases(cases)
        judged = asyncio.run(_ruled(read.cases, gate, cases)) if gate.judge is not None else read.cases
        findings = judge_responses(judged, gate, comparison_of(gate.comparator, home).same)
        facts: dict[str, object] = {
            "cases": len(read.cases),
            "file sha256": read.sha256,
            "alpha of each condition": gate.alpha,
        }
        if read.not_random:
            facts["left out"] = f"{read.not_random} cases that were not drawn at random"
        if report is not None:
            _write(report, findings, facts)
    except ValueError as error:
        fail(f"{error}.", code=3)
    if as_json:
        show_json(
            {
                "verdict": findings.verdict,
                "reason": findings.reason,
                "needs_more": findings.needs_more,
                "costs_usd": findings.costs_usd,
                **facts,
                "conditions": [one.model_dump(mode="json") for one in findings.conditions],
            }
        )
    else:
        _show(findings, facts)
    sys.exit(EXIT_CODES[findings.verdict])


@app.command()
def export(
    student: Annotated[str, typer.Argument(help="A student whose gate asks people (a task that generates).")],
    file: Annotated[Path, typer.Argument(help="JSONL, written anew: fill in `said` (and `minutes`) of each row.")],
    most: Annotated[int | None, typer.Option(min=1, help="Rows at most; all that are open by default.")] = None,
    tasks: TasksFolder = TASKS,
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """Write what people are to judge of a student's answers: randomly drawn, without who wrote what."""
    import json

    from stillhouse.review.answers import read_opinions, sheet

    folder, answers, task = _judged(home, tasks, student)
    rows = sheet(answers, read_opinions(folder).keys(), task.gate.questions, task.gate.people_share, most)
    try:
        file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    except OSError as error:
        fail(f"{file}: cannot be written ({error.strerror}).")
    if as_json:
        show_json({"file": str(file), "rows": len(rows), "answers": len(answers)})
        return
    console().print(
        f"{len(rows)} rows in {file}, of {len(answers)} answers. Erasing does not reach this file: remove it when it "
        f"is done. Take it back with `stillhouse gate import {student} {file}`.",
        soft_wrap=True,
        markup=False,
    )


@app.command("import")
def import_(
    student: Annotated[str, typer.Argument(help="The student that the sheet is of.")],
    file: Annotated[Path, typer.Argument(help="A sheet of `gate export`, filled in.")],
    reviewer: Annotated[str | None, typer.Option(help="Who says so; the user of this machine by default.")] = None,
    tasks: TasksFolder = TASKS,
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """Take what people said of a student's answers; its gate looks again. The same file again changes nothing."""
    from stillhouse.cli.connect import publish_events, settings_of_running
    from stillhouse.cli.review import who
    from stillhouse.events import CostIncurred, Event, follow_id
    from stillhouse.review.answers import add_opinions, opinions_in

    folder, answers, task = _judged(home, tasks, student)
    try:
        said = opinions_in(file.read_text(encoding="utf-8"), {one.id for one in answers}, reviewer or who())
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file}: cannot be read ({error}).")
    except ValueError as error:
        fail(f"{file}: {error}.")
    new = add_opinions(folder, said)
    costs: list[Event] = []
    for one in new:
        minutes = task.review.minutes_per_case if one.minutes is None else one.minutes
        cause = f"{student}/{one.about}/{one.id}/{one.reviewer}/{one.said}"
        costs.append(
            CostIncurred(
                id=follow_id(cause, CostIncurred.TYPE, "review"),
                tenant=task.tenant,
                task=task.name,
                cause_id=cause,
                kind="review",
                usd=minutes / 60 * task.review.usd_per_hour,
                human_minutes=minutes,
                note=f"{minutes:g} minutes of a person, answers of {student}",
            )
        )
    settings = settings_of_running(home)
    run(publish_events(settings, costs), settings)
    if as_json:
        show_json({"file": str(file), "taken": len(new), "known": len(said) - len(new)})
        return
    console().print(f"{len(new)} taken, {len(said) - len(new)} known already.")


def _judged(home: Path, tasks: Path, student: str) -> tuple[Path, list[Answered], Task]:
    """A student's folder of answers, what is in it, and its task."""
    from stillhouse.review.answers import folder_of_student, read_answers, task_of
    from stillhouse.tasks import TaskFileError, load_tasks

    folder = folder_of_student(home, student)
    answers, key = read_answers(folder), task_of(folder)
    if key is None:
        fail(f"No gate keeps answers of a student {student!r} in {home}; `stillhouse students` lists the students.")
    try:
        task = load_tasks(tasks).get(key)
    except TaskFileError as error:
        fail(str(error))
    if task is None:
        fail(f"The student is of {key}, which {tasks} does not declare; name its folder with --tasks.")
    return folder, answers, task


def _gate(conditions: Path | None, task: str | None, tenant: str, folder: Path) -> ResponseGate:
    from datetime import UTC, datetime

    from stillhouse.tasks import TaskFileError, load_tasks
    from stillhouse.tasks.responses import DEFAULTS, Agreement, Prices, ResponseGate, read_response_gate

    if conditions is not None and task is not None:
        raise ValueError("give --conditions or --task, not both: each says what must hold")
    if conditions is not None:
        return read_response_gate(conditions)
    if task is None:
        return ResponseGate()
    try:
        declared = load_tasks(folder)
    except TaskFileError as error:
        raise ValueError(str(error).rstrip(".")) from None
    found = declared.get(f"{tenant}/{task}")
    if found is None:
        raise ValueError(f"no task {tenant}/{task} in {folder}; known are {', '.join(sorted(declared)) or 'none'}")
    floor = Agreement(kind="agreement", floor=1 - found.gate.epsilon)
    return ResponseGate(
        alpha=found.gate.alpha,
        condition=tuple(floor if one.kind == "agreement" else one for one in DEFAULTS),
        comparator=found.gate.comparator,
        prices=Prices(teacher_usd=found.usd_per_call(datetime.now(UTC))),
    )


async def _ruled(cases: list[Case], gate: ResponseGate, path: Path) -> list[Case]:
    """The cases with the judge's word where they had none; what it said is kept beside the file."""
    from dataclasses import replace

    from stillhouse.tasks.comparators.judge import Question
    from stillhouse.tasks.comparators.rulings import rule_all
    from stillhouse.tasks.responses import Hallucination

    assert gate.judge is not None
    by_judge = any(isinstance(one, Hallucination) and one.check == "judge" for one in gate.condition)
    pairs = [
        Question(one.id, one.input, one.student, one.teacher, one.context)
        for one in cases
        if one.preference is None and one.teacher is not None
    ]
    unchecked = [
        Question(one.id, one.input, one.student, "", one.context) for one in cases if by_judge and one.grounded is None
    ]
    said = await rule_all(gate.judge, path.parent, path.name, pairs, unchecked)
    return [
        replace(
            one,
            preference=one.preference or said.winners.get(one.id),
            grounded=said.grounded.get(one.id) if one.grounded is None else one.grounded,
        )
        for one in cases
    ]


def _show(findings: Findings, facts: dict[str, object]) -> None:
    from stillhouse.quality.page import needed, number

    rows = [
        [
            one.name,
            one.verdict,
            f"≥ {number(one.floor)}" if one.ceiling is None else f"≤ {number(one.ceiling)}",
            number(one.estimate),
            f"{number(one.lower)} – {number(one.upper)}" if one.lower is not None else "",
            one.n,
            needed(one),
            one.note,
        ]
        for one in findings.conditions
    ]
    show_table(["condition", "verdict", "wanted", "estimate", "bounds", "cases", "still needed", ""], rows, "")
    console().print(f"{findings.verdict}: {findings.reason}.", soft_wrap=True, markup=False)
    if findings.costs_usd:
        console().print(f"What is still needed costs about ${findings.costs_usd:,.2f}.", soft_wrap=True, markup=False)
    console().print(", ".join(f"{name}: {value}" for name, value in facts.items()), soft_wrap=True, markup=False)


def _write(path: Path, findings: Findings, facts: dict[str, object]) -> None:
    from stillhouse.quality.page import page

    try:
        path.write_text(
            page("Response gate", findings.verdict, [f"{findings.reason}."], findings.conditions, facts),
            encoding="utf-8",
        )
    except OSError as error:
        raise ValueError(f"{path} cannot be written ({error.strerror})") from None
