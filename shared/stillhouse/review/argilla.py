"""Argilla 2: the JSON file that `Dataset.records.to_json` writes and `Dataset.records.from_json` reads.

The dataset needs a field `text`, a label question `label` and, where they are wanted, a label question `flag` with the
one label `flag` and a text question `note`, neither of them required. The teacher's answer stands as a suggestion.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from stillhouse.review.queue import Case, Said


def dump(cases: Sequence[Case], *, blind: bool) -> str:
    """The cases as records without responses."""
    records = []
    for case in cases:
        suggestion = {"value": case.teacher_output, "score": case.confidence, "agent": case.teacher_version}
        records.append(
            {
                "id": case.case_id,
                "fields": {"text": case.text},
                "metadata": {"task": f"{case.tenant}/{case.task}", "reason": case.reason},
                "suggestions": {} if blind else {"label": suggestion},
                "responses": {},
                "vectors": {},
                "status": "pending",
                "_server_id": None,
            }
        )
    return json.dumps(records, ensure_ascii=False, indent=1)


def load(records: Sequence[Any]) -> list[Said]:
    """What people said, each person's responses to a record together. Raises `ValueError` naming the record."""
    found = []
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict) or not isinstance(record.get("id"), str):
            raise ValueError(f"record {number} has no `id`")
        by_user: dict[str, dict[str, str]] = {}
        for question, responses in (record.get("responses") or {}).items():
            for response in responses or ():
                value = response.get("value")
                value = value[0] if isinstance(value, list) and len(value) == 1 else value
                if isinstance(value, str) and response.get("status") in (None, "submitted"):
                    by_user.setdefault(str(response.get("user_id")), {})[question] = value
        for user, answers in by_user.items():
            flagged = "flag" in answers
            if flagged or "label" in answers:
                found.append(
                    Said(
                        case_id=record["id"],
                        label=None if flagged else answers["label"],
                        verdict="flag" if flagged else None,
                        reviewer=f"argilla:{user}",
                        note=answers.get("note", ""),
                    )
                )
    return found
