"""`stillhouse gate`: what the gates said about a student, and the gate of a file of judged cases."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from stillhouse.cli._common import TASKS, AsJson, TasksFolder, Tenant, console, fail, show_json, show_table
from stillhouse.cli.watching import gate as show

if TYPE_CHECKING:
    from stillhouse.quality.responses import Case, Findings
    from stillhouse.tasks.responses import ResponseGate

EXIT_CODES = {"passed": 0, "failed": 1, "undecided": 2}  # 3: the cases could not be judged


class _ShowByDefault(TyperGroup):
    """`gate STUDENT` is `gate show STUDENT`."""

    default = "show"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # Any: typer carries a click of its own
        if args and args[0] not in self.commands and args[0] not in ("--help",):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_ShowByDefault,
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
    """The cases with the judge's preference where they had none; what it said is kept beside the file."""
    from dataclasses import replace

    from stillhouse.tasks.comparators.judge import Question, RubricJudge

    assert gate.judge is not None
    judge = RubricJudge(gate.judge)
    kept = path.with_name(f"{path.name}.{judge.version}.rulings.jsonl")
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    known: dict[str, Any] = {row["id"]: row["winner"] for row in map(json.loads, lines)}
    asked = [
        Question(one.id, one.input, one.student, one.teacher, one.context)
        for one in cases
        if one.preference is None and one.teacher is not None and one.id not in known
    ]
    try:
        with kept.open("a", encoding="utf-8") as file:
            for start in range(0, len(asked), 64):
                for ruling in await judge.rule(asked[start : start + 64]):
                    if ruling.winner is not None:
                        known[ruling.id] = ruling.winner
                        row = {"id": ruling.id, "winner": ruling.winner, "student_first": ruling.student_first}
                        file.write(json.dumps(row) + "\n")
                file.flush()
    finally:
        await judge.close()
    if asked and not known:
        raise ValueError(f"the judge at {gate.judge.base_url} gave no usable answer to any of {len(asked)} cases")
    return [replace(one, preference=one.preference or known.get(one.id)) for one in cases]


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
