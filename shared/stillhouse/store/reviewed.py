"""Examples as people left them: a person's label wins over the teacher's, and both are kept."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def latest(reviews: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The review that holds for each text, by `input_sha256`: the latest by its own time, whenever it was written."""
    return {row["input_sha256"]: row for row in sorted(reviews, key=lambda row: (row["time"], row["review_id"]))}


def apply_reviews(examples: Sequence[Mapping[str, Any]], reviews: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The examples, each with `teacher_output`, `verdict` and `review_id` (null where nobody looked) besides its own.

    A verdict is about a text: it holds for every example of that text, also for later ones. Approved and corrected
    examples have the person's label as `output` and the provenance `human` (`policy` stays `policy`); where that label
    is not what the teacher said, all probability is the label's. Flagged examples keep the teacher's answer: leaving
    them out is the reader's.
    """
    verdicts = latest(reviews)
    rows = []
    for example in examples:
        row = dict(example) | {"teacher_output": example["output"], "verdict": None, "review_id": None}
        review = verdicts.get(example["input_sha256"])
        if review is not None:
            row |= {"verdict": review["verdict"], "review_id": review["review_id"]}
            if review["verdict"] != "flag" and review["label"] is not None:
                row["output"] = review["label"]
                row["provenance"] = "policy" if example["provenance"] == "policy" else "human"
                if review["label"] != example["output"]:
                    row["distribution"] = json.dumps({review["label"]: 1.0}, ensure_ascii=False)
        rows.append(row)
    return rows
