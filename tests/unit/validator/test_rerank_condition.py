"""The mean quality of rankings as a condition of a gate."""

from __future__ import annotations

import pytest

from services.validator.cases import Outcome
from services.validator.ranking import ranking_condition
from stillhouse.tasks.comparators.items import ranking_score
from stillhouse.tasks.comparators.settings import Ranking
from stillhouse.tasks.conditions import RankingQuality


def cases(n: int, every: int, confidence: float = 0.9) -> list[Outcome]:
    """`n` cases, of which each `every`-th has the teacher's first and second swapped."""
    return [
        Outcome(f"c{i}", "[1,0,2]" if i % every == 0 else "[0,1,2]", confidence, "[0,1,2]", agrees=True)
        for i in range(n)
    ]


def test_reciprocal_rank_is_that_of_the_teachers_first() -> None:
    settings = Ranking(kind="ranking", metric="mrr")
    assert ranking_score(settings, "[1,0,2]", "[0,1,2]") == 0.5
    assert ranking_score(settings, "[0,2,1]", "[0,1,2]") == 1.0
    assert ranking_score(settings, "[1,2]", "[0,1,2]") == 0.0
    assert ranking_score(settings, "[]", "[]") == 1.0


@pytest.mark.parametrize(("every", "verdict"), [(50, "passed"), (2, "failed"), (10, "undecided")])
def test_the_mean_reciprocal_rank_is_decided_by_its_floor(every, verdict) -> None:
    found = ranking_condition(RankingQuality(kind="ranking", metric="mrr", floor=0.95), 0.5, cases(600, every), 0.05)
    assert (found.name, found.verdict, found.n) == ("mrr", verdict, 600)
    assert found.estimate == pytest.approx(1 - 0.5 / every)
    assert found.lower <= found.estimate <= found.upper


def test_what_is_escalated_is_the_teachers_own_order() -> None:
    found = ranking_condition(RankingQuality(kind="ranking", floor=0.95), 0.95, cases(400, 2), 0.05)
    assert (found.name, found.verdict, found.estimate) == ("ndcg@10", "passed", 1.0)


def test_without_cases_nothing_is_decided() -> None:
    found = ranking_condition(RankingQuality(kind="ranking"), 0.5, [], 0.05)
    assert (found.verdict, found.estimate, found.lower) == ("undecided", None, None)
    assert found.needs_more > 0
