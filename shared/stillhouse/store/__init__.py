"""What is kept: examples, audits, ledger, route history and verdicts; and the rules for what must not be."""

from stillhouse.store.erasure import Erased
from stillhouse.store.rows import AuditRow, DecisionRow, EvaluationRow, ExampleRow, LedgerRow, RouteRow
from stillhouse.store.store import Store

__all__ = ["AuditRow", "DecisionRow", "Erased", "EvaluationRow", "ExampleRow", "LedgerRow", "RouteRow", "Store"]
