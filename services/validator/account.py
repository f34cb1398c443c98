"""The alpha account of a task: every student judged spends a share, and all shares together are the task's alpha."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from stillhouse.quality.alpha import alpha_share


def place(judged: Iterable[tuple[str, datetime]], student_id: str) -> int:
    """k of `student_id`: the k-th distinct student judged for its task, k >= 1.

    `judged` are (student id, time) of the evaluations so far, in any order and with repeats. A student that was judged
    before keeps its k, so that looking again costs nothing: its test is anytime-valid.
    """
    first: dict[str, datetime] = {}
    for name, time in judged:
        first[name] = min(time, first.get(name, time))
    order = sorted(first, key=lambda name: (first[name], name))
    return order.index(student_id) + 1 if student_id in first else len(order) + 1


def share(alpha: float, judged: Iterable[tuple[str, datetime]], student_id: str) -> tuple[int, float]:
    """(k, alpha/(k(k+1))) of `student_id`; the shares of k = 1, 2, ... add up to `alpha`."""
    k = place(judged, student_id)
    return k, alpha_share(alpha, k)


def spent(
    evaluations: Iterable[Mapping[str, Any]], student_id: str, alpha: float, verdict: str
) -> list[dict[str, Any]]:
    """Who spent what of the account at the offline gate: student, alpha and newest verdict, in the account's order.

    `evaluations` are rows of the store in order of time; `student_id` is judged now, with `alpha` and `verdict`.
    """
    entries: dict[str, dict[str, Any]] = {}
    for row in evaluations:
        if row["stage"] == "offline":
            entries[row["student_id"]] = {name: row[name] for name in ("student_id", "alpha", "verdict")}
    entries[student_id] = {"student_id": student_id, "alpha": alpha, "verdict": verdict}
    return list(entries.values())
