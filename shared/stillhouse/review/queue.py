"""Cases with their texts, and what becomes of a verdict."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from stillhouse.events import (
    Drawn,
    ExampleReviewed,
    ReviewReason,
    ReviewRequested,
    ReviewResolved,
    ReviewVerdict,
    follow_id,
)
from stillhouse.store import Store
from stillhouse.store.redaction import redact

Review = Mapping[str, Any]  # a row of the store's reviews


@dataclass(frozen=True, slots=True)
class Case:
    """An answer for a person to judge. `text` is redacted; students' answers are those of its audits."""

    case_id: str
    time: datetime
    tenant: str
    task: str
    example_id: str
    request_id: str
    input_sha256: str
    reason: ReviewReason
    drawn: Drawn
    text: str
    teacher_output: str
    confidence: float
    teacher_version: str
    student_outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Said:
    """What a person said about a case. `label` alone approves or corrects, by what the teacher said."""

    case_id: str
    label: str | None = None
    verdict: ReviewVerdict | None = None
    reviewer: str | None = None
    minutes: float | None = None
    note: str = ""
    time: datetime | None = None


def waiting(store: Store, task_key: str, keep_days: int, reviewed: Collection[str]) -> list[Case]:
    """Cases that no review in `reviewed` (case ids) or in the store is about, in the order to be looked at. Blocking.

    Random ones first, by hash and not by age: where people do not get through them, what they looked at is still a
    uniform sample. Then the newest. A case whose text was erased waits no more.
    """
    since = datetime.now(UTC) - timedelta(days=keep_days)
    done = set(store.reviews(task_key)["case_id"].to_pylist()) | set(reviewed)
    rows = [row for row in store.cases(task_key, since).to_pylist() if row["case_id"] not in done]
    cases = _with_texts(store, task_key, rows)
    random = sorted((case for case in cases if case.drawn == "random"), key=lambda case: _shuffled(case.case_id))
    picked = sorted((case for case in cases if case.drawn == "picked"), key=lambda case: case.time, reverse=True)
    return random + picked


def cases_named(store: Store, task_key: str, case_ids: Collection[str]) -> dict[str, Case]:
    """Those of the cases that are in the queue of a task, reviewed or not, by id. Blocking."""
    rows = [row for row in store.cases(task_key).to_pylist() if row["case_id"] in case_ids]
    return {case.case_id: case for case in _with_texts(store, task_key, rows)}


def find_case(store: Store, task_keys: Sequence[str], name: str) -> Case:
    """The case whose id is or begins with `name`; or, outside of the queue, the answer to the request of that id.

    Raises `LookupError` with a sentence. Blocking.
    """
    found: list[Case] = []
    for key in task_keys:
        rows = store.cases(key).to_pylist()
        exact = [row for row in rows if name in (row["case_id"], row["request_id"], row["example_id"])]
        rows = exact or [row for row in rows if len(name) >= 4 and row["case_id"].startswith(name)]
        found += _with_texts(store, key, rows)
        if not rows:
            found += _asked(store, key, name)
    if not found:
        raise LookupError(f"No answer waits under {name!r}, and no request has that id; it may have been erased.")
    if len(found) > 1:
        raise LookupError(f"{name!r} begins the ids of {len(found)} cases; give more of it, or --task.")
    return found[0]


def verdict_events(
    case: Case, said: Said, reviewer: str, history: Sequence[Review]
) -> tuple[ExampleReviewed, ReviewResolved] | None:
    """What a verdict has everybody know; None where this person said so already. `history`: reviews of this case.

    The ids follow from case, person, verdict and what was said before, so that a command or file that is repeated after
    a crash says the same again. A time in the future counts as now. Raises `ValueError` for a verdict without label.
    """
    verdict, label = said.verdict, said.label
    if verdict == "approve":
        label = case.teacher_output
    elif verdict != "flag":
        if not label:
            raise ValueError("a correction needs the label that is right")
        verdict = "approve" if label == case.teacher_output else "correct"
    if verdict == "flag":
        label = None
    now = datetime.now(UTC)
    time = min(said.time, now) if said.time is not None else None
    before = sorted(history, key=lambda row: (row["time"], row["review_id"]))
    mine = [row for row in before if row["reviewer"] == reviewer]
    same = [row for row in mine if (row["verdict"], row["label"]) == (verdict, label)]
    if any(row["time"] == time for row in same) if time is not None else bool(same and same[-1] is mine[-1]):
        return None
    after = time.isoformat() if time is not None else before[-1]["review_id"] if before else ""
    subject = "\n".join((reviewer, verdict, label or "", after))
    fields: dict[str, Any] = {
        "time": time or now,
        "tenant": case.tenant,
        "task": case.task,
        "case_id": case.case_id,
        "example_id": case.example_id,
        "request_id": case.request_id,
        "reason": case.reason,
        "drawn": case.drawn,
        "reviewer": reviewer,
        "verdict": verdict,
        "label": label,
        "previous_label": case.teacher_output,
        "minutes": said.minutes,
    }
    reviewed = ExampleReviewed(
        **fields,
        id=follow_id(case.case_id, ExampleReviewed.TYPE, subject),
        input_sha256=case.input_sha256,
        teacher_version=case.teacher_version,
        note=redact(said.note).text[:1000],
    )
    resolved_id = follow_id(reviewed.id, ReviewResolved.TYPE, case.case_id)
    return reviewed, ReviewResolved(**fields, id=resolved_id, review_id=reviewed.id)


def _with_texts(store: Store, task_key: str, rows: Sequence[Mapping[str, Any]]) -> list[Case]:
    if not rows:
        return []
    named = store.examples_named(task_key, [row["example_id"] for row in rows])
    examples = {example["example_id"]: example for example in named.to_pylist()}
    said: dict[str, list[str]] = {}
    for audit in store.comparisons(task_key, min(row["time"] for row in rows) - timedelta(minutes=10)).to_pylist():
        if audit["student_output"] is not None:
            said.setdefault(audit["request_id"], []).append(audit["student_output"])
    return [
        Case(
            **{name: row[name] for name in _OF_A_ROW},
            text=example["input"],
            teacher_output=example["output"],
            confidence=example["confidence"],
            teacher_version=example["teacher_version"],
            student_outputs=tuple(said.get(row["request_id"], ())),
        )
        for row in rows
        if (example := examples.get(row["example_id"])) is not None
    ]


_OF_A_ROW = ("case_id", "time", "tenant", "task", "example_id", "request_id", "input_sha256", "reason", "drawn")


def _asked(store: Store, task_key: str, name: str) -> list[Case]:
    """The answer to a request that nobody put into the queue, as a case."""
    rows = []
    for example in store.examples_named(task_key, [name], [name]).to_pylist():
        case_id = follow_id(example["request_id"], ReviewRequested.TYPE, task_key)
        rows.append({**example, "case_id": case_id, "reason": "asked", "drawn": "picked"})
    return _with_texts(store, task_key, rows)


def _shuffled(case_id: str) -> bytes:
    return hashlib.sha256(case_id.encode()).digest()
