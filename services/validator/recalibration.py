"""Moving a live student's threshold: only on its own audits, and only to where they certify the promise. Pure.

Each round takes the next `recalibrate_every` audits of the live student, once. The order in which thresholds are tried
is fixed on earlier cases, so the walk needs no correction for its length; rounds share the student's alpha as students
share the task's: alpha / (k (k + 1)) in round k. Where the task has groups, each group known before gets an even
part of the round's share, and a threshold of its own where its audits certify one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from stillhouse.events import StudentRoute
from stillhouse.quality import SERVE_NOTHING, Threshold, alpha_share, certify_fixed, walk_of
from stillhouse.quality.agreement import exact
from stillhouse.tasks import Task

WORTH_MOVING: Final = 0.01  # of coverage: smaller changes are left alone
FEWEST_EARLIER: Final = 50  # cases without which no walk is laid out
NEVER_SERVED: Final = -math.inf  # a request of a rule, or one that the student failed: the teacher's, whatever happens


@dataclass(frozen=True, slots=True)
class Case:
    """What a student said of one request, and whether that is what the teacher said."""

    confidence: float
    agrees: bool
    group: str | None = None


@dataclass(frozen=True, slots=True)
class Recalibration:
    """One round's outcome: what is certified, over `n` audits, spending `alpha`. `moved`: the route changes."""

    moved: bool
    threshold: float
    n: int
    alpha: float
    reason: str
    group_thresholds: dict[str, float] = field(default_factory=dict)


def case_of(row: Mapping[str, Any], same: Callable[[str, str], bool] = exact) -> Case:
    """A case from an audit in the store; `same` compares the student's answer with the teacher's.

    What the audit itself says will not do: it calls everything agreement that the threshold of then kept back.
    """
    asked = row["student_output"] is not None and not row["policy"]
    agrees = not asked or same(row["student_output"], row["teacher_output"])
    return Case(row["student_confidence"] if asked else NEVER_SERVED, agrees, row["group"])


def recalibrate(
    task: Task, live: StudentRoute, earlier: Sequence[Case], cases: Sequence[Case], number: int
) -> Recalibration:
    """Round `number` (from 1) for the live student, on `cases`; `earlier` are cases that came before all of them."""
    alpha = alpha_share(task.gate.alpha, number)
    groups = sorted({case.group for case in earlier if case.group}) if task.cascade.groups else []
    share = alpha / (1 + len(groups))
    found = _certify(task, earlier, cases, share)
    threshold, said = _moved(task, live.threshold, cases, found)
    certified = dict(live.group_thresholds)  # what an earlier round certified holds on
    for group in groups:
        own = [[case for case in part if case.group == group] for part in (earlier, cases)]
        of_group = _certify(task, own[0], own[1], share)
        if of_group is not None:
            before = live.group_thresholds.get(group, threshold)
            certified[group], _ = _moved(task, before, own[1], of_group)
    if groups:
        said += f"; {len(certified)} of {len(groups)} groups have thresholds of their own"
    moved = threshold != live.threshold or (bool(groups) and certified != live.group_thresholds)
    return Recalibration(moved, threshold, len(cases), alpha, said, certified)


def unproven(task: Task) -> float | None:
    """The threshold of groups that have none of their own; None: the student's."""
    return SERVE_NOTHING if task.cascade.groups and task.cascade.unproven_group == "teacher" else None


def _certify(task: Task, earlier: Sequence[Case], cases: Sequence[Case], delta: float) -> Threshold | None:
    seen = [case for case in earlier if case.confidence != NEVER_SERVED]
    if len(seen) < FEWEST_EARLIER or not cases:
        return None
    selective = task.cascade.selective
    walk = walk_of(*_columns(seen), len(cases), delta, selective=selective)
    return certify_fixed(*_columns(cases), task.gate.epsilon, delta, walk, selective=selective)


def _moved(task: Task, now: float, cases: Sequence[Case], found: Threshold | None) -> tuple[float, str]:
    """The threshold after this round, and why. A stricter one only where the present one looks too loose."""
    confidence, agrees = _columns(cases)
    served = confidence >= now
    base = max(1, int(served.sum()) if task.cascade.selective else len(cases))
    risk, coverage = float((served & ~agrees).sum()) / base, float(served.mean()) if cases else 0.0
    if found is None:
        return now, f"nothing is certified on {len(cases)} audits; the threshold stays at {now:.4f}"
    shown = (
        f"{found.value:.4f} is certified on {len(cases)} audits: risk {found.risk:.4f}, coverage {found.coverage:.3f}"
    )
    looser = found.value < now and found.coverage >= coverage + WORTH_MOVING
    stricter = found.value > now and risk > task.gate.epsilon
    if not looser and not stricter:
        return now, f"the threshold stays at {now:.4f}, with risk {risk:.4f} and coverage {coverage:.3f}; {shown}"
    return found.value, f"{shown}; it was {now:.4f} with risk {risk:.4f} and coverage {coverage:.3f}"


def _columns(cases: Sequence[Case]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    return np.array([case.confidence for case in cases]), np.array([case.agrees for case in cases], dtype=bool)
