"""JSON lines: what comes out is a case a line; what comes in adds `label`, or `verdict` (`approve`, `flag`)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from stillhouse.review.queue import Case, Said
from stillhouse.review.times import time_of


def dump(cases: Sequence[Case], *, blind: bool) -> str:
    """The cases, one JSON object a line."""
    lines = []
    for case in cases:
        line: dict[str, Any] = {"id": case.case_id, "task": f"{case.tenant}/{case.task}", "text": case.text}
        line |= {"reason": case.reason, "time": case.time.isoformat()}
        if not blind:
            line |= {"teacher_label": case.teacher_output, "confidence": case.confidence}
            line |= {"student_labels": list(case.student_outputs)}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines)


def load(text: str) -> list[Said]:
    """What people said; lines without label and verdict are unanswered. Raises `ValueError` naming the line."""
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except ValueError:
            raise ValueError(f"line {number} is not JSON") from None
        if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
            raise ValueError(f"line {number} has no `id`; take it from the export")
        verdict, label = entry.get("verdict"), entry.get("label")
        if verdict not in (None, "approve", "correct", "flag"):
            raise ValueError(f"line {number}: there is no verdict {verdict!r}; use approve, correct or flag")
        if verdict is None and not label:
            continue
        try:
            minutes = None if entry.get("minutes") is None else float(entry["minutes"])
        except (TypeError, ValueError):
            raise ValueError(f"line {number}: minutes must be a number") from None
        found.append(
            Said(
                case_id=entry["id"],
                label=None if label is None else str(label),
                verdict=verdict,
                reviewer=entry.get("reviewer"),
                minutes=minutes,
                note=str(entry.get("note") or ""),
                time=time_of(entry.get("reviewed_at")),
            )
        )
    return found
