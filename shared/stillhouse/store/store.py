"""The store: examples, audits, ledger, routes, decisions, evaluations and reviews, as Delta tables in one folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillhouse.events import RouteChanged, Sample
from stillhouse.store.erasure import Erased, Erasures, Found, group_mark, request_mark
from stillhouse.store.reviewed import apply_reviews
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
        self._cases = Table(root / "cases", CaseRow)
        self._reviews = Table(root / "reviews", ReviewRow, spread=None)
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

    def append_cases(self, rows: Sequence[CaseRow]) -> set[str]:
        """Ids of the new cases for people. What was erased stays erased."""
        return self._cases.append(rows, keep=self._erasures.spares)

    def append_reviews(self, rows: Sequence[ReviewRow], *, transaction: Transaction | None = None) -> set[str]:
        """Ids of the new reviews. What was erased stays erased."""
        return self._reviews.append(rows, transaction, keep=self._erasures.spares)

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

    def answers(self, task_key: str, since: datetime) -> pa.Table:
        """Examples later than `since` without their texts, in order of time."""
        columns = ["example_id", "time", "request_id", "input_sha256", "output", "confidence", "sample", "provenance"]
        where = f"{_of(task_key)} AND time > {literal(since)}"
        return self._examples.read(where, [*columns, "teacher_version"]).sort_by(_order("time", "example_id"))

    def examples_named(self, task_key: str, example_ids: Sequence[str], request_ids: Sequence[str] = ()) -> pa.Table:
        """The examples with these ids, and those of these requests, in order of time."""
        named = f"({_among('example_id', example_ids)} OR {_among('request_id', request_ids)})"
        return self._examples.read(f"{_of(task_key)} AND {named}").sort_by(_order("time", "example_id"))

    def comparisons(self, task_key: str, since: datetime) -> pa.Table:
        """Audits later than `since` without their texts, in order of time."""
        columns = ["audit_id", "time", "request_id", "student_id", "teacher_output", "student_output"]
        where = f"{_of(task_key)} AND time > {literal(since)}"
        columns += ["student_confidence", "would_serve", "agrees"]
        return self._audits.read(where, columns).sort_by(_order("time", "audit_id"))

    def reviewed_examples(self, task_key: str, until: datetime | None = None) -> list[dict[str, Any]]:
        """Examples up to `until` as the people's verdicts of that time left them (see `apply_reviews`)."""
        reviews = self.reviews(task_key).to_pylist()
        held = [row for row in reviews if until is None or row["time"] <= until]
        return apply_reviews(self.examples(task_key, until=until).to_pylist(), held)

    def cases(self, task_key: str, since: datetime | None = None) -> pa.Table:
        """Cases for people, of answers later than `since`, in order of time; those that were reviewed too."""
        where = _of(task_key) + (f" AND time > {literal(since)}" if since is not None else "")
        return self._cases.read(where).sort_by(_order("time", "case_id"))

    def reviews(self, task_key: str) -> pa.Table:
        """What people said, in order of time; of several reviews of one text the last one holds."""
        return self._reviews.read(_of(task_key)).sort_by(_order("time", "review_id"))

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

    def find(
        self,
        input_sha256s: Sequence[str] = (),
        *,
        tenant: str = "default",
        requests: Sequence[str] = (),
        groups: Sequence[str] = (),
    ) -> Found:
        """What an erasure with the same arguments would take out of the store."""
        columns = ["tenant", "task", "request_id", "input_sha256"]
        of_groups = _groups(tenant, groups)
        members = [*requests]
        for table in (self._examples, self._audits) if groups else ():
            members += table.read(of_groups, ["request_id"])["request_id"].to_pylist()
        of_people = f"{_inputs(input_sha256s)} OR {_requests(tenant, members)}"
        whose = f"{of_people} OR {of_groups}"
        examples = self._examples.read(whose, ["example_id", *columns]).to_pylist()
        audits = self._audits.read(whose, ["audit_id", *columns]).to_pylist()
        ids = {row["example_id"] for row in examples}
        same_texts = self._examples.read(_inputs(row["input_sha256"] for row in examples), ["example_id", *columns])
        kept = {_text(row) for row in same_texts.to_pylist() if row["example_id"] not in ids}
        return Found(
            rows=Erased(
                examples=len(examples),
                audits=len(audits),
                cases=self._cases.read(of_people, ["case_id"]).num_rows,
                reviews=self._reviews.read(of_people, ["review_id"]).num_rows,
            ),
            example_ids=frozenset(ids),
            request_ids=frozenset({row["request_id"] for row in (*examples, *audits)} | set(members)),
            input_sha256s=frozenset({sha for _, _, sha in set(map(_text, examples)) - kept} | set(input_sha256s)),
        )

    def erase(
        self,
        input_sha256s: Sequence[str] = (),
        *,
        tenant: str = "default",
        requests: Sequence[str] = (),
        groups: Sequence[str] = (),
    ) -> Erased:
        """Take texts, or a tenant's requests or groups, out for good: their rows, and the files that held them.

        What was erased is noted first, so an interrupted erasure is finished by calling it again, and replays bring
        nothing back. A later request with the same text or group is a new one, and is recorded; a request that was
        erased never is. `groups` are given as they are stored (`redaction.stored_group`). Texts are erased whoever sent
        them.
        """
        with self._examples.exclusive():
            found = self.find((), tenant=tenant, groups=groups) if groups else None
            request_ids = sorted({*requests, *(found.request_ids if found else ())})
            marks = [request_mark(tenant, request_id) for request_id in request_ids]
            marks += [group_mark(tenant, group) for group in groups]
            hashes = self._erasures.add(input_sha256s, marks)
        if not hashes and not marks:
            return Erased(0, 0)
        of_people = f"{_inputs(hashes)} OR {_requests(tenant, request_ids)}"
        whose = f"{of_people} OR {_groups(tenant, groups)}"
        # Examples last: until they are gone, whoever repeats an interrupted erasure finds what belongs to them.
        reviews, cases = self._reviews.delete(of_people), self._cases.delete(of_people)
        audits = self._audits.delete(whose)
        return Erased(examples=self._examples.delete(whose), audits=audits, cases=cases, reviews=reviews)

    def erased(self) -> dict[str, datetime]:
        """Erased inputs and when: students whose dataset holds one, frozen before, were trained on it."""
        return {mark: time for mark, time in self._erasures.all().items() if ":" not in mark}


def _split(task_key: str) -> tuple[str, str]:
    tenant, slash, task = task_key.partition("/")
    if not (tenant and slash and task):
        raise ValueError(f"{task_key!r} names no task: write <tenant>/<task>, for example default/intents.")
    return tenant, task


def _of(task_key: str) -> str:
    tenant, task = _split(task_key)
    return f"tenant = {literal(tenant)} AND task = {literal(task)}"


def _text(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["tenant"], row["task"], row["input_sha256"]


def _inputs(input_sha256s: Iterable[str]) -> str:
    return _among("input_sha256", input_sha256s)


def _requests(tenant: str, request_ids: Iterable[str]) -> str:
    return f"(tenant = {literal(tenant)} AND {_among('request_id', request_ids)})"


def _groups(tenant: str, groups: Iterable[str]) -> str:
    quoted = _among('"group"', groups)  # a word of SQL
    return f"(tenant = {literal(tenant)} AND {quoted})"


def _among(column: str, values: Iterable[str]) -> str:
    listed = ", ".join(map(literal, sorted(set(values))))
    return f"{column} IN ({listed})" if listed else "false"


def _order(*columns: str) -> list[tuple[str, str]]:
    return [(column, "ascending") for column in columns]
