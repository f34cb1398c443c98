"""Sets and orders of items."""

from __future__ import annotations

import json
import math
from itertools import combinations

from stillhouse.tasks.comparators.settings import Ranking


def items_of(text: str) -> list[str]:
    """The items of a JSON list, or of a text with commas between them; repeats count once, at their first place."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text.split(",")
    found = [str(item).strip() for item in (value if isinstance(value, list) else [value])]
    return list(dict.fromkeys(item for item in found if item))


def f1(student: str, teacher: str) -> float:
    """2 |A and B| / (|A| + |B|); 1 where both are empty."""
    ours, theirs = set(items_of(student)), set(items_of(teacher))
    return 2 * len(ours & theirs) / (len(ours) + len(theirs)) if ours or theirs else 1.0


def ranking_score(settings: Ranking, student: str, teacher: str) -> float:
    """The metric of the student's order against the teacher's; 1 for the same."""
    ours, theirs = items_of(student), items_of(teacher)
    if settings.metric == "mrr":
        return reciprocal_rank(ours, theirs)
    return ndcg(ours, theirs, settings.k) if settings.metric == "ndcg" else kendall(ours, theirs)


def ndcg(ours: list[str], theirs: list[str], k: int | None) -> float:
    """Gains fall from n for the teacher's first item to 1 for its last; items that only we have gain nothing."""
    if not theirs:
        return float(not ours)
    gains = {item: float(len(theirs) - place) for place, item in enumerate(theirs)}
    best = _dcg([gains[item] for item in theirs][:k])
    return _dcg([gains.get(item, 0.0) for item in ours][:k]) / best


def kendall(ours: list[str], theirs: list[str]) -> float:
    """(tau + 1) / 2 over the teacher's items; a pair of which we lack one or both counts as half in order."""
    if len(theirs) < 2:
        return float(ours[: len(theirs)] == theirs)
    place = {item: number for number, item in enumerate(ours)}
    points = 0.0
    for first, second in combinations(theirs, 2):
        if first in place and second in place:
            points += place[first] < place[second]
        else:
            points += 0.5
    return points / math.comb(len(theirs), 2)


def reciprocal_rank(ours: list[str], theirs: list[str]) -> float:
    """One over our rank of the teacher's first item; 0 where we lack it, 1 where neither has any."""
    if not theirs:
        return float(not ours)
    return 1.0 / (ours.index(theirs[0]) + 1) if theirs[0] in ours else 0.0


def _dcg(gains: list[float]) -> float:
    return sum(gain / math.log2(place + 2) for place, gain in enumerate(gains))
