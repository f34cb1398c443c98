"""Prometheus metrics of every service. Built once per registry, on first use, never at import."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

from stillhouse.telemetry import names

# Seconds. Student calls take about a millisecond, teachers up to tens of seconds.
LATENCY_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
STAGES: Final = ("teacher", "shadow", "canary", "live")
GATE_STAGES: Final = ("offline", "shadow", "canary")


@dataclass(frozen=True, slots=True)
class Metrics:
    """One process's metrics. Field names are the metric names without prefix and `_total`."""

    requests: Counter
    request_latency: Histogram
    model_call: Histogram
    in_flight: Gauge
    dead_letters: Counter
    consuming: Gauge
    handler_retries: Counter
    audits: Counter
    examples_recorded: Counter
    training_jobs: Counter
    gate_verdicts: Counter
    drift_statistic: Gauge
    drift_alarms: Counter
    drift_suspicions: Counter
    novel_share: Gauge
    route_stage: Gauge
    consumer_lag: Gauge
    duplicates_suppressed: Counter
    gate_open_since: Gauge
    audit_share: Gauge
    spent_usd: Counter
    budget_limit_usd: Gauge
    budget_spent_usd: Gauge
    budget_reserved_usd: Gauge
    budget_refused: Counter

    def set_stage(self, task_key: str, stage: str) -> None:
        """Show `stage` as the task's only one. `task_key` is `<tenant>/<task>`."""
        if stage not in STAGES:
            raise ValueError(f"there is no stage {stage!r}; stages are {', '.join(STAGES)}")
        for known in STAGES:
            self.route_stage.labels(task_key, known).set(1.0 if known == stage else 0.0)

    def set_gate(self, task_key: str, stage: str, since: datetime | None) -> None:
        """Show since when a student of the task waits for this gate; None: none does."""
        if stage not in GATE_STAGES:
            raise ValueError(f"there is no gate {stage!r}; gates are {', '.join(GATE_STAGES)}")
        if since is None:
            # Not 0: a gate that is closed has no beginning.
            self.gate_open_since.remove(task_key, stage)
        else:
            self.gate_open_since.labels(task_key, stage).set(since.timestamp())


_built: WeakKeyDictionary[CollectorRegistry, Metrics] = WeakKeyDictionary()
_lock = threading.Lock()


def metrics(registry: CollectorRegistry | None = None) -> Metrics:
    """The metrics of `registry` (default: the process's own); the same object every time."""
    where = registry if registry is not None else REGISTRY
    with _lock:
        found = _built.get(where)
        if found is None:
            found = _built[where] = _build(where)
        return found


def _build(registry: CollectorRegistry) -> Metrics:
    def counter(name: str, text: str, *labels: str) -> Counter:
        return Counter(name.removesuffix("_total"), text, labels, registry=registry)

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=registry)

    def histogram(name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text, labels, registry=registry, buckets=LATENCY_BUCKETS)

    return Metrics(
        requests=counter(names.REQUESTS, "Requests answered.", "task", "served_by", "reason", "status"),
        request_latency=histogram(names.REQUEST_LATENCY, "From the router's receipt to the answer.", "served_by"),
        model_call=histogram(names.MODEL_CALL, "One call of a model, waiting included.", "model_kind"),
        in_flight=gauge(names.IN_FLIGHT, "Requests being answered."),
        dead_letters=counter(names.DEAD_LETTERS, "Records put aside.", "service", "topic", "reason"),
        consuming=gauge(names.CONSUMING, "0 where reading stopped: most records fail.", "service", "topic"),
        handler_retries=counter(names.HANDLER_RETRIES, "Handlers run again after an error.", "service", "topic"),
        audits=counter(names.AUDITS, "Requests answered by both.", "task", "stage", "agrees"),
        examples_recorded=counter(names.EXAMPLES_RECORDED, "Teacher answers stored.", "task", "sample"),
        training_jobs=counter(names.TRAINING_JOBS, "Training jobs ended.", "outcome"),
        gate_verdicts=counter(names.GATE_VERDICTS, "Gates decided.", "stage", "verdict"),
        drift_statistic=gauge(names.DRIFT_STATISTIC, "Log of the e-detector's statistic.", "task"),
        drift_alarms=counter(names.DRIFT_ALARMS, "Drift alarms raised.", "task"),
        drift_suspicions=counter(names.DRIFT_SUSPICIONS, "Suspicions of drift raised.", "task", "kind"),
        novel_share=gauge(names.NOVEL_SHARE, "Share of texts unlike those before the student was live.", "task"),
        route_stage=gauge(names.ROUTE_STAGE, "1 for the stage that the task is in.", "task", "stage"),
        consumer_lag=gauge(names.CONSUMER_LAG, "Records not yet read.", "group", "topic", "partition"),
        duplicates_suppressed=counter(names.DUPLICATES_SUPPRESSED, "Repeats that had no effect.", "service"),
        gate_open_since=gauge(names.GATE_OPEN_SINCE, "Unix time from which a gate is undecided.", "task", "stage"),
        audit_share=gauge(names.AUDIT_SHARE, "Share of live requests to audit now.", "task"),
        spent_usd=counter(names.SPENT_USD, "Ledger entries recorded, by kind.", "task", "kind"),
        budget_limit_usd=gauge(names.BUDGET_LIMIT_USD, "Hard limits; only where there are any.", "task", "period"),
        budget_spent_usd=gauge(names.BUDGET_SPENT_USD, "Spent of a limit in this period.", "task", "period"),
        budget_reserved_usd=gauge(names.BUDGET_RESERVED_USD, "Set aside for calls in flight.", "task", "period"),
        budget_refused=counter(names.BUDGET_REFUSED, "Teacher calls not made for money.", "task", "reason"),
    )
