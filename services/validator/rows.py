"""A verdict as a row of the store's evaluations."""

from __future__ import annotations

import json
from typing import Any

from stillhouse.events import GateDecided
from stillhouse.store.rows import EvaluationRow


def evaluation_row(event: GateDecided, report: dict[str, Any]) -> EvaluationRow:
    """The row of `event`, under its id; `report` is kept as JSON together with the conditions."""
    conditions = [condition.model_dump(mode="json") for condition in event.conditions]
    return EvaluationRow(
        evaluation_id=event.id,
        time=event.time,
        tenant=event.tenant,
        task=event.task,
        student_id=event.student_id,
        stage=event.stage,
        verdict=event.verdict,
        reason=event.reason,
        n=event.n,
        teacher_calls=event.teacher_calls,
        evidence=event.evidence,
        estimate=event.estimate,
        lower=event.lower,
        upper=event.upper,
        alpha=event.alpha,
        threshold=event.threshold,
        coverage=event.coverage,
        needs_more=event.needs_more,
        final=event.final,
        report_json=json.dumps(report | {"conditions": conditions, "report_uri": event.report_uri}),
    )
