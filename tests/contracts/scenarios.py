"""For each alert: a day on which it must fire, from when, and for what."""

from __future__ import annotations

from dataclasses import dataclass, field

from stillhouse.telemetry.metrics import Metrics
from tests.contracts.recording import START, TASK, Minute, answer, healthy


@dataclass(frozen=True, slots=True, eq=False)
class Scenario:
    """`alert` must not fire at minutes `quiet`, and must at `fires`, with `labels`."""

    alert: str
    live: Minute
    quiet: tuple[int, ...]
    fires: tuple[int, ...]
    labels: dict[str, str] = field(default_factory=dict)
    name: str = ""

    def __str__(self) -> str:
        return self.name or self.alert


def drift(m: Metrics, minute: int) -> None:
    if minute == 0:
        m.drift_alarms.labels(TASK)
    if minute == 10:
        m.drift_alarms.labels(TASK).inc()


def suspicion(m: Metrics, minute: int) -> None:
    if minute == 0:
        m.drift_suspicions.labels(TASK, "inputs")
        m.drift_suspicions.labels(TASK, "latency")
    if minute == 10:
        m.drift_suspicions.labels(TASK, "inputs").inc()


def lag(m: Metrics, minute: int) -> None:
    answer(m, "no_student", 120)
    m.consumer_lag.labels("router.intake", "inference.requested", "0").set(0 if minute < 10 else 90)
    m.consumer_lag.labels("router.intake", "inference.requested", "1").set(0 if minute < 10 else 90)


def nobody_reads(m: Metrics, minute: int) -> None:
    if minute < 10:
        m.consumer_lag.labels("router.intake", "inference.requested", "0").set(0)
    elif minute == 10:
        m.consumer_lag.remove("router.intake", "inference.requested", "0")


def teacher_fails(m: Metrics, minute: int) -> None:
    answer(m, "no_student", 100)
    answer(m, "teacher_failed", 1, "error")
    if minute >= 10:
        answer(m, "deadline", 9, "error")


def student_fails(m: Metrics, minute: int) -> None:
    answer(m, "student", 60)
    answer(m, "below_threshold", 40)
    if minute >= 20:
        answer(m, "student_failed", 3)


def gate_waits(m: Metrics, minute: int) -> None:
    if minute == 0:
        m.set_gate(TASK, "canary", START)
    if minute == 1460:
        m.set_gate(TASK, "canary", None)


def training_fails(m: Metrics, minute: int) -> None:
    if minute == 0:
        m.training_jobs.labels("failed")
    if minute == 10:
        m.training_jobs.labels("failed").inc()


def dead_letter(m: Metrics, minute: int) -> None:
    if minute in (10, 60):  # the first of its kind, and a second
        m.dead_letters.labels("observer", "inference.completed", "bad_record").inc()


def stops_reading(m: Metrics, minute: int) -> None:
    m.consuming.labels("observer", "inference.completed").set(0 if 10 <= minute < 20 and minute != 15 else 1)


def spends(m: Metrics, minute: int) -> None:
    m.budget_limit_usd.labels(TASK, "day").set(10.0)
    m.budget_limit_usd.labels(TASK, "month").set(1000.0)
    for period in ("day", "month"):
        m.budget_spent_usd.labels(TASK, period).set(min(10.0, 0.1 * minute))


def audits_stop(m: Metrics, minute: int) -> None:
    healthy(m, min(minute, 61))
    if minute >= 150:  # healthy() counted its audits; from here on most of what it promised is missing
        answer(m, "student", 500)


def audits_never_begin(m: Metrics, minute: int) -> None:
    if minute == 0:
        m.audit_share.labels(TASK).set(0.1)
        m.audits.labels(TASK, "live", "true")
        m.set_stage(TASK, "live")
    answer(m, "student", 100)


SCENARIOS = (
    Scenario("DriftDetected", drift, (9, 75), (10, 40), {"task": TASK}),
    Scenario("DriftSuspected", suspicion, (9, 75), (10, 40), {"task": TASK, "kind": "inputs"}),
    Scenario("RouterLag", lag, (9, 11), (12, 30)),
    Scenario("RouterLag", nobody_reads, (9, 11), (20,), {"group": "router.intake"}, "RouterLag, nobody reads"),
    Scenario("TeacherFailing", teacher_fails, (9,), (20,), {"task": TASK}),
    Scenario("StudentFailing", student_fails, (19, 22), (35,), {"task": TASK}),
    Scenario("GateUndecided", gate_waits, (1440, 1465), (1446, 1459), {"task": TASK, "stage": "canary"}),
    Scenario("TrainingFailing", training_fails, (9, 380), (10, 300)),
    Scenario("DeadLetters", dead_letter, (9, 40, 90), (10, 20, 60), {"service": "observer"}),
    Scenario(
        "ConsumptionStopped",
        stops_reading,
        (9, 30),
        (10, 15, 19, 23),
        {"service": "observer", "topic": "inference.completed"},
    ),
    Scenario("BudgetNearlySpent", spends, (80,), (90,), {"task": TASK, "period": "day"}),
    Scenario("AuditRateBelowPlan", audits_stop, (149, 200), (260,), {"task": TASK}),
    Scenario(
        "AuditRateBelowPlan", audits_never_begin, (50,), (130,), {"task": TASK}, "AuditRateBelowPlan, never any audit"
    ),
)
