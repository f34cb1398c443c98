"""`stillhouse ledger` and `ledger explain`: what was spent and saved, and why, from the store alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
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
    percent,
    show_json,
    show_table,
    when,
)

if TYPE_CHECKING:
    from stillhouse.economics import Savings
    from stillhouse.tasks import Task

app = typer.Typer(invoke_without_command=True)

COLUMNS = (
    "task",
    "requests",
    "by student",
    "teacher alone",
    "spent",
    "overheads",
    "saved",
    "95 % interval",
    "per 1,000: teacher",
    "net",
    "teacher CPU",
    "student CPU",
)


@app.callback()
def ledger(
    context: typer.Context,
    task: OneTask = None,
    tenant: Tenant = "default",
    by: Annotated[
        Literal["task", "tenant", "day"], typer.Option(help="What a line is for; tenants are shown all.")
    ] = "task",
    home: Home = HOME,
    tasks: TasksFolder = TASKS,
    as_json: AsJson = False,
) -> None:
    """Show what each task cost and saved, net of audits, training, gates, storage and all else, in USD."""
    if context.invoked_subcommand is not None:
        return
    from stillhouse.economics import summarise
    from stillhouse.store import Store

    entries = Store(home / "store").ledger(f"{tenant}/{task}" if task is not None else None).to_pylist()
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for entry in entries:
        if by == "tenant":
            groups.setdefault((entry["tenant"],), []).append(entry)
        elif entry["tenant"] == tenant:
            key = f"{tenant}/{entry['task']}"
            groups.setdefault((key, *([f"{entry['time']:%Y-%m-%d}"] if by == "day" else [])), []).append(entry)
    declared = _declared(tasks)
    shown, rows = [], []
    for group in sorted(groups):
        savings = summarise(groups[group])
        said: dict[str, object] = {
            "tenant" if by == "tenant" else "task": group[0],
            **({"day": group[1]} if by == "day" else {}),
        }
        said |= _as_json(savings, declared.get(group[0]))
        shown.append(said)
        rows.append([*group, *_cells(savings, declared.get(group[0]))])
    if as_json:
        show_json(shown)
        return
    first = {"task": ["task"], "tenant": ["tenant"], "day": ["task", "day"]}[by]
    show_table([*first, *COLUMNS[1:]], rows, f"Nothing is in the ledger of {home / 'store'} yet.")
    for key in sorted({group[0] for group in groups} & declared.keys()):
        console().print(_prices(declared[key]), soft_wrap=True, markup=False)
    if any(row[-5] is not None for row in rows):
        console().print(
            "The interval is for what the teacher would have cost where the student answered: audits measured it.",
            soft_wrap=True,
        )


@app.command("explain")
def explain(
    task: Annotated[str | None, typer.Argument(help="The task's name; all by default.")] = None,
    day: Annotated[str | None, typer.Option(help="Only this day (UTC), such as 2026-11-23.")] = None,
    tenant: Tenant = "default",
    home: Home = HOME,
    tasks: TasksFolder = TASKS,
    as_json: AsJson = False,
) -> None:
    """Tell in words what was spent on what, and every decision: budgets, routes, verdicts, alarms, limits, prices."""
    from stillhouse.economics.explain import told
    from stillhouse.store import Store

    if day is not None:
        try:
            datetime.strptime(day, "%Y-%m-%d")
        except ValueError:
            fail(f"--day is {day!r}; write a date such as 2026-11-23.")
    store, declared = Store(home / "store"), _declared(tasks)
    entries: Sequence[Mapping[str, Any]] = store.ledger(f"{tenant}/{task}" if task else None).to_pylist()
    keys = {f"{entry['tenant']}/{entry['task']}" for entry in entries if entry["tenant"] == tenant}
    keys |= {f"{tenant}/{task}"} if task else {key for key in declared if key.startswith(f"{tenant}/")}
    lines = []
    for key in sorted(keys):
        of_task = [entry for entry in entries if f"{entry['tenant']}/{entry['task']}" == key]
        routes = store.routes(key).to_pylist()
        lines += told(
            key,
            of_task,
            store.decisions(key).to_pylist(),
            routes,
            store.evaluations(key).to_pylist(),
            declared.get(key),
        )
    lines = [line for line in lines if day is None or f"{line.time:%Y-%m-%d}" == day]
    if as_json:
        show_json([{"time": line.time, "task": line.task_key, "kind": line.kind, "text": line.text} for line in lines])
        return
    for line in lines:
        console().print(f"{when(line.time)}  {line.task_key}  {line.text}", soft_wrap=True, markup=False)
    if not lines:
        console().print(f"There is nothing to explain in {home / 'store'} yet.", soft_wrap=True)


def _as_json(savings: Savings, task: Task | None) -> dict[str, object]:
    from dataclasses import asdict

    from stillhouse.economics import Price
    from stillhouse.events import now

    said: dict[str, object] = {name: value for name, value in asdict(savings).items() if name != "series"}
    net = savings.net
    said["net"] = asdict(net) if net is not None else None
    hour = _usd_per_cpu_hour(task)
    said |= {"cost_per_1k": asdict(savings.cost_per_1k(hour)), "usd_per_cpu_hour": hour}
    if task is not None:
        said |= {"teacher_price": asdict(Price(task.usd_per_call(now()), task.teacher.price_source))}
    return said


def _cells(savings: Savings, task: Task | None) -> list[object]:
    costs, net = savings.cost_per_1k(_usd_per_cpu_hour(task)), savings.net
    return [
        savings.requests,
        percent(savings.served_by["student"] / savings.requests if savings.requests else None),
        savings.teacher_only_usd if savings.sampled is None else savings.sampled.estimate,
        savings.spent_usd,
        savings.overhead_usd,
        savings.net_saving_usd if net is None else net.estimate,
        f"{net.lower:,.4g} to {net.upper:,.4g}" if net is not None else None,
        costs.teacher,
        costs.net,
        costs.teacher_cpu,
        costs.student_cpu,
    ]


def _prices(task: Task) -> str:
    from stillhouse.economics import Price
    from stillhouse.events import now

    price = Price(task.usd_per_call(now()), task.teacher.price_source)
    limits = [f"{usd:g} USD a {period}" for period in ("day", "month") if (usd := task.budget.limits.usd(period))]
    limit = " and ".join(limits) if limits else "none"
    hour = _usd_per_cpu_hour(task)
    return f"{task.key}: the teacher's price is {price}; CPU time at {hour:g} USD an hour; limit: {limit}."


def _usd_per_cpu_hour(task: Task | None) -> float:
    from stillhouse.events import now
    from stillhouse.tasks import Budget

    return Budget().usd_per_cpu_hour if task is None else task.usd_per_cpu_hour(now())


def _declared(folder: Path) -> dict[str, Task]:
    """The declared tasks, for their prices; none where the files are not at hand, the amounts are in the ledger."""
    from stillhouse.tasks import TaskFileError, load_tasks

    try:
        return load_tasks(folder)
    except TaskFileError:
        return {}
