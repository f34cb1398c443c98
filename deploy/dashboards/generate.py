"""Writes `loop.json`, the Grafana dashboard of the loop, from the metric names in code.

Run `python deploy/dashboards/generate.py` after a change here or in `stillhouse.telemetry.names`; a test compares.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from stillhouse.telemetry import names

FILE: Final = Path(__file__).with_name("loop.json")
SOURCE: Final = {"type": "prometheus", "uid": "prometheus"}
TASK: Final = 'task=~"$task"'
ESTABLISHED: Final = "student|below_threshold|student_failed|policy"  # reasons of requests that may be audited

Query = tuple[str, str]  # PromQL, legend


def document() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    for title, row in _rows():
        y = max((panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels), default=0)
        panels.append(_place({"type": "row", "title": title, "collapsed": False, "panels": []}, 0, y, 24, 1))
        width = 24 // len(row)
        panels += [_place(panel, i * width, y + 1, width, 8) for i, panel in enumerate(row)]
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
    return {
        "title": "Stillhouse: the loop",
        "uid": "stillhouse-loop",
        "tags": ["stillhouse"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": [_task_variable()]},
        "annotations": {"list": [_drift_annotation()]},
        "panels": panels,
    }


def _rows() -> list[tuple[str, list[dict[str, Any]]]]:
    n = names
    return [
        (
            "Who answers",
            [
                _series(
                    "Answers per second",
                    "reqps",
                    (f"sum by (served_by) (rate({n.REQUESTS}{{{TASK}}}[$__rate_interval]))", "{{served_by}}"),
                ),
                _series(
                    "Share of the student",
                    "percentunit",
                    (
                        f'sum by (task) (rate({n.REQUESTS}{{{TASK}, served_by="student"}}[$__rate_interval]))'
                        f" / sum by (task) (rate({n.REQUESTS}{{{TASK}}}[$__rate_interval]))",
                        "{{task}}",
                    ),
                ),
                _states("Stage", (f"max by (task, stage) ({n.ROUTE_STAGE}{{{TASK}}}) == 1", "{{task}} {{stage}}")),
            ],
        ),
        (
            "How well",
            [
                _series(
                    "Latency of answers",
                    "s",
                    *(
                        (
                            f"histogram_quantile({q}, sum by (le, served_by) "
                            f"(rate({n.REQUEST_LATENCY}_bucket[$__rate_interval])))",
                            f"{{{{served_by}}}} p{q * 100:g}",
                        )
                        for q in (0.5, 0.99)
                    ),
                ),
                _series(
                    "Calls of models, p99",
                    "s",
                    (
                        "histogram_quantile(0.99, sum by (le, model_kind) "
                        f"(rate({n.MODEL_CALL}_bucket[$__rate_interval])))",
                        "{{model_kind}}",
                    ),
                ),
                _series(
                    "Errors and fallbacks per second",
                    "reqps",
                    (
                        f'sum by (task, reason) (rate({n.REQUESTS}{{{TASK}, status="error"}}[$__rate_interval]))',
                        "{{task}} {{reason}}",
                    ),
                    (
                        "sum by (task, reason) "
                        f'(rate({n.REQUESTS}{{{TASK}, reason="student_failed"}}[$__rate_interval]))',
                        "{{task}} {{reason}}",
                    ),
                ),
            ],
        ),
        (
            "Is the promise kept",
            [
                _series(
                    "Agreement in audits",
                    "percentunit",
                    (
                        f'sum by (task, stage) (rate({n.AUDITS}{{{TASK}, agrees="true"}}[15m]))'
                        f" / sum by (task, stage) (rate({n.AUDITS}{{{TASK}}}[15m]))",
                        "{{task}} {{stage}}",
                    ),
                ),
                _series(
                    "Drift statistic (log)", "none", (f"max by (task) ({n.DRIFT_STATISTIC}{{{TASK}}})", "{{task}}")
                ),
                _series(
                    "Audited share of live requests, and planned",
                    "percentunit",
                    (
                        f'sum by (task) (rate({n.AUDITS}{{{TASK}, stage="live"}}[15m]))'
                        f' / sum by (task) (rate({n.REQUESTS}{{{TASK}, reason=~"{ESTABLISHED}"}}[15m]))',
                        "{{task}}",
                    ),
                    (f"max by (task) ({n.AUDIT_SHARE}{{{TASK}}})", "{{task}} planned"),
                ),
                _series(
                    "Suspicions of drift per hour, and share of novel texts",
                    "none",
                    (
                        f"sum by (task, kind) (increase({n.DRIFT_SUSPICIONS}{{{TASK}}}[1h]))",
                        "{{task}} {{kind}}",
                    ),
                    (f"max by (task) ({n.NOVEL_SHARE}{{{TASK}}})", "{{task}} novel"),
                ),
            ],
        ),
        (
            "How students come about",
            [
                _series(
                    "Examples recorded per second",
                    "cps",
                    (
                        f"sum by (sample) (rate({n.EXAMPLES_RECORDED}{{{TASK}}}[$__rate_interval]))",
                        "{{sample}}",
                    ),
                ),
                _series(
                    "Trainings and verdicts in an hour",
                    "none",
                    (f"sum by (outcome) (increase({n.TRAINING_JOBS}[1h]))", "training {{outcome}}"),
                    (f"sum by (stage, verdict) (increase({n.GATE_VERDICTS}[1h]))", "{{stage}} {{verdict}}"),
                ),
                _series(
                    "Gates are undecided for",
                    "s",
                    (f"time() - min by (task, stage) ({n.GATE_OPEN_SINCE}{{{TASK}}})", "{{task}} {{stage}}"),
                ),
            ],
        ),
        (
            "Does it keep up",
            [
                _series(
                    "Requests not yet read",
                    "none",
                    (f"sum by (group, topic) ({n.CONSUMER_LAG})", "{{group}} {{topic}}"),
                    (f"sum({n.IN_FLIGHT})", "being answered"),
                ),
                _series(
                    "Dead letters and retries in 15 minutes",
                    "none",
                    (f"sum by (service, reason) (increase({n.DEAD_LETTERS}[15m]))", "{{service}} {{reason}}"),
                    (f"sum by (service, topic) (increase({n.HANDLER_RETRIES}[15m]))", "retries {{service}} {{topic}}"),
                    (f"min by (service, topic) ({n.CONSUMING}) == 0", "stopped {{service}} {{topic}}"),
                ),
                _series(
                    "Repeats that had no effect per second",
                    "cps",
                    (f"sum by (service) (rate({n.DUPLICATES_SUPPRESSED}[$__rate_interval]))", "{{service}}"),
                ),
            ],
        ),
        (
            "What it costs",
            [
                _series(
                    "Spent per hour, by kind",
                    "currencyUSD",
                    (f"sum by (kind) (increase({n.SPENT_USD}{{{TASK}}}[1h]))", "{{kind}}"),
                ),
                _series(
                    "Limits, what is spent of them and set aside",
                    "currencyUSD",
                    (f"max by (task, period) ({n.BUDGET_SPENT_USD}{{{TASK}}})", "{{task}} {{period}}"),
                    (f"max by (task, period) ({n.BUDGET_RESERVED_USD}{{{TASK}}})", "{{task}} {{period}} set aside"),
                    (f"max by (task, period) ({n.BUDGET_LIMIT_USD}{{{TASK}}})", "{{task}} {{period}} limit"),
                ),
                _series(
                    "Teacher calls not made for money, per second",
                    "cps",
                    (
                        f"sum by (task, reason) (rate({n.BUDGET_REFUSED}{{{TASK}}}[$__rate_interval]))",
                        "{{task}} {{reason}}",
                    ),
                ),
                _series(
                    "Drift alarms in a day",
                    "none",
                    (f"sum by (task) (increase({n.DRIFT_ALARMS}{{{TASK}}}[1d]))", "{{task}}"),
                ),
            ],
        ),
    ]


def _series(title: str, unit: str, *queries: Query) -> dict[str, Any]:
    shown = {"defaults": {"unit": unit, "min": 0, "custom": {"fillOpacity": 8, "showPoints": "never"}}, "overrides": []}
    return {
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "fieldConfig": shown,
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": _targets(queries),
    }


def _states(title: str, *queries: Query) -> dict[str, Any]:
    return {
        "type": "stat",
        "title": title,
        "datasource": SOURCE,
        "fieldConfig": {"defaults": {"unit": "none"}, "overrides": []},
        "options": {"textMode": "name", "colorMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}},
        "targets": [target | {"instant": True, "range": False} for target in _targets(queries)],
    }


def _targets(queries: tuple[Query, ...]) -> list[dict[str, Any]]:
    return [
        {"refId": chr(ord("A") + i), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
        for i, (expression, legend) in enumerate(queries)
    ]


def _place(panel: dict[str, Any], x: int, y: int, width: int, height: int) -> dict[str, Any]:
    return panel | {"gridPos": {"x": x, "y": y, "w": width, "h": height}}


def _task_variable() -> dict[str, Any]:
    query = f"label_values({names.REQUESTS}, task)"
    return {
        "name": "task",
        "label": "Task",
        "type": "query",
        "datasource": SOURCE,
        "definition": query,
        "query": {"query": query, "refId": "task"},
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
    }


def _drift_annotation() -> dict[str, Any]:
    return {
        "name": "Drift alarms",
        "datasource": SOURCE,
        "enable": True,
        "iconColor": "red",
        "expr": f"increase({names.DRIFT_ALARMS}{{{TASK}}}[1m]) > 0",
        "titleFormat": "drift of {{task}}",
    }


def text() -> str:
    """What `loop.json` holds."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
