"""What is kept: examples, audits, ledger, route history and verdicts; and the rules for what must not be."""

from stillhouse.store.erasure import Erased
from stillhouse.store.rows import AuditRow, EvaluationRow, ExampleRow, LedgerRow, RouteRow
from stillhouse.store.store import Store

__all__ = ["AuditRow", "Erased", "EvaluationRow", "ExampleRow", "LedgerRow", "RouteRow", "Store"]
