"""What to try after a gate turned a student away. Pure: the same verdict about the same student gives the same remedy.

| what did not hold | remedy |
|---|---|
| the recall of single classes, and nothing else | the same rung, more of the hard label for these classes |
| what it costs, and nothing else | a smaller version of the same rung |
| agreement or coverage | the next rung; after the last one, if it came near, a larger version of it |

A rung has at most `StudentCandidate.variants` other versions in one go; then new examples are waited for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from stillhouse.events import Condition, GateDecided
from stillhouse.tasks import AnyStudent, StudentCandidate, Task
from stillhouse.tasks.conditions import RECALL_GAINED, RECALL_OF
from stillhouse.tasks.students import WIDEST_STATIC

COSTLY: Final = ("pays", "cost", "size", "memory", "latency")  # how names of conditions begin
HARDER: Final = 0.95  # weight of the hard label for classes whose recall was lost; soft ones count T^2 times as much
HALF: Final = 0.5  # of the heads and inner neurons
NEAR_AGREEMENT: Final = 0.05  # below the floor
NEAR_COVERAGE: Final = 0.5  # of the floor

Changes = dict[str, Any]  # fields of `StudentCandidate`, where they differ from the task file's


@dataclass(frozen=True, slots=True)
class Remedy:
    """The rung to train next, with `changes` to what the task file says of it, and why."""

    rung: int
    changes: Changes
    variants: int  # versions of this rung made so far
    why: str


def remedy_for(task: Task, rung: int, changes: Changes, variants: int, event: GateDecided) -> Remedy | None:
    """What to train next; None: nothing on the data at hand."""
    candidate = candidate_with(task.students[rung], changes)
    broken = [c for c in event.conditions if c.verdict == event.verdict]
    may_vary = variants < candidate.variants and isinstance(candidate, StudentCandidate)
    # A student with a recipe of its own has no alpha to change.
    if (
        may_vary
        and isinstance(candidate, StudentCandidate)
        and not candidate.distill
        and broken
        and all(_label(c) for c in broken)
    ):
        rare = [label for c in broken if (label := _label(c)) in task.labels]
        harder = {label: HARDER for label in rare if candidate.class_alpha.get(label, candidate.alpha) < HARDER}
        if harder:
            changed = changes | {"class_alpha": candidate.class_alpha | harder}
            why = f"recall of {', '.join(sorted(harder))} was lost: more of their hard labels"
            return Remedy(rung, changed, variants + 1, why)
    if may_vary and broken and all(c.name.startswith(COSTLY) for c in broken):
        smaller = _resized(candidate, larger=False)
        if smaller:
            return Remedy(rung, changes | smaller, variants + 1, f"it costs too much: smaller, {_words(smaller)}")
    if rung + 1 < len(task.students):
        return Remedy(rung + 1, {}, 0, "the next rung")
    if may_vary and _near(event):
        larger = _resized(candidate, larger=True)
        if larger:
            return Remedy(rung, changes | larger, variants + 1, f"it came near: larger, {_words(larger)}")
    return None


def candidate_with(candidate: AnyStudent, changes: Changes) -> AnyStudent:
    """`candidate` with `changes`. Raises pydantic's `ValidationError` for what a task file could not say either."""
    return type(candidate).model_validate(candidate.model_dump() | changes)


def _label(condition: Condition) -> str | None:
    for prefix in (RECALL_OF, RECALL_GAINED):
        if condition.name.startswith(prefix):
            return condition.name.removeprefix(prefix)
    return None


def _near(event: GateDecided) -> bool:
    """Whether every condition that did not hold was within reach of a somewhat better student."""
    broken = [c for c in event.conditions if c.verdict == event.verdict and not c.name.startswith(COSTLY)]
    return bool(broken) and all(_within_reach(condition) for condition in broken)


def _within_reach(condition: Condition) -> bool:
    if condition.estimate is None or condition.floor is None:
        return False
    if condition.name == "coverage":
        return condition.estimate >= NEAR_COVERAGE * condition.floor
    return condition.estimate >= condition.floor - NEAR_AGREEMENT


def _resized(candidate: AnyStudent, *, larger: bool) -> Changes:
    """What makes the candidate larger or smaller; empty where it is as large or small as can be."""
    if not isinstance(candidate, StudentCandidate):
        return {}
    if candidate.architecture in ("cut_encoder", "joint"):
        if larger and candidate.width < 1.0:
            return {"width": 1.0}
        layers = candidate.layers + (1 if larger else -1)
        if 2 <= layers <= 6 and _may_be(candidate, {"layers": layers}):
            return {"layers": layers}
        # As low as can be: narrower then, once.
        narrower = not larger and candidate.architecture == "cut_encoder" and candidate.width > HALF
        return {"width": HALF} if narrower and _may_be(candidate, {"width": HALF}) else {}
    if candidate.vectors is not None:  # as wide as they are
        return {}
    dim = candidate.dim * 2 if larger else candidate.dim // 2
    widest = 1024 if candidate.architecture == "hashed_ngrams" else WIDEST_STATIC
    dim = min(dim, widest)
    return {"dim": dim} if dim >= 8 and dim != candidate.dim else {}


def _may_be(candidate: StudentCandidate, changes: Changes) -> bool:
    """Whether a task file could say it: terms on hidden layers bind the candidate to layers and heads."""
    try:
        candidate_with(candidate, changes)
    except ValidationError:
        return False
    return True


def _words(changes: Changes) -> str:
    return ", ".join(f"{name} {value}" for name, value in changes.items())
