"""Metrics as a Prometheus would have recorded them: scraped once a minute from the platform's own metrics."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry

from stillhouse.telemetry.metrics import Metrics, metrics
from tests.contracts.promql import Labels

STEP_S = 60.0
START = datetime.fromtimestamp(0, UTC)
TASK = "default/intents"

Minute = Callable[[Metrics, int], None]


def record(live: Minute, minutes: int) -> dict[Labels, list[tuple[float, float]]]:
    """Run `live` before each of `minutes` + 1 scrapes; the samples by series. Minute 0 is 1970."""
    registry = CollectorRegistry()
    m = metrics(registry)
    series: dict[Labels, list[tuple[float, float]]] = {}
    for minute in range(minutes + 1):
        live(m, minute)
        for family in registry.collect():
            for sample in family.samples:
                if not sample.name.endswith(("_created", "_bucket")):
                    labels = tuple(sorted({**sample.labels, "__name__": sample.name}.items()))
                    series.setdefault(labels, []).append((minute * STEP_S, sample.value))
    return series


def answer(m: Metrics, reason: str, count: int = 1, status: str = "ok") -> None:
    """Requests that were answered for `reason`."""
    by = "nobody" if status == "error" else "student" if reason == "student" else "teacher"
    m.requests.labels(TASK, by, reason, status).inc(count)


def healthy(m: Metrics, minute: int) -> None:
    """A good day, hurried: a student goes live after an hour and is audited as planned."""
    if minute == 0:
        m.drift_alarms.labels(TASK)
        m.drift_suspicions.labels(TASK, "inputs")
        m.audit_share.labels(TASK).set(0.1)
        m.budget_limit_usd.labels(TASK, "day").set(1000.0)
        for agrees in ("true", "false"):
            m.audits.labels(TASK, "live", agrees)
        for outcome in ("trained", "failed"):
            m.training_jobs.labels(outcome)
    m.consumer_lag.labels("router.intake", "inference.requested", "0").set(minute % 7)
    m.spent_usd.labels(TASK, "request").inc(0.1)
    m.budget_spent_usd.labels(TASK, "day").set(0.1 * minute)
    answer(m, "policy", 3)
    if minute < 60:
        m.set_stage(TASK, "teacher")
        answer(m, "no_student", 100)
        return
    if minute == 60:
        m.training_jobs.labels("trained").inc()
        m.set_stage(TASK, "live")
    answer(m, "student", 80)
    answer(m, "below_threshold", 17)
    m.audits.labels(TASK, "live", "true").inc(9)
    m.audits.labels(TASK, "live", "false").inc(1)
