"""Which recorded answers a person should look at: a function of what was recorded and what waits already.

`random` is a uniform draw from unbiased samples and has precedence, so nothing about a case changes its chance. It is a
hash of the request id with a word of its own: independent of the router's draws, and the same on every look. Only
those cases measure. All others are picked because something about them is special: they teach.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final

from stillhouse.events import ReviewReason, ReviewRequested, follow_id
from stillhouse.store import CaseRow
from stillhouse.tasks import Task

FEWEST_ANSWERS: Final = 200  # before it is known which labels are rare

Row = Mapping[str, Any]
Pick = tuple[Row, str | None]  # an answer, and the student that it was picked for


def draw(task_key: str, request_id: str) -> float:
    """A number in [0, 1) that follows from the request alone."""
    digest = hashlib.sha256(f"review\x00{task_key}\x00{request_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def choose_cases(
    task: Task,
    answers: Sequence[Row],
    audits: Iterable[Row],
    taken: Iterable[Row],
    said: Mapping[str, int],
    suspects: Collection[str],
) -> list[CaseRow]:
    """New cases among `answers`, given the cases that are `taken`.

    `answers` and `audits` have the columns of `Store.answers` and `Store.comparisons`, `taken` those of `Store.cases`.
    `said`: how often the teacher said each label lately. Each reason takes so many cases a day as the task says, by the
    answers' own days (UTC), and no text twice.
    """
    waiting = list(taken)
    known = {row["example_id"] for row in waiting}
    texts = {row["input_sha256"] for row in waiting}
    counts = Counter((row["reason"], _day(row["time"])) for row in waiting)
    new = [row for row in answers if row["example_id"] not in known]
    share = task.review.random_share
    chosen = []
    rest = []
    for row in new:
        unbiased = row["sample"] in ("full", "audit")
        if unbiased and draw(task.key, row["request_id"]) < share:
            chosen.append(_case(task, row, "random", share=share))
            texts.add(row["input_sha256"])
        else:
            rest.append(row)
    by_request: dict[str, list[Row]] = {}
    for audit in audits:
        by_request.setdefault(audit["request_id"], []).append(audit)
    for reason, per_day, candidates in _picks(task, rest, by_request, said, suspects):
        for row, student_id in candidates:
            day = (reason, _day(row["time"]))
            if row["input_sha256"] not in texts and counts[day] < per_day:
                counts[day] += 1
                texts.add(row["input_sha256"])
                chosen.append(_case(task, row, reason, student_id=student_id))
    return chosen


def requested(case: Row) -> ReviewRequested:
    """The event that says that a case waits; said again, it has the same id."""
    return ReviewRequested.model_validate({**case, "id": case["case_id"]})


def _picks(
    task: Task,
    rows: Sequence[Row],
    audits: Mapping[str, Sequence[Row]],
    said: Mapping[str, int],
    suspects: Collection[str],
) -> list[tuple[ReviewReason, int, list[Pick]]]:
    """Reasons in order of precedence, how many a day, and the candidates of each with the student they are about."""
    review, total = task.review, sum(said.values())
    rare = {label for label, count in said.items() if total >= FEWEST_ANSWERS and count < review.rare_below * total}
    policy: list[Pick] = []
    suspect: list[Pick] = []
    seldom: list[Pick] = []
    unsure: list[Pick] = []
    differing: list[tuple[bool, Row, str | None]] = []
    for row in sorted(rows, key=lambda row: draw(task.key, row["request_id"])):  # not the day's first
        if row["provenance"] == "policy":
            policy.append((row, None))
            continue
        if row["output"] in suspects:
            suspect.append((row, None))
        if row["output"] in rare:
            seldom.append((row, None))
        students = [audit for audit in audits.get(row["request_id"], ()) if audit["student_output"] is not None]
        differs = next((audit for audit in students if audit["student_output"] != audit["teacher_output"]), None)
        if differs is not None:
            differing.append((not (differs["would_serve"] and not differs["agrees"]), row, differs["student_id"]))
        sure = [(row["confidence"], None), *((audit["student_confidence"], audit["student_id"]) for audit in students)]
        least, student_id = min(sure, key=lambda pair: 1.0 if pair[0] is None else pair[0])
        if least is not None and least < review.low_confidence:
            unsure.append((row, student_id))
    # What a client was given wrongly comes before what would have been escalated.
    disagreement = [(row, student_id) for _, row, student_id in sorted(differing, key=lambda item: item[0])]
    return [
        ("policy", review.policy_per_day, policy),
        ("suspect_label", review.suspect_label_per_day, suspect),
        ("disagreement", review.disagreement_per_day, disagreement),
        ("rare_class", review.rare_class_per_day, seldom),
        ("low_confidence", review.low_confidence_per_day, unsure),
    ]


def _case(
    task: Task, row: Row, reason: ReviewReason, *, share: float | None = None, student_id: str | None = None
) -> CaseRow:
    return CaseRow(
        case_id=follow_id(row["request_id"], ReviewRequested.TYPE, task.key),
        time=row["time"],
        tenant=task.tenant,
        task=task.name,
        example_id=row["example_id"],
        request_id=row["request_id"],
        input_sha256=row["input_sha256"],
        reason=reason,
        drawn="random" if reason == "random" else "picked",
        share=share,
        student_id=student_id,
    )


def _day(time: datetime) -> date:
    return time.date()
