"""`stillhouse advise`: whether a student is worth it, from a file of answers or a task's recorded ones."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from stillhouse.cli._common import HOME, TASKS, AsJson, Home, TasksFolder, Tenant, console, fail, show_json

if TYPE_CHECKING:
    from stillhouse.economics.advice import Advice, Case, Circumstances
    from stillhouse.economics.controller import Range
    from stillhouse.tasks import Task

INPUTS = ("input", "text")
OUTPUTS = ("teacher", "output", "label")
TIMES = ("time", "timestamp")


def advise(
    target: Annotated[
        str, typer.Argument(metavar="TASK|FILE", help="A task's name, a .jsonl(.gz), or a folder of them.")
    ],
    usd_per_call: Annotated[
        float | None, typer.Option(min=0, help="Price of a teacher call; the file's or task's.")
    ] = None,
    per_day: Annotated[
        float | None, typer.Option(min=0, help="Requests a day; from the times, where there are any.")
    ] = None,
    criticality: Annotated[
        Literal["normal", "high"] | None, typer.Option(help="`high`: no student may answer.")
    ] = None,
    tenant: Tenant = "default",
    home: Home = HOME,
    tasks: TasksFolder = TASKS,
    as_json: AsJson = False,
) -> None:
    """Measure recorded answers, and recommend: distil, maybe, or do not; what it would save, and why.

    A file's rows have `text` or `input`; `label`, `output` or `teacher`; and may have `context`, `time` and `cost`.
    """
    from dataclasses import asdict, replace

    from stillhouse.economics.advice import Circumstances
    from stillhouse.economics.advice import advise as advice_on

    path = Path(target)
    if path.exists():
        cases, told = _of_file(path), Circumstances()
    elif path.suffix in (".jsonl", ".gz") or "/" in target:
        fail(f"{target}: no such file or folder; name one, or a declared task.")
    else:
        cases, told = _of_task(f"{tenant}/{target}", home, tasks)
    options: dict[str, Any] = {"usd_per_call": usd_per_call, "per_day": per_day, "criticality": criticality}
    told = replace(told, **{name: value for name, value in options.items() if value is not None})
    found = advice_on(cases, told)
    if as_json:
        show_json(asdict(found))
        return
    _show(found, target)


def _of_file(path: Path) -> list[Case]:
    files = sorted(path.glob("*.jsonl*")) if path.is_dir() else [path]
    order = {"train": 0, "dev": 1, "test": 2}
    files.sort(key=lambda file: order.get(file.name.split(".")[0], 3))
    cases = [case for file in files for case in _rows(file)]
    if not cases:
        fail(f"{path}: holds no rows; give JSON lines with a text and an answer.")
    return cases


def _rows(file: Path) -> list[Case]:
    cases = []
    try:
        content = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        lines = content.decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError, EOFError) as error:
        fail(f"{file}: cannot be read ({error}); give UTF-8 JSON lines.")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                cases.append(_case(json.loads(line)))
            except ValueError as error:
                fail(f"{file}: line {number}: {error}")
    return cases


def _case(row: Any) -> Case:
    """A row of a file. Raises `ValueError` in one sentence."""
    from stillhouse.economics.advice import Case

    if not isinstance(row, dict):
        raise ValueError("not an object; write one with a text and an answer.")
    text = next((row[name] for name in INPUTS if isinstance(row.get(name), str)), None)
    answer = next((row[name] for name in OUTPUTS if row.get(name) is not None), None)
    if not text or answer is None:
        raise ValueError(f"needs {' or '.join(INPUTS)}, and {' or '.join(OUTPUTS)}.")
    context = row.get("context")
    time = next((row[name] for name in TIMES if isinstance(row.get(name), str)), None)
    cost = row.get("cost")
    return Case(
        input=f"{context}\n{text}" if isinstance(context, str) and context else text,
        output=answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False, sort_keys=True),
        time=_time(time) if time is not None else None,
        usd=float(cost) if isinstance(cost, int | float) and not isinstance(cost, bool) else None,
    )


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is no time; write it as 2026-11-23T12:00:00Z.") from None
    return time if time.utcoffset() is not None else time.replace(tzinfo=UTC)


def _of_task(key: str, home: Path, folder: Path) -> tuple[list[Case], Circumstances]:
    from stillhouse.economics.advice import Case, Circumstances
    from stillhouse.events import now
    from stillhouse.store import Store
    from stillhouse.tasks import TaskFileError, load_tasks

    try:
        declared = load_tasks(folder)
    except TaskFileError as error:
        fail(str(error))
    task = declared.get(key)
    if task is None:
        fail(
            f"{folder} declares no task {key!r}, and there is no such file; known are {', '.join(declared) or 'none'}."
        )
    store = Store(home / "store")
    rows = store.examples(key, samples=("full", "audit")).to_pylist()
    if not rows:
        fail(f"Nothing of {key} is recorded in {home / 'store'} yet: send requests, or name a file of answers.")
    price = task.usd_per_call(now())
    cases = [
        Case(row["input"], row["output"], row["time"], price, policy=row["provenance"] == "policy") for row in rows
    ]
    return cases, Circumstances(
        criticality=task.criticality,
        usd_per_call=price,
        per_day=_per_day(store, task),
        epsilon=task.gate.epsilon,
        alpha=task.gate.alpha,
        min_coverage=task.gate.min_coverage,
        pi=task.audit.pi,
        horizon_requests=task.budget.horizon_requests,
    )


def _per_day(store: Any, task: Task) -> float | None:
    """Requests a day in the last week, from the ledger; None where there is less than an hour of them."""
    from datetime import timedelta

    from stillhouse.events import now

    since = now() - timedelta(days=7)
    count = store.count_ledger(task.key, since)
    times = store.examples(task.key, since=since, limit=1).to_pylist()
    length = (now() - times[0]["time"]).total_seconds() / 86_400 if times else 0.0
    return count / length if length > 1 / 24 else None


def _show(found: Advice, target: str) -> None:
    from rich.text import Text

    out = console()
    colour = {"distil": "bold green", "maybe": "bold yellow", "do not": "bold red"}[found.recommendation]
    out.print(Text(found.recommendation, style=colour), Text(f"  {target}: {found.cases:,} answers"), sep="")
    if found.student != "none":
        out.print(f"student: {found.student}")
    if found.saving_share is not None and found.student != "none":
        out.print(f"saves {_range(found.saving_share, 100)} % of the teacher's cost, after audits", soft_wrap=True)
        if found.saving_usd_per_month is not None:
            out.print(f"      {_range(found.saving_usd_per_month)} USD a month", soft_wrap=True)
        if found.net_usd is not None:
            out.print(f"      {_range(found.net_usd)} USD over the horizon, after training and gates", soft_wrap=True)
        if found.usd_per_call is None:
            out.print("      in USD: not known without a price (--usd-per-call)", soft_wrap=True)
    for reason in found.reasons:
        out.print(f"- {reason}", soft_wrap=True, markup=False)


def _range(found: Range, factor: float = 1.0) -> str:
    return f"{found.estimate * factor:,.3g} ({found.lower * factor:,.3g} to {found.upper * factor:,.3g})"
