"""The store: examples, audits, ledger, routes, decisions and evaluations, as Delta tables under one folder."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from stillhouse.events import RouteChanged, Sample
from stillhouse.store.erasure import Erased, Erasures
from stillhouse.store.rows import AuditRow, DecisionRow, EvaluationRow, ExampleRow, LedgerRow, RouteRow
from stillhouse.store.tables import Table, Transaction, literal

if TYPE_CHECKING:
    import pyarrow as pa


class Store:
    """The tables under `root`. Creating it touches nothing; every method blocks (use `asyncio.to_thread`).

    Safe for several threads and processes. `append_*` may be called with rows that are there already: they give the
    ids of those that were not. Examples, audits and ledger entries with one id may be up to 10 minutes apart (an audit
    holds a teacher's answer that its request's own answer held before), all other rows any time. `transaction` names
    the application and version of the whole batch (see `Table.append`). Reads give typed columns also where nothing was
    ever written. A `task_key` is `<tenant>/<task>`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._examples = Table(root / "examples", ExampleRow)
        self._audits = Table(root / "audits", AuditRow)
        self._ledger = Table(root / "ledger", LedgerRow)
        self._routes = Table(root / "routes", RouteRow, spread=None)
        self._evaluations = Table(root / "evaluations", EvaluationRow, spread=None)
        self._decisions = Table(root / "decisions", DecisionRow, spread=None)
        self._erasures = Erasures(root / "erased.json")

    def append_examples(self, rows: Sequence[ExampleRow], *, transaction: Transaction | None = None) -> set[str]:
        """Ids of the new examples. Inputs erased after a row's time stay erased, however often the log replays it."""
        return self._examples.append(rows, transaction, keep=self._erasures.spares)

    def append_audits(self, rows: Sequence[AuditRow], *, transaction: Transaction | None = None) -> set[str]:
        """Ids of the new audits. Inputs erased after a row's time stay erased."""
        return self._audits.append(rows, transaction, keep=self._erasures.spares)

    def append_ledger(self, rows: Sequence[LedgerRow], *, transaction: Transaction | None = None) -> set[str]:
        """Ids of the new entries."""
        return self._ledger.append(rows, transaction)

    def append_routes(self, rows: Sequence[RouteRow], *, transaction: Transaction | None = None) -> set[str]:
        """Ids of the new versions."""
        return self._routes.append(rows, transaction)

    def append_evaluations(self, rows: Sequence[EvaluationRow], *, transaction: Transaction | None = None) -> set[str]:
        """Ids of the new verdicts."""
        return self._evaluations.append(rows, transaction)

    def append_decisions(self, rows: Sequence[DecisionRow], *, transaction: Transaction | None = None) -> set[str]:
        """Ids of the new decisions."""
        return self._decisions.append(rows, transaction)

    def examples(
        self,
        task_key: str,
        since: datetime | None = None,
        until: datetime | None = None,
        samples: Sequence[Sample] | None = None,
        limit: int | None = None,
    ) -> pa.Table:
        """Examples with since < time <= until, in order of time; the first `limit` of them."""
        where = _of(task_key)
        if since is not None:
            where += f" AND time > {literal(since)}"
        if until is not None:
            where += f" AND time <= {literal(until)}"
        if samples is not None:
            where += f" AND sample IN ({', '.join(map(literal, samples))})" if samples else " AND false"
        return self._examples.read(where).sort_by(_order("time", "example_id")).slice(0, limit)

    def count_examples(self, task_key: str, since: datetime | None = None) -> int:
        """How many examples are later than `since`. Cheap: mostly from the files' statistics."""
        tenant, task = _split(task_key)
        return self._examples.count(tenant, task, since)

    def audits(self, task_key: str, student_id: str | None = None) -> pa.Table:
        """Audits (of one student) in order of time, with `input_sha256` as a further column."""
        where = _of(task_key) + (f" AND student_id = {literal(student_id)}" if student_id is not None else "")
        return self._audits.read(where).sort_by(_order("time", "audit_id"))

    def ledger(self, task_key: str | None = None, since: datetime | None = None) -> pa.Table:
        """Ledger entries later than `since`, of all tasks unless one is named, in order of time."""
        conditions = [_of(task_key)] if task_key is not None else []
        conditions += [f"time > {literal(since)}"] if since is not None else []
        return self._ledger.read(" AND ".join(conditions) or "true").sort_by(_order("time", "entry_id"))

    def count_ledger(self, task_key: str, since: datetime) -> int:
        """How many entries are later than `since`. Cheap, as `count_examples`."""
        tenant, task = _split(task_key)
        return self._ledger.count(tenant, task, since)

    def spent(self, task_key: str, since: datetime, until: datetime) -> float:
        """USD spent at or after `since` and before `until`, read a day at a time.

        What applications paid to their own teachers (purpose `observe`) is not spent here.
        """
        import pyarrow.compute as pc

        total, begin = 0.0, since
        while begin < until:
            end = min(until, begin + timedelta(days=1))
            where = f"{_of(task_key)} AND time >= {literal(begin)} AND time < {literal(end)} AND purpose <> 'observe'"
            total += pc.sum(self._ledger.read(where, ["usd"])["usd"]).as_py() or 0.0
            begin = end
        return total

    def evaluations(self, task_key: str) -> pa.Table:
        """Verdicts in order of time."""
        return self._evaluations.read(_of(task_key)).sort_by(_order("time", "evaluation_id"))

    def decisions(self, task_key: str) -> pa.Table:
        """What was decided about a task, in order of time."""
        return self._decisions.read(_of(task_key)).sort_by(_order("time", "event_id"))

    def routes(self, task_key: str) -> pa.Table:
        """The history of a task's route, in order of version."""
        return self._routes.read(_of(task_key)).sort_by(_order("version", "time"))

    def latest_routes(self) -> list[RouteChanged]:
        """The newest version of each task's route, sorted by task key."""
        rows = self._routes.read("true", ["tenant", "task", "version", "time", "event"])
        newest = {(row["tenant"], row["task"]): row for row in rows.sort_by(_order("version", "time")).to_pylist()}
        return [RouteChanged.model_validate_json(newest[key]["event"]) for key in sorted(newest)]

    def erase(self, input_sha256s: Sequence[str]) -> Erased:
        """Take inputs out of examples and audits for good: their rows, and the files that held them.

        What was erased is noted first, so an interrupted erasure is finished by calling it again, and replays bring
        nothing back. A later request with the same text is a new one, and is recorded.
        """
        with self._examples.exclusive():
            hashes = self._erasures.add(input_sha256s)
        if not hashes:
            return Erased(0, 0)
        where = f"input_sha256 IN ({', '.join(map(literal, hashes))})"
        return Erased(examples=self._examples.delete(where), audits=self._audits.delete(where))

    def erased(self) -> dict[str, datetime]:
        """Erased inputs and when: students whose dataset holds one, frozen before, were trained on it."""
        return dict(self._erasures.all())


def _split(task_key: str) -> tuple[str, str]:
    tenant, slash, task = task_key.partition("/")
    if not (tenant and slash and task):
        raise ValueError(f"{task_key!r} names no task: write <tenant>/<task>, for example default/intents.")
    return tenant, task


def _of(task_key: str) -> str:
    tenant, task = _split(task_key)
    return f"tenant = {literal(tenant)} AND task = {literal(task)}"


def _order(*columns: str) -> list[tuple[str, str]]:
    return [(column, "ascending") for column in columns]
