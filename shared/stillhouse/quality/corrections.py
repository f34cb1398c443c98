"""Labels on which a teacher is wrong too often, as people's verdicts on randomly drawn cases prove.

A student copies what its teacher says with confidence, also what is made up. Each label has a test of its own, of
P(a person corrects the teacher | the teacher says this label) <= ceiling, by the anytime-valid mixture e-process of
`stillhouse.quality.eprocess` at alpha divided by the number of labels (Bonferroni): looking after every verdict, the
chance that ever a label is suspected whose true share is at most the ceiling is at most alpha.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stillhouse.quality.eprocess import AgreementTest


def suspect_labels(
    reviews: Iterable[Mapping[str, Any]], *, teacher_version: str, ceiling: float, labels: int, alpha: float = 0.05
) -> set[str]:
    """Labels that the teacher of this version gets wrong more often than `ceiling`, beyond chance.

    `reviews` have the columns of the store's reviews. Only those count that were drawn at random and say whether the
    teacher was right; of several of one case, the last. `labels`: how many the task has. ValueError for a ceiling or
    alpha outside (0, 1), or no label.
    """
    if labels < 1:
        raise ValueError(f"a task with {labels} labels has nothing to suspect; give their number")
    last: dict[str, Mapping[str, Any]] = {}
    for row in sorted(reviews, key=lambda row: (row["time"], row["review_id"])):
        if row["drawn"] == "random" and row["teacher_version"] == teacher_version:
            last.pop(row["case_id"], None)
            last[row["case_id"]] = row
    tests: dict[str, AgreementTest] = {}
    for row in last.values():
        if row["verdict"] != "flag":
            test = tests.setdefault(row["previous_label"], AgreementTest(ceiling, alpha / labels))
            test.update(row["verdict"] == "correct")
    return {label for label, test in tests.items() if test.verdict == "passed"}
