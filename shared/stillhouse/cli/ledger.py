"""`stillhouse ledger`: what was spent and saved, from the store. It needs no running platform."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.cli._common import (
    HOME,
    TASKS,
    AsJson,
    Home,
    OneTask,
    TasksFolder,
    Tenant,
    console,
    percent,
    show_json,
    show_table,
)

if TYPE_CHECKING:
    from stillhouse.tasks import Task


def ledger(
    task: OneTask = None,
    tenant: Tenant = "default",
    home: Home = HOME,
    tasks: TasksFolder = TASKS,
    as_json: AsJson = False,
) -> None:
    """Show what each task cost and saved, net of audits, training and gates, in USD."""
    from dataclasses import asdict

    from stillhouse.economics import Price, summarise
    from stillhouse.store import Store
    from stillhouse.tasks import Budget

    entries = Store(home / "store").ledger(f"{tenant}/{task}" if task is not None else None).to_pylist()
    by_task: dict[str, list[dict[str, object]]] = {}
    for entry in entries:
        if entry["tenant"] == tenant:
            by_task.setdefault(f"{tenant}/{entry['task']}", []).append(entry)
    declared = _declared(tasks)
    shown, rows, notes = [], [], []
    for key in sorted(by_task):
        savings = summarise(by_task[key])
        budget = declared[key].budget if key in declared else Budget()
        costs = savings.cost_per_1k(budget.usd_per_cpu_hour)
        said: dict[str, object] = {"task": key}
        said |= {name: value for name, value in asdict(savings).items() if name != "series"}
        said |= {"cost_per_1k": asdict(costs), "usd_per_cpu_hour": budget.usd_per_cpu_hour}
        if key in declared:
            price = Price(declared[key].teacher.usd_per_call, declared[key].teacher.price_source)
            said |= {"teacher_price": asdict(price)}
            notes.append(f"{key}: the teacher's price is {price}; CPU time at {budget.usd_per_cpu_hour:g} USD an hour.")
        shown.append(said)
        share = savings.served_by["student"] / savings.requests if savings.requests else None
        rows.append(
            [
                key,
                savings.requests,
                percent(share),
                savings.teacher_only_usd,
                savings.spent_usd,
                savings.overhead_usd,
                savings.net_saving_usd,
                costs.teacher,
                costs.net,
                costs.teacher_cpu,
                costs.student_cpu,
            ]
        )
    if as_json:
        show_json(shown)
        return
    show_table(
        [
            "task",
            "requests",
            "by student",
            "teacher alone",
            "spent",
            "overheads",
            "saved",
            "per 1,000: teacher",
            "net",
            "teacher CPU",
            "student CPU",
        ],
        rows,
        f"Nothing is in the ledger of {home / 'store'} yet.",
    )
    for note in notes:
        console().print(note, soft_wrap=True, markup=False)


def _declared(folder: Path) -> dict[str, Task]:
    """The declared tasks, for their prices; none where the files are not at hand, the amounts are in the ledger."""
    from stillhouse.tasks import TaskFileError, load_tasks

    try:
        return load_tasks(folder)
    except TaskFileError:
        return {}
