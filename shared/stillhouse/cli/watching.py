"""`stillhouse alerts`, `routes`, `students` and `gate`: what the log says about students and who serves."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from stillhouse.cli._common import (
    HOME,
    AsJson,
    Home,
    OneTask,
    Tenant,
    console,
    fail,
    percent,
    run,
    show_json,
    show_table,
    when,
)
from stillhouse.cli.connect import settings_of_running

if TYPE_CHECKING:
    from stillhouse.events import Event, GateDecided
    from stillhouse.settings import Settings


def alerts(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on showing new ones until Ctrl-C.")] = False,
    task: OneTask = None,
    tenant: Tenant = "default",
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """Show drift alerts: broken promises, suspicions, and their ends. With --json, one a line."""
    from rich.markup import escape

    from stillhouse.cli.reading import RawRecord, events_of, follow_records, read_records
    from stillhouse.events import DriftCleared, DriftDetected, DriftSuspected

    settings = settings_of_running(home)
    topics = (DriftDetected.TYPE, DriftSuspected.TYPE, DriftCleared.TYPE)
    shown = 0

    def show(records: list[RawRecord]) -> None:
        nonlocal shown
        for event in events_of(records):
            if not _wanted(event, tenant, task):
                continue
            shown += 1
            if as_json:
                typer.echo(json.dumps({"type": event.TYPE, **event.model_dump(mode="json")}))
            elif isinstance(event, DriftDetected):
                console().print(
                    f"{when(event.time)}  [bold red]drift[/bold red]    {event.task_key}: {event.student_id} agrees on "
                    f"{percent(event.estimate)} of the last {event.window} audits "
                    f"({percent(event.lower)} to {percent(event.upper)}); statistic {event.statistic:.1f} over "
                    f"{event.alarm_level:.1f} after {event.audits:,} audits; runbook {event.runbook}",
                    soft_wrap=True,
                )
            elif isinstance(event, DriftSuspected):
                audits = "" if event.audit_pi is None else f"; audits at {percent(event.audit_pi)} until it is cleared"
                console().print(
                    f"{when(event.time)}  [bold yellow]suspect[/bold yellow]  {event.task_key}: "
                    f"{event.kind.replace('_', ' ')} of {event.student_id}: {escape(event.note)}{audits}; "
                    f"runbook {event.runbook}",
                    soft_wrap=True,
                )
            elif isinstance(event, DriftCleared) and event.suspicion is not None:
                console().print(
                    f"{when(event.time)}  [bold green]cleared[/bold green]  {event.task_key}: "
                    f"{event.suspicion.replace('_', ' ')}: audits of {event.student_id} showed no loss",
                    soft_wrap=True,
                )
            elif isinstance(event, DriftCleared):
                console().print(
                    f"{when(event.time)}  [bold green]cleared[/bold green]  {event.task_key}: {event.student_id} "
                    f"is live instead of {event.previous_student_id}",
                    soft_wrap=True,
                )

    async def watch() -> None:
        if not follow:
            show(await read_records(settings.kafka, topics))
            return
        async for record in follow_records(settings.kafka, topics):
            show([record])

    run(watch(), settings)
    if not shown and not as_json and not follow:
        console().print("No drift was ever detected.")


def routes(task: OneTask = None, tenant: Tenant = "default", home: Home = HOME, as_json: AsJson = False) -> None:
    """Show who serves each task: stage, live student, candidate, and why."""
    from stillhouse.cli.lives import latest_routes
    from stillhouse.events import RouteChanged

    settings = settings_of_running(home)
    found = list(latest_routes(_events(settings, (RouteChanged.TYPE,), tenant, task)).values())
    if as_json:
        show_json([route.model_dump(mode="json") for route in found])
        return
    show_table(
        ["task", "stage", "live", "candidate", "version", "since", "why"],
        [
            [
                route.task_key,
                route.stage + (" (pinned)" if route.pinned else ""),
                route.live.student_id if route.live else None,
                f"{route.candidate.student_id} ({route.candidate_stage})" if route.candidate else None,
                route.version,
                when(route.time),
                route.reason,
            ]
            for route in found
        ],
        "No route was ever changed: the teachers answer everything.",
    )


def students(task: OneTask = None, tenant: Tenant = "default", home: Home = HOME, as_json: AsJson = False) -> None:
    """Show every student: what it is, how far it came, what its gates said, and how it is watched."""
    from stillhouse.cli.lives import TOPICS, lives, mark_erased
    from stillhouse.cli.run_length import run_lengths

    settings = settings_of_running(home)
    found = mark_erased(lives(_events(settings, TOPICS, tenant, task)), home)
    watched = run_lengths(settings, found)
    if as_json:
        show_json(
            [
                life.as_json() | ({"drift": watched[life.student_id].as_json()} if life.student_id in watched else {})
                for life in found
            ]
        )
        return
    show_table(
        ["student", "architecture", "state", "MB", "trained", "offline", "shadow", "canary"],
        [
            [
                life.student_id,
                life.architecture,
                life.state + (" (trained on erased)" if life.trained_on_erased else ""),
                None if life.bytes is None else life.bytes / 1e6,
                None if life.trained_at is None else when(life.trained_at),
                *(life.verdicts[stage].verdict if stage in life.verdicts else None for stage in _STAGES),
            ]
            for life in found
        ],
        "No student was trained yet.",
    )
    for student_id, length in watched.items():
        console().print(f"{student_id}: {length.sentence()}", soft_wrap=True)


def gate(
    student: Annotated[str, typer.Argument(help="The student's id, or how it begins.")],
    home: Home = HOME,
    as_json: AsJson = False,
) -> None:
    """Show what the gates said about a student, stage by stage, condition by condition."""
    from stillhouse.cli.lives import TOPICS, lives

    settings = settings_of_running(home)
    found = [life for life in lives(_events(settings, TOPICS, None, None)) if life.student_id.startswith(student)]
    exact = [life for life in found if life.student_id == student]
    if not found:
        fail(f"There is no student {student!r}; `stillhouse students` names them.")
    if len(found) > 1 and not exact:
        fail(f"{student!r} begins the ids of {len(found)} students: {', '.join(life.student_id for life in found)}.")
    life = (exact or found)[0]
    decided = [life.verdicts[stage] for stage in _STAGES if stage in life.verdicts]
    if as_json:
        show_json({**life.as_json(), "gates": [verdict.model_dump(mode="json") for verdict in decided]})
        return
    console().print(f"[bold]{life.student_id}[/bold]  {life.architecture}, {life.state}", soft_wrap=True)
    if not decided:
        console().print("No gate has decided about it yet.")
    for verdict in decided:
        _show_verdict(verdict)


_STAGES = ("offline", "shadow", "canary")
_COLOURS = {"passed": "green", "failed": "red", "undecided": "yellow"}


def _show_verdict(decided: GateDecided) -> None:
    from rich.markup import escape

    more = f"; about {decided.needs_more:,} more cases are needed" if decided.needs_more else ""
    more += f", for about ${decided.costs_usd:,.2f}" if more and decided.costs_usd is not None else ""
    console().print(
        f"\n[bold]{decided.stage}[/bold]  [{_COLOURS[decided.verdict]}]{decided.verdict}[/] "
        f"on {decided.n:,} cases, {when(decided.time)}: {escape(decided.reason)}{more}",
        soft_wrap=True,
    )
    bounds = f" ({percent(decided.lower)} to {percent(decided.upper)})" if decided.lower is not None else ""
    facts = [
        f"agreement {percent(decided.estimate)}{bounds}" if decided.estimate is not None else "",
        f"threshold {decided.threshold:.3f}" if decided.threshold is not None else "",
        f"would serve {percent(decided.coverage)}" if decided.coverage is not None else "",
        f"e-value {decided.evidence:,.3g} at alpha {decided.alpha:.3g}",
        f"{decided.teacher_calls:,} teacher calls",
    ]
    console().print("  " + ", ".join(fact for fact in facts if fact), soft_wrap=True)
    if decided.conditions:
        show_table(
            ["  condition", "verdict", "floor", "ceiling", "estimate", "lower", "upper", "n", "needs", "note"],
            [
                [f"  {c.name}", c.verdict, c.floor, c.ceiling, c.estimate, c.lower, c.upper, c.n, c.needs_more, c.note]
                for c in decided.conditions
            ],
            "",
        )
    if decided.report_uri:
        console().print(f"  report {decided.report_uri}", soft_wrap=True)


def _events(settings: Settings, topics: tuple[str, ...], tenant: str | None, task: str | None) -> list[Event]:
    from stillhouse.cli.history import with_history
    from stillhouse.cli.reading import events_of, read_records

    records = run(read_records(settings.kafka, topics), settings)
    events = with_history(events_of(records), settings.home, topics)
    return [event for event in events if tenant is None or _wanted(event, tenant, task)]


def _wanted(event: Event, tenant: str, task: str | None) -> bool:
    return event.tenant == tenant and (task is None or event.task == task)
