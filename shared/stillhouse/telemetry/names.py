"""Every metric, span and attribute name, in one place: dashboards, alerts and tests are written against these."""

from __future__ import annotations

from typing import Final

# Metrics. Counters are exposed with the suffix `_total` that Prometheus adds; it is written out here.
REQUESTS: Final = "stillhouse_requests_total"
REQUEST_LATENCY: Final = "stillhouse_request_latency_seconds"
MODEL_CALL: Final = "stillhouse_model_call_seconds"
IN_FLIGHT: Final = "stillhouse_in_flight"
DEAD_LETTERS: Final = "stillhouse_dead_letters_total"
CONSUMING: Final = "stillhouse_consuming"
HANDLER_RETRIES: Final = "stillhouse_handler_retries_total"
AUDITS: Final = "stillhouse_audits_total"
EXAMPLES_RECORDED: Final = "stillhouse_examples_recorded_total"
TRAINING_JOBS: Final = "stillhouse_training_jobs_total"
GATE_VERDICTS: Final = "stillhouse_gate_verdicts_total"
DRIFT_STATISTIC: Final = "stillhouse_drift_statistic"
DRIFT_ALARMS: Final = "stillhouse_drift_alarms_total"
DRIFT_SUSPICIONS: Final = "stillhouse_drift_suspicions_total"
NOVEL_SHARE: Final = "stillhouse_novel_share"
ROUTE_STAGE: Final = "stillhouse_route_stage"
CONSUMER_LAG: Final = "stillhouse_consumer_lag"
DUPLICATES_SUPPRESSED: Final = "stillhouse_duplicates_suppressed_total"
GATE_OPEN_SINCE: Final = "stillhouse_gate_open_since_seconds"
AUDIT_SHARE: Final = "stillhouse_audit_share"
SPENT_USD: Final = "stillhouse_spent_usd_total"
BUDGET_LIMIT_USD: Final = "stillhouse_budget_limit_usd"
BUDGET_SPENT_USD: Final = "stillhouse_budget_spent_usd"
BUDGET_RESERVED_USD: Final = "stillhouse_budget_reserved_usd"
BUDGET_REFUSED: Final = "stillhouse_budget_refused_total"

# Spans. One trace runs through all topics of a request and of a student's life.
SPAN_REQUEST: Final = "stillhouse.request"
SPAN_ROUTE: Final = "stillhouse.route"
SPAN_TEACHER_CALL: Final = "stillhouse.model.teacher"
SPAN_STUDENT_CALL: Final = "stillhouse.model.student"
SPAN_AUDIT: Final = "stillhouse.audit"
SPAN_STORE: Final = "stillhouse.store"
SPAN_TRAINING: Final = "stillhouse.training"
SPAN_GATE: Final = "stillhouse.gate"
SPAN_DRIFT: Final = "stillhouse.drift"
SPAN_ROUTE_CHANGE: Final = "stillhouse.route.change"
SPAN_HANDLE: Final = "stillhouse.handle"
SPANS: Final = (
    SPAN_REQUEST,
    SPAN_ROUTE,
    SPAN_TEACHER_CALL,
    SPAN_STUDENT_CALL,
    SPAN_AUDIT,
    SPAN_STORE,
    SPAN_TRAINING,
    SPAN_GATE,
    SPAN_DRIFT,
    SPAN_ROUTE_CHANGE,
    SPAN_HANDLE,
)

# Attributes of spans and fields of logs. None of them ever holds an input, an output's text or a key.
ATTR_TENANT: Final = "stillhouse.tenant"
ATTR_TASK: Final = "stillhouse.task"
ATTR_REQUEST_ID: Final = "stillhouse.request.id"
ATTR_STUDENT_ID: Final = "stillhouse.student.id"
ATTR_JOB_ID: Final = "stillhouse.job.id"
ATTR_STAGE: Final = "stillhouse.stage"
ATTR_SERVED_BY: Final = "stillhouse.served_by"
ATTR_REASON: Final = "stillhouse.reason"
ATTR_VERDICT: Final = "stillhouse.verdict"
ATTR_ROUTE_VERSION: Final = "stillhouse.route.version"
ATTR_AUDITED: Final = "stillhouse.audited"
ATTR_SERVICE: Final = "stillhouse.service"
ATTR_TOPIC: Final = "messaging.destination.name"
ATTR_EVENT_ID: Final = "cloudevents.event_id"
ATTR_EVENT_TYPE: Final = "cloudevents.event_type"
