"""What is kept: examples, audits, ledger, route history, verdicts and reviews; and the rules for what must not be."""

from stillhouse.store.erasure import Erased
from stillhouse.store.rows import (
    AuditRow,
    CaseRow,
    DecisionRow,
    EvaluationRow,
    ExampleRow,
    LedgerRow,
    ReviewRow,
    RouteRow,
)
from stillhouse.store.store import Store

__all__ = [
    "AuditRow",
    "CaseRow",
    "DecisionRow",
    "Erased",
    "EvaluationRow",
    "ExampleRow",
    "LedgerRow",
    "ReviewRow",
    "RouteRow",
    "Store",
]
