"""Writes `report.json` and a `report.html` that needs nothing else."""

from __future__ import annotations

import json
import math
from html import escape
from pathlib import Path
from typing import Any, Final

from stillhouse.demo.figures import CONFIDENCE, WINDOW, Curves
from stillhouse.demo.plots import Line, plot
from stillhouse.demo.source import replace_text
from stillhouse.tasks import Task

JSON_FILE: Final = "report.json"
HTML_FILE: Final = "report.html"

STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c1f24; --quiet: #6a7280; --page: #ffffff; --rule: #e3e6ea;
  --student: #0f7b6c; --teacher: #b4532a; --level: #b3261e; --mark: #9aa3af; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --quiet: #9aa3af; --page: #14171b; --rule: #2b3037;
  --student: #3fc3ad; --teacher: #f0925f; --level: #ff6b61; --mark: #6a7280; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 760px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .2rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.said { color: var(--quiet); } .bad { color: var(--level); font-weight: 600; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--rule);
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
th { color: var(--quiet); font-weight: 500; }
figure { margin: 1.6rem 0; } figcaption { font-weight: 600; } small, .legend { color: var(--quiet); font-size: .8rem; }
.legend { margin: 0; } .key { margin-right: 1.2rem; } .key::before { content: ""; display: inline-block; width: 1.2em;
  border-top: 2px solid currentColor; margin-right: .4em; vertical-align: middle; }
.key.student::before, .key.bound::before { color: var(--student); } .key.bound::before { border-top-style: dotted; }
.key.teacher::before { color: var(--teacher); }
.key.level::before { color: var(--level); border-top-style: dashed; }
svg { width: 100%; height: auto; } .grid { stroke: var(--rule); } .mark { stroke: var(--mark); stroke-dasharray: 2 3; }
.tick, .note { fill: var(--quiet); font-size: 11px; } .note { fill: var(--ink); font-size: 10px; }
.line { fill: none; stroke-width: 1.8; } .line.student { stroke: var(--student); }
.line.teacher { stroke: var(--teacher); } .line.bound { stroke: var(--student); stroke-dasharray: 2 3; }
.line.level { stroke: var(--level); stroke-dasharray: 6 4; stroke-width: 1.2; }
.dot.student, .dot.bound { fill: var(--student); } .dot.teacher { fill: var(--teacher); } .dot.level { fill: none; }
"""


def write_report(folder: Path, figures: dict[str, Any], curves: Curves, task: Task, missing: str | None) -> None:
    """Write both files into `folder`, each at once. Raises `OSError`."""
    replace_text(folder / JSON_FILE, json.dumps(figures, indent=2, ensure_ascii=False) + "\n")
    replace_text(folder / HTML_FILE, page(figures, curves, task, missing))


def summary(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """What happened, as (name, value): for the terminal and the top of the page."""
    served, cost, agreed = figures["served_by"], figures["cost_per_1k"], figures["agreement"]
    drift, latency = figures["drift"], figures["latency_ms"]
    steady, waited = figures["about"]["agreement_without_changed_traffic"], figures["about"]["sender_waited_s"]
    gates = [f"{gate['stage']} {gate['verdict']}" for gate in figures["gate"]]
    detected = (
        f"detected {drift['detected_after_requests']:,} requests after the traffic changed"
        if drift["detected_after_requests"] is not None
        else "not detected"
    )
    back = ", route went back to the teacher" if drift["rolled_back"] else ""
    return [
        (
            "requests",
            f"{figures['requests']:,} sent, {figures['answered']:,} answered, {figures['lost']:,} lost"
            + (f"; held back for {waited:.0f} s: this machine answers no more" if waited >= 1 else ""),
        ),
        ("answered by", f"teacher {served['teacher']:,}, students {served['student']:,}"),
        (
            "duplicates",
            f"{figures['about']['duplicates_sent']} sent, {figures['duplicates_suppressed']} suppressed",
        ),
        (
            "agreement while live",
            f"{percent(agreed['estimate'])}, at least {percent(agreed['lower'])} with {percent(CONFIDENCE, 0)} "
            f"confidence ({agreed['n']:,} audits, those of the changed traffic until its detection included)",
        ),
        (
            "  without those",
            f"{percent(steady['estimate'])}, at least {percent(steady['lower'])} ({steady['n']:,} audits)",
        ),
        ("gates", ", ".join(gates) or "none"),
        (
            "USD per 1,000",
            f"teacher alone {usd(cost['teacher'])} ({figures['about']['teacher_price']['source']}); "
            f"with Stillhouse {usd(cost['net'])}, everything spent included",
        ),
        ("measured CPU per 1,000", f"teacher {usd(cost['teacher_cpu'])}, student {usd(cost['student_cpu'])}"),
        (
            "latency p50 / p99",
            "; ".join(f"{who} {ms(latency[who]['p50'])} / {ms(latency[who]['p99'])}" for who in ("teacher", "student")),
        ),
        ("drift", detected + back),
        ("students", ", ".join(_life(student) for student in figures["students"]) or "none"),
    ]


def page(figures: dict[str, Any], curves: Curves, task: Task, missing: str | None) -> str:
    """The whole HTML page."""
    about = figures["about"]
    late = ", ".join(about["late_groups"])
    changed = "No traffic changed." if figures["drift"]["injected_at"] is None else f"Arrived late: {late}."
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in summary(figures))
    failed = f'<p class="bad">Not everything was reached: {escape(missing)}.</p>' if missing else ""
    plots = "".join(_plots(curves, task))
    gates = _table(
        ("student", "stage", "verdict", "n", "teacher calls", "evidence (e-value)"),
        [
            (g["student"], g["stage"], g["verdict"], f"{g['n']:,}", f"{g['teacher_calls']:,}", f"{g['evidence']:.3g}")
            for g in figures["gate"]
        ],
    )
    lives = _table(
        ("student", "architecture", "MB", "live", "retired"),
        [
            (s["id"], s["architecture"], f"{s['bytes'] / 1e6:.2f}", s["live_at"] or "–", s["retired_at"] or "–")
            for s in figures["students"]
        ],
    )
    price = about["teacher_price"]
    notes = (
        f"Data: {about['data']}. {changed} The teacher's price of {usd(price['usd_per_call'])} per call is a declared "
        f"list price ({price['source']}), not a measurement; CPU time is measured, its price of "
        f"{usd(about['cpu_price']['usd_per_cpu_hour'])} per CPU-hour is declared. Every figure is from one run on one "
        "machine, folded from the events of the log."
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Stillhouse demo: {escape(about["task"])}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>Stillhouse demo: {escape(about["task"])}</h1>
<p class="said">{escape(notes)}</p>
{failed}
<table>{rows}</table>
<h2>What happened</h2>
{plots}
<h2>Gates</h2>
{gates}
<h2>Students</h2>
{lives}
</body>
</html>
"""


def _plots(curves: Curves, task: Task) -> list[str]:
    last, moments = curves.requests, curves.moments
    floor = 1 - task.gate.epsilon
    level: list[Line] = []
    if curves.watched:
        alarm = curves.watched[0].level
        level = [Line("alarm level", [(0.0, alarm), (float(last), alarm)], "level")]
    return [
        plot(
            "Share answered by the student",
            [Line("student", curves.student_share, "student")],
            moments,
            last=last,
            high=1.0,
            show=lambda value: f"{100 * value:.0f} %",
        ),
        plot(
            f"Agreement over the last {WINDOW} audits of the live student",
            [
                *(Line("agreement", watched.agreement, "student") for watched in curves.watched),
                *(Line("lower bound, 95 %", watched.lower, "bound") for watched in curves.watched),
                *([Line("floor", [(0.0, floor), (float(last), floor)], "level")] if curves.watched else []),
            ],
            moments,
            last=last,
            low=None,
            high=1.0,
            show=lambda value: f"{100 * value:.0f} %",
        ),
        plot(
            "Latency, median",
            [
                *(Line("teacher", piece, "teacher") for piece in curves.teacher_latency),
                *(Line("student", piece, "student") for piece in curves.student_latency),
            ],
            moments,
            last=last,
            y_title="milliseconds in the router",
        ),
        plot(
            "Cost so far",
            [
                Line("teacher alone (list price)", curves.cost_without, "teacher"),
                Line("with Stillhouse, overheads included", curves.cost_with, "student"),
            ],
            moments,
            last=last,
            show=lambda value: f"${value:g}",
        ),
        plot(
            "Drift statistic of the live student",
            [*(Line("log evidence of a change", found.statistic, "student") for found in curves.watched), *level],
            moments,
            last=last,
        ),
    ]


def percent(share: float | None, digits: int = 1) -> str:
    """`0.973` as `97.3 %`."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def usd(value: float | None) -> str:
    """Dollars with three significant digits."""
    if value is None:
        return "–"
    digits = 2 if value >= 1 or value <= 0 else 2 - math.floor(math.log10(value))
    return f"${value:,.{digits}f}"


def ms(value: float | None) -> str:
    """Milliseconds."""
    return "–" if value is None else f"{value:.3g} ms"


def _life(student: dict[str, Any]) -> str:
    state = "retired" if student["retired_at"] else "live" if student["live_at"] else "never live"
    return f"{student['id']} ({student['bytes'] / 1e6:.2f} MB, {state})"


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    if not rows:
        return "<p>None.</p>"
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
