"""Moving a live student's threshold: only on its own audits, and only to where they certify the promise. Pure.

Each round takes the next `recalibrate_every` audits of the live student, once. The order in which thresholds are tried
is fixed on earlier cases, so the walk needs no correction for its length; rounds share the student's alpha as students
share the task's: alpha / (k (k + 1)) in round k. Where the task has groups, each group known before gets an even
part of the round's share, and a threshold of its own where its audits certify one. Where the task asks for it, a
second threshold, on length, is certified together with the first, by Learn-then-Test.
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
from stillhouse.quality.learn_then_test import certify_rules, p_values, two_thresholds
from stillhouse.tasks import Task

WORTH_MOVING: Final = 0.01  # of coverage: smaller changes are left alone
FEWEST_EARLIER: Final = 50  # cases without which no walk is laid out
STEPS: Final = 40  # of confidence, where there is a length too
LENGTHS: Final = (0.5, 0.75, 0.9, 0.97)  # quantiles of earlier texts; and no limit
ANY_LENGTH: Final = 1 << 30
NEVER_SERVED: Final = -math.inf  # a request of a rule, or one that the student failed: the teacher's, whatever happens


@dataclass(frozen=True, slots=True)
class Case:
    """What a student said of one request, and whether that is what the teacher said."""

    confidence: float
    agrees: bool
    group: str | None = None
    chars: int = 0


@dataclass(frozen=True, slots=True)
class Recalibration:
    """One round's outcome: what is certified, over `n` audits, spending `alpha`. `moved`: the route changes."""

    moved: bool
    threshold: float
    n: int
    alpha: float
    reason: str
    group_thresholds: dict[str, float] = field(default_factory=dict)
    longest: int | None = None


def case_of(row: Mapping[str, Any], same: Callable[[str, str], bool] = exact) -> Case:
    """A case from an audit in the store; `same` compares the student's answer with the teacher's.

    What the audit itself says will not do: it calls everything agreement that the threshold of then kept back.
    """
    asked = row["student_output"] is not None and not row["policy"]
    agrees = not asked or same(row["student_output"], row["teacher_output"])
    return Case(row["student_confidence"] if asked else NEVER_SERVED, agrees, row["group"], len(row["input"]))


def recalibrate(
    task: Task, live: StudentRoute, earlier: Sequence[Case], cases: Sequence[Case], number: int
) -> Recalibration:
    """Round `number` (from 1) for the live student, on `cases`; `earlier` are cases that came before all of them."""
    alpha = alpha_share(task.gate.alpha, number)
    if task.cascade.by_length:
        return _by_length(task, live, earlier, cases, alpha)
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


def _by_length(
    task: Task, live: StudentRoute, earlier: Sequence[Case], cases: Sequence[Case], alpha: float
) -> Recalibration:
    """The pair of confidence and length that serves most of those that `cases` certify.

    Learn-then-Test by a fixed sequence whose order is learned on `earlier` (split fixed sequence testing, Angelopoulos
    et al. 2110.01052): first the pairs that keep the promise most clearly there. It errs with probability `alpha` at
    most, whatever that order is.
    """
    epsilon, selective = task.gate.epsilon, task.cascade.selective
    agrees = _columns(cases)[1]
    now = _served(cases, live.threshold, live.longest)
    base = max(1, int(now.sum()) if selective else len(cases))
    risk, coverage = float((now & ~agrees).sum()) / base, float(now.mean()) if cases else 0.0
    stays = f"confidence {live.threshold:.4f} and {_words(live.longest)} stay, with risk {risk:.4f}"
    seen = [case for case in earlier if case.confidence != NEVER_SERVED]
    best: tuple[float, int | None, float] | None = None  # threshold, longest, coverage
    if len(seen) >= FEWEST_EARLIER and cases:
        walk = walk_of(*_columns(seen), len(cases), alpha, selective=selective, steps=STEPS)
        lengths = np.append(np.unique(np.quantile([case.chars for case in seen], LENGTHS).astype(int)), ANY_LENGTH)
        pairs, before = two_thresholds(_columns(seen)[0], [case.chars for case in seen], walk, lengths)
        trials = before.sum(axis=1) if selective else np.full(len(pairs), len(seen))
        losses = (before & ~_columns(seen)[1]).sum(axis=1)
        order = np.lexsort((-before.sum(axis=1), p_values(losses, trials, epsilon)))
        _, served = two_thresholds(_columns(cases)[0], [case.chars for case in cases], walk, lengths)
        kept = certify_rules(served[order], agrees, epsilon, alpha, selective=selective)
        if kept.any():
            shares = served[order][kept].mean(axis=1)
            t, u = pairs[order][kept][int(shares.argmax())]
            best = (float(t), None if u >= ANY_LENGTH else int(u), float(shares.max()))
    if best is None:
        why = f"nothing is certified on {len(cases)} audits; {stays}"
        return Recalibration(False, live.threshold, len(cases), alpha, why, longest=live.longest)
    shown = f"confidence {best[0]:.4f} and {_words(best[1])} are certified on {len(cases)} audits"
    if best[2] < coverage + WORTH_MOVING and risk <= epsilon:
        return Recalibration(False, live.threshold, len(cases), alpha, f"{stays}; {shown}", longest=live.longest)
    moved = (best[0], best[1]) != (live.threshold, live.longest)
    why = f"{shown}, coverage {best[2]:.3f}; it was {coverage:.3f} with risk {risk:.4f}"
    return Recalibration(moved, best[0], len(cases), alpha, why, longest=best[1])


def _served(cases: Sequence[Case], threshold: float, longest: int | None) -> NDArray[np.bool_]:
    return np.array(
        [case.confidence >= threshold and (longest is None or case.chars <= longest) for case in cases], dtype=bool
    )


def _words(longest: int | None) -> str:
    return "any length" if longest is None else f"at most {longest} characters"


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
