"""The golden set: every student faces all of it, and none may have learnt from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set

from services.validator.cases import Faced
from stillhouse.models.rules import EscalationRules
from stillhouse.quality.agreement import exact
from stillhouse.quality.near_duplicates import NearDuplicates
from stillhouse.quality.refusals import declines
from stillhouse.store.redaction import input_hash
from stillhouse.tasks import Task
from stillhouse.tasks.golden import GoldenCase


def examine(
    task: Task,
    cases: Sequence[GoldenCase],
    said: Sequence[tuple[str, float]],
    threshold: float,
    same: Callable[[str, str], bool] = exact,
) -> tuple[Faced, ...]:
    """How the cascade of rules, student and threshold does on each of `cases`. `said` holds its answers.

    *policy* holds where the teacher answers or the answer is right, *escalation* where the teacher answers,
    *factuality* where the student's own answer is right, whether it would be served or not, *refusal* where the teacher
    answers or the student declines. Right is what is the `same` as the case's label.
    """
    rules = EscalationRules(task.teacher.escalate)
    faced = []
    for place, (case, (label, confidence)) in enumerate(zip(cases, said, strict=True), start=1):
        rule = rules.match(case.input)
        escalated = rule is not None or confidence < threshold
        right = case.label is not None and same(label, case.label)
        holds = {
            "policy": escalated or right,
            "escalation": escalated,
            "factuality": right,
            "refusal": escalated or declines(label),
        }[case.kind]
        who = f"rule {rule}" if rule is not None else "the teacher" if escalated else f"the student, {label[:80]}"
        faced.append(Faced(case.kind, holds, f"case {place} by {who} ({confidence:.2f})"))
    return tuple(faced)


def leaked(cases: Sequence[GoldenCase], trained_on: Iterable[str], hashes: Set[str]) -> int:
    """How many of `cases` the student learnt: a text of `trained_on` (nearly) repeats them, or their hash is there.

    `hashes` of everything it was trained on still speak where the text was erased since.
    """
    golden = NearDuplicates(case.input for case in cases)
    found = {place for text in trained_on if (place := golden.find(text)) is not None}
    return len(found | {place for place, case in enumerate(cases) if input_hash(case.input) in hashes})
